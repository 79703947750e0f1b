"""What tests of sealed wires share: a stopped VM full of random bytes, moved from one small host to another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.migration.relay import Endpoint
from harness.migration.sealed.sides import DestinationSide, SourceSide, open_destination_side, open_source_side
from harness.migration.stream.snapshot import Snapshot
from harness.model.machine import MachineSpec
from harness.model.page_set import PageSet
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault
from harness.model.wire import WireFault
from harness.vm.vm import Vm
from testcases.sealed.hosts import SCRAMBLE, Host, Kind
from testcases.stream.conftest import capabilities, capture, command, ended
from testcases.vm.conftest import Lab, keeper, lab, qemu

__all__ = ["keeper", "lab", "qemu"]

MEMORY_MIB = 32
PAGES = MEMORY_MIB << 8
SHARED = PageSet.of((0x100, 0x103), (0x200, 0x201), (0x300, 0x500), (PAGES - 1, PAGES))
ZEROS = PageSet.of((0x180, 0x190), (0x310, 0x312), (0x600, 0x601))
"""Left zero: private ones and shared ones."""


def fill(vm: Vm) -> None:
    """Random bytes everywhere but in ZEROS."""
    vm.ram.buffer[:] = np.frombuffer(np.random.default_rng(1).bytes(vm.ram.size_bytes), dtype=np.uint8)
    for start, end in ZEROS.ranges():
        vm.ram.buffer[start << 12 : end << 12] = 0


@dataclass(frozen=True)
class Hosts:
    """Both ends before a move."""

    source: Host
    destination: Host

    @classmethod
    def of(cls, kind: Kind, pages: int = PAGES, *, shared: PageSet = SHARED, **more: Any) -> Hosts:
        source = Host(kind, pages, shared=shared, number=1, **more).launch()
        return cls(source, Host(kind, pages, number=2))


@dataclass(frozen=True)
class Moved:
    """What came of a move, read while both sides stand still."""

    status: str
    near: SourceSide
    far: DestinationSide
    destination: Vm
    hosts: Hosts


@asynccontextmanager
async def sides(
    hosts: Hosts,
    inbound: Endpoint,
    folder: Path,
    *,
    soft_faults: frozenset[SoftFault] = frozenset(),
    wire_faults: tuple[WireFault, ...] = (),
    **more: Any,
) -> AsyncIterator[tuple[SourceSide, DestinationSide]]:
    between = Endpoint.unix(folder / "between.sock")
    async with (
        open_destination_side(hosts.destination, listen=between, connect=inbound) as far,
        open_source_side(
            hosts.source,
            hosts.destination.certificates(),
            listen=Endpoint.unix(folder / "source.sock"),
            fault_listen=Endpoint.unix(folder / "front.sock"),
            connect=Endpoint.parse(far.uri),
            seed=Seed(11),
            soft_faults=soft_faults,
            wire_faults=wire_faults,
            **more,
        ) as near,
    ):
        yield near, far


@asynccontextmanager
async def moved(lab: Lab, path: Path, hosts: Hosts, *, vcpus: int = 1, **more: Any) -> AsyncIterator[Moved]:
    """Move a stopped VM from *path* to the same binary."""
    spec = MachineSpec(memory_mib=MEMORY_MIB, vcpus=vcpus)
    async with lab.vm(path, spec) as source, lab.vm(path, spec, role="dst", incoming=True) as destination:
        fill(source)
        await asyncio.gather(*(capabilities(vm, lab, "return-path") for vm in (source, destination)))
        inbound = f"unix:{lab.folder}/in.sock"
        await command(destination, lab, "migrate-incoming", uri=inbound)
        await command(source, lab, "migrate-set-parameters", max_bandwidth=100 << 30, downtime_limit=20_000)
        async with sides(hosts, Endpoint.parse(inbound), lab.folder, **more) as (near, far):
            await command(source, lab, "migrate", uri=near.uri)
            status = await ended(source, lab)
            if status == "completed":
                await near.relay.wait(lab.deadline)
                await far.relay.wait(lab.deadline)
                assert await ended(destination, lab) == "completed"
            else:
                await near.sealing.wait(lab.deadline)
                await far.relay.wait(lab.deadline)
            yield Moved(status, near, far, destination, hosts)


async def held(moved: Moved, lab: Lab) -> Snapshot:
    """What the destination saves again."""
    return Snapshot.of(await capture(moved.destination, lab))


def expected(vm: Vm, shared: PageSet) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Memory that fill() gives, as the destination shall hold it."""
    content = np.frombuffer(np.random.default_rng(1).bytes(vm.ram.size_bytes), dtype=np.uint8).copy()
    for start, end in ZEROS.ranges():
        content[start << 12 : end << 12] = 0
    for start, end in shared.ranges():
        content[start << 12 : end << 12] ^= np.uint8(SCRAMBLE)
    return content
