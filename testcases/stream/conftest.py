"""What tests of real streams share: a guest that dirties memory, and moves that are held for some passes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.migration.relay import Endpoint, Relay
from harness.model.machine import TCG_TRIM_KIB, MachineSpec
from harness.model.seed import Seed
from harness.model.wire import WireAccount, WireFault
from harness.vm.ram_compare import differing_pages
from harness.vm.vm import Vm
from testcases.vm.conftest import Lab, keeper, lab, qemu

__all__ = ["keeper", "lab", "qemu"]

GUEST = Path(__file__).parent / "guest" / "dirty.S"
HOT = range(0x200000, 0x1200000, 0x1000)
"""gpas, and ram_addrs, of the pages that the guest rewrites for ever."""
MEMORY_MIB = 64
PASSES = 3


@pytest.fixture(scope="session")
def dirty_guest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the payload."""
    if not (shutil.which("as") and shutil.which("ld")):
        pytest.skip("needs as and ld (binutils)")
    folder = tmp_path_factory.mktemp("guest")
    obj, image = folder / "dirty.o", folder / "dirty.elf"
    subprocess.run(["as", "--32", "-o", obj, GUEST], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext=0x100000", "-nostdlib", "-o", image, obj], check=True)
    return str(image)


async def command(vm: Vm, lab: Lab, name: str, /, **arguments: Any) -> Any:
    return await vm.qmp.execute(
        name, {key.replace("_", "-"): value for key, value in arguments.items()}, deadline=lab.deadline
    )


async def capabilities(vm: Vm, lab: Lab, *names: str) -> None:
    states = [{"capability": name, "state": True} for name in ("events", *names)]
    await command(vm, lab, "migrate-set-capabilities", capabilities=states)


async def ended(vm: Vm, lab: Lab) -> str:
    """The state in which the migration ends. Asked, too, because QEMU 10.0 does not always tell."""
    while True:
        status = (await command(vm, lab, "query-migrate")).get("status", "none")
        if status in {"completed", "failed", "cancelled"}:
            return str(status)
        await asyncio.sleep(0.005)


async def run_guest(vm: Vm, lab: Lab) -> None:
    """Let the guest run until it has written all its pages twice."""
    await command(vm, lab, "cont")
    last = vm.ram.buffer[HOT[-1] : HOT[-1] + 4].view("<u4")
    generation = 0x01000193
    while int(last[0]) not in {HOT[-1] ^ (number * generation) & 0xFFFFFFFF for number in range(2, 4000)}:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def hold(vm: Vm, lab: Lab, uri: str, *, passes: int = PASSES) -> None:
    """Migrate, kept from converging for *passes* passes, then let go."""
    # QEMU knows no bandwidth in the first 100 ms and completes a migration that has nothing left by then, so the first
    # pass, 17 MiB, has to take longer.
    await command(vm, lab, "migrate-set-parameters", max_bandwidth=80 << 20, downtime_limit=1)
    await command(vm, lab, "migrate", uri=uri)
    while True:
        reply = await command(vm, lab, "query-migrate")
        if reply.get("status") not in {"setup", "active", None}:
            return
        if reply.get("ram", {}).get("dirty-sync-count", 0) > passes:
            break
        await asyncio.sleep(0.005)
    await command(vm, lab, "migrate-set-parameters", max_bandwidth=100 << 30, downtime_limit=20_000)


async def capture(vm: Vm, lab: Lab, *, passes: int = 0) -> bytes:
    """The stream of *vm*, taken by nobody but us."""
    received = bytearray()
    done = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            received.extend(data)
        writer.close()
        done.set()

    path = lab.folder / "capture.sock"
    server = await asyncio.start_unix_server(take, path, limit=1 << 22)
    async with server:
        # Nobody here answers on the return path.
        await command(vm, lab, "migrate-set-capabilities", capabilities=[{"capability": "return-path", "state": False}])
        await command(vm, lab, "migrate-set-parameters", max_bandwidth=100 << 30, downtime_limit=20_000)
        if passes:
            await hold(vm, lab, f"unix:{path}", passes=passes)
        else:
            await command(vm, lab, "migrate", uri=f"unix:{path}")
        assert await ended(vm, lab) == "completed"
        await done.wait()
    path.unlink(missing_ok=True)
    return bytes(received)


async def load(vm: Vm, lab: Lab, data: bytes) -> None:
    """Give *data* to a VM that waits for a stream."""
    path = lab.folder / "load.sock"
    await command(vm, lab, "migrate-incoming", uri=f"unix:{path}")
    _, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    await writer.drain()
    writer.close()
    assert await ended(vm, lab) == "completed", vm.last_words


@dataclass(frozen=True)
class Move:
    """What came of a move through the relay, read while both sides stand still."""

    status: str
    account: WireAccount
    differing: list[int]
    """ram_addrs of the pages that differ."""
    source: Vm
    destination: Vm
    relay: Relay


async def move(
    source: Vm, destination: Vm, lab: Lab, faults: Sequence[WireFault] = (), *, extra: Sequence[str] = ()
) -> Move:
    """Move a running guest through the relay; the destination must be started with ``-S``."""
    await asyncio.gather(*(capabilities(vm, lab, "return-path", *extra) for vm in (source, destination)))
    inbound = f"unix:{lab.folder}/in.sock"
    await command(destination, lab, "migrate-incoming", uri=inbound)
    relay = Relay(Endpoint.unix(lab.folder / "relay.sock"), Endpoint.parse(inbound), faults=faults, seed=Seed(11))
    async with relay:
        await hold(source, lab, relay.listen.uri)
        status = await ended(source, lab)
        if status == "completed":
            account = await relay.wait(lab.deadline)
            assert await ended(destination, lab) == "completed"
        else:
            await relay.aclose()
            account = relay.account()
    pages = differing_pages(source.ram, destination.ram).tolist() if status == "completed" else []
    return Move(
        status=status,
        account=account,
        differing=[page << 12 for page in pages],
        source=source,
        destination=destination,
        relay=relay,
    )


def spec(kernel: str = "", **more: Any) -> MachineSpec:
    """Memory is trimmed, or QEMU 7.2 loses a dirty page of one move in some hundreds."""
    return MachineSpec(memory_mib=MEMORY_MIB, kernel=kernel, trim_kib=TCG_TRIM_KIB, **more)
