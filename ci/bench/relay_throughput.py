#!/usr/bin/env python3
"""Throughput of a move through the relay against a direct one, in pairs that alternate, between the same two binaries.

The source is a stopped VM with random bytes in all its memory, so nothing but the wire is measured: from ``migrate``
until the destination says ``completed``.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.hosts.machine_probe import find_emulators
from harness.migration.relay import Endpoint, Relay
from harness.model.deadline import Deadline
from harness.model.machine import MachineSpec
from harness.model.wire import WireEnd
from harness.vm.features import Features, probe_binary
from harness.vm.keeper import Keeper
from harness.vm.ram_compare import differing_pages
from harness.vm.vm import Vm, start_vm

MEMORY_MIB = 256
PAIRS = 15
BOUND_S = 60.0
CHECKOUT = Path(__file__).parents[2]


async def main(tcp: bool) -> None:
    features = await probe_binary(find_emulators("x86_64", CHECKOUT)[0], deadline=Deadline.after(BOUND_S))
    ratios = []
    with Keeper() as keeper:
        for _ in range(PAIRS):
            direct = await one(keeper, features, tcp=tcp, relayed=False)
            relayed = await one(keeper, features, tcp=tcp, relayed=True)
            ratios.append(direct / relayed)
            print(
                f"relay {'tcp' if tcp else 'unix'}: direct {MEMORY_MIB / direct:6.0f} MiB/s, through the relay"
                f" {MEMORY_MIB / relayed:6.0f} MiB/s, ratio {ratios[-1]:.2f}"
            )
    print(f"relay {'tcp' if tcp else 'unix'}: median ratio {statistics.median(ratios):.2f}")


async def one(keeper: Keeper, features: Features, *, tcp: bool, relayed: bool) -> float:
    """Seconds that one move takes."""
    deadline = Deadline.after(BOUND_S)
    spec = MachineSpec(memory_mib=MEMORY_MIB)
    with tempfile.TemporaryDirectory(prefix="cvmig-bench-") as name:
        options: dict[str, Any] = {"artefacts": Path(name), "token": "bench", "keeper": keeper, "deadline": deadline}
        async with (
            start_vm(spec, features, role="src", **options) as source,
            start_vm(spec, features, role="dst", incoming=True, **options) as destination,
        ):
            source.ram.buffer[:] = np.frombuffer(np.random.default_rng(1).bytes(MEMORY_MIB << 20), dtype=np.uint8)
            seconds = await move(source, destination, Path(name), deadline, tcp=tcp, relayed=relayed)
            assert not len(differing_pages(source.ram, destination.ram))
            return seconds


async def move(source: Vm, destination: Vm, folder: Path, deadline: Deadline, *, tcp: bool, relayed: bool) -> float:
    wanted_capabilities = [{"capability": name, "state": True} for name in ("return-path", "events")]
    for vm in (source, destination):
        await vm.qmp.execute("migrate-set-capabilities", {"capabilities": wanted_capabilities}, deadline=deadline)
    limits = {"max-bandwidth": 100 << 30, "downtime-limit": 20_000}
    await source.qmp.execute("migrate-set-parameters", limits, deadline=deadline)
    wanted = "tcp:127.0.0.1:0" if tcp else f"unix:{folder}/in.sock"
    await destination.qmp.execute("migrate-incoming", {"uri": wanted}, deadline=deadline)
    inbound = await bound(destination, deadline) if tcp else Endpoint.parse(wanted)
    async with contextlib.AsyncExitStack() as stack:
        uri = inbound.uri
        relay = None
        if relayed:
            listen = Endpoint.tcp() if tcp else Endpoint.unix(folder / "relay.sock")
            relay = await stack.enter_async_context(Relay(listen, inbound))
            uri = relay.listen.uri
        start = time.perf_counter()
        await source.qmp.execute("migrate", {"uri": uri}, deadline=deadline)
        await completed(destination, deadline)
        seconds = time.perf_counter() - start
        if relay:
            assert (await relay.wait(deadline)).end == WireEnd.COMPLETE
    return seconds


async def bound(vm: Vm, deadline: Deadline) -> Endpoint:
    reply = await vm.qmp.execute("query-migrate", deadline=deadline)
    return Endpoint.tcp(int(reply["socket-address"][0]["port"]))


async def completed(vm: Vm, deadline: Deadline) -> None:
    """An event, because asking again and again would take time from the relay in this process."""
    ends = {"completed", "failed"}
    event = await vm.qmp.wait_event("MIGRATION", where=lambda data: data["status"] in ends, deadline=deadline)
    assert event.data["status"] == "completed", vm.last_words


if __name__ == "__main__":
    asyncio.run(main("tcp" in sys.argv[1:]))
