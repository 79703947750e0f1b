#!/usr/bin/env python3
"""Throughput of a protected guest's move against a plain one, in pairs that alternate, both through two relays.

Plain: two relays that only forward and count. Protected: source side and destination side of soft-csv2, all memory
private. With ``split`` the destination side, platform and all, is a process of its own, as two hosts are. The source is
a stopped VM with random bytes in all its memory; the clock runs from ``migrate`` until the destination says completed.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from relay_throughput import BOUND_S, CHECKOUT, MEMORY_MIB, completed

from harness.confidential.soft.flavour import FLAVOURS
from harness.confidential.soft.host.platform import SoftPlatform
from harness.confidential.soft.processor.guest_context import SendTarget
from harness.confidential.soft.processor.policy import Policy, PolicyFlag
from harness.hosts.machine_probe import find_emulators
from harness.migration.relay import Endpoint, Relay
from harness.migration.sealed.sides import open_destination_side, open_source_side
from harness.model.address_map import AddressMap
from harness.model.deadline import Deadline
from harness.model.guest import RamLayout
from harness.model.machine import MachineSpec
from harness.model.seed import Seed
from harness.vm.features import Features, probe_binary
from harness.vm.keeper import Keeper
from harness.vm.ram_compare import differing_pages
from harness.vm.vm import Vm, start_vm

FLAVOUR = "soft-csv2"
PAIRS = 9
ADDRESSES = AddressMap.of(RamLayout.q35(MEMORY_MIB << 20))


def platform(name: str) -> SoftPlatform:
    return SoftPlatform(FLAVOURS[FLAVOUR], seed=Seed(1), name=name)


async def main(*, split: bool) -> None:
    features = await probe_binary(find_emulators("x86_64", CHECKOUT)[0], deadline=Deadline.after(BOUND_S))
    ratios = []
    with Keeper() as keeper:
        for _ in range(PAIRS):
            plain = await one(keeper, features, plain_chain)
            sealed = await one(keeper, features, split_chain if split else sealed_chain)
            ratios.append(plain / sealed)
            print(
                f"sealed{' split' if split else ''}: none {MEMORY_MIB / plain:6.0f} MiB/s,"
                f" {FLAVOUR} {MEMORY_MIB / sealed:6.0f} MiB/s, ratio {ratios[-1]:.2f}"
            )
    print(f"sealed{' split' if split else ''}: median ratio {statistics.median(ratios):.2f}")


async def one(keeper: Keeper, features: Features, chain: Any) -> float:
    """Seconds that one move takes."""
    spec, deadline = MachineSpec(memory_mib=MEMORY_MIB), Deadline.after(BOUND_S)
    with tempfile.TemporaryDirectory(prefix="cvmig-bench-") as name:
        options: dict[str, Any] = {"artefacts": Path(name), "token": "bench", "keeper": keeper, "deadline": deadline}
        async with (
            start_vm(spec, features, role="src", **options) as source,
            start_vm(spec, features, role="dst", incoming=True, **options) as destination,
        ):
            source.ram.buffer[:] = np.frombuffer(np.random.default_rng(1).bytes(MEMORY_MIB << 20), dtype=np.uint8)
            inbound = Endpoint.unix(Path(name) / "in.sock")
            await prepare(source, destination, inbound, deadline)
            async with chain(source, destination, inbound, Path(name)) as uri:
                loop = asyncio.get_running_loop()
                start = loop.time()
                await source.qmp.execute("migrate", {"uri": uri}, deadline=deadline)
                await completed(destination, deadline)
                seconds = loop.time() - start
            assert not len(differing_pages(source.ram, destination.ram))
            return seconds


async def prepare(source: Vm, destination: Vm, inbound: Endpoint, deadline: Deadline) -> None:
    states = [{"capability": name, "state": True} for name in ("return-path", "events")]
    for vm in (source, destination):
        await vm.qmp.execute("migrate-set-capabilities", {"capabilities": states}, deadline=deadline)
    limits = {"max-bandwidth": 100 << 30, "downtime-limit": 20_000}
    await source.qmp.execute("migrate-set-parameters", limits, deadline=deadline)
    await destination.qmp.execute("migrate-incoming", {"uri": inbound.uri}, deadline=deadline)


@asynccontextmanager
async def plain_chain(_: Vm, __: Vm, inbound: Endpoint, folder: Path) -> AsyncIterator[str]:
    async with (
        Relay(Endpoint.unix(folder / "far.sock"), inbound) as far,
        Relay(Endpoint.unix(folder / "near.sock"), far.listen) as near,
    ):
        yield near.listen.uri


@asynccontextmanager
async def sealed_chain(source: Vm, destination: Vm, inbound: Endpoint, folder: Path) -> AsyncIterator[str]:
    host = platform("destination")
    guest = host.expect(destination.ram.buffer, ADDRESSES, vcpus=1)
    async with AsyncExitStack() as stack:
        far = await stack.enter_async_context(
            open_destination_side(guest, listen=Endpoint.unix(folder / "far.sock"), connect=inbound)
        )
        yield await stack.enter_async_context(near_side(source, host.certificates(), Endpoint.parse(far.uri), folder))


@asynccontextmanager
async def split_chain(source: Vm, _: Vm, inbound: Endpoint, folder: Path) -> AsyncIterator[str]:
    listen = Endpoint.unix(folder / "far.sock")
    command = (sys.executable, __file__, "destination", listen.uri, inbound.uri)
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout
    pdh, chain, vendor = (bytes.fromhex(word) for word in (await child.stdout.readline()).decode().split())
    target = SendTarget(pdh=pdh, platform=chain, vendor=vendor)
    async with near_side(source, target, listen, folder) as uri:
        yield uri
    assert await child.wait() == 0


@asynccontextmanager
async def near_side(source: Vm, target: SendTarget, far: Endpoint, folder: Path) -> AsyncIterator[str]:
    guest = platform("source").launch(source.ram.buffer, ADDRESSES, policy=Policy.of(PolicyFlag.ES), vcpus=1)
    listen = Endpoint.unix(folder / "near.sock")
    async with open_source_side(guest, target, listen=listen, connect=far, seed=Seed(1)) as near:
        yield near.uri
        await near.relay.wait(Deadline.after(BOUND_S))


async def destination_process(listen: str, connect: str) -> None:
    """The whole destination host. Its VM's memory is not needed: nothing is settled where no guest has tables."""
    host = platform("destination")
    guest = host.expect(np.zeros(MEMORY_MIB << 20, dtype=np.uint8), ADDRESSES, vcpus=1)
    near, qemu = Endpoint.parse(listen), Endpoint.parse(connect)
    async with open_destination_side(guest, listen=near, connect=qemu) as far:
        own = host.certificates()
        print(own.pdh.hex(), own.platform.hex(), own.vendor.hex(), flush=True)
        await far.relay.wait(Deadline.after(BOUND_S))
        assert far.refusals() == ()


if __name__ == "__main__":
    if "destination" in sys.argv[1:]:
        asyncio.run(destination_process(*sys.argv[2:]))
    else:
        asyncio.run(main(split="split" in sys.argv[1:]))
