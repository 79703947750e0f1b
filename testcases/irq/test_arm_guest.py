"""The guest's half on an Arm machine that stays where it is: there everything arrives, also what defect/* lose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from harness.cases.interrupts.arm_scenarios import resident_vlpis, routed_spis
from harness.cases.interrupts.scenario import Scenario
from harness.guest.image import probe_image
from harness.guest.interrupts import InterruptProbe, LedgerReader
from harness.guest.probe import Probe
from harness.guest.protocol import Command
from harness.hosts.machine_probe import find_emulators
from harness.model.deadline import Deadline
from harness.model.errors import ProtocolError
from harness.model.guest import RamLayout
from harness.model.interrupts import DOORBELL_IDS, Hold, Moment, Received, Source, SourceKind
from harness.model.machine import Arch, MachineSpec
from harness.vm.features import probe_binary
from harness.vm.keeper import Keeper
from harness.vm.vm import Vm, start_vm

pytestmark = pytest.mark.vm

CHECKOUT = Path(__file__).parents[2]
BOUND_S = 180.0
SPEC = MachineSpec(machine="virt-7.2", arch=Arch.AARCH64, memory_mib=64, vcpus=2, interrupt_vectors=16, append="irq=on")
GIC_V4 = replace(SPEC, gic_version=4, has_el2=True)


@pytest.fixture(params=find_emulators(Arch.AARCH64, CHECKOUT), ids=lambda path: path.parent.parent.name)
def qemu(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@dataclass(frozen=True, kw_only=True)
class Counting:
    """A guest that counts."""

    vm: Vm
    probe: InterruptProbe
    ledger: LedgerReader
    deadline: Deadline
    features: int

    async def received(self, count: int) -> list[Received]:
        """The ledger, once it has so many records."""
        while len(self.ledger.received) < count:
            assert await self.vm.doorbell.wait_ring(self.deadline), self.ledger.received
            self.ledger.read(self.vm.ram.view)
        return self.ledger.received

    async def raise_all(self, sources: Sequence[Source]) -> None:
        for source in sources:
            if source.id < DOORBELL_IDS:
                self.vm.doorbell.raise_vector(source.line, 1)
        await self.probe.trigger([source.id for source in sources if source.id >= DOORBELL_IDS], deadline=self.deadline)


@asynccontextmanager
async def counting(qemu: Path, folder: Path, spec: MachineSpec) -> AsyncIterator[Counting]:
    deadline = Deadline.after(BOUND_S)
    features = await probe_binary(qemu, deadline=deadline)
    spec = replace(spec, kernel=str(probe_image(Arch.AARCH64)))
    with Keeper() as keeper:
        async with start_vm(
            spec, features, role="src", artefacts=folder, token="test", keeper=keeper, deadline=deadline
        ) as vm:
            await vm.qmp.execute("cont", deadline=deadline)
            probe = Probe(*vm.channel)
            await probe.ready(deadline=deadline)
            interrupts = InterruptProbe(probe)
            opened = await interrupts.open(deadline=deadline)
            ledger = LedgerReader(RamLayout.virt(spec.memory_bytes), opened)
            yield Counting(vm=vm, probe=interrupts, ledger=ledger, deadline=deadline, features=opened.features)


async def play_in_place(guest: Counting, scenario: Scenario) -> None:
    """What a scenario does, without its move: everything once, by its own vCPU."""
    deadline = guest.deadline
    sources = await guest.probe.add(scenario.sources, deadline=deadline)
    by_id = {source.id: source for source in sources}
    for hold in scenario.holds:
        await guest.probe.hold(hold.kind, vcpu_mask=hold.vcpu_mask, argument=hold.argument, deadline=deadline)
    before = [by_id[one] for one in scenario.raised[Moment.BEFORE]]
    await guest.raise_all(before)
    held = await guest.probe.await_pending([source.id for source in before], deadline=deadline)
    assert held == {source.id for source in before}
    assert guest.ledger.read(guest.vm.ram.view) == []
    await guest.probe.release(deadline=deadline)
    received = await guest.received(len(before))
    assert sorted((one.id, one.vcpu, one.vector) for one in received) == sorted(
        (source.id, source.vcpu, source.number) for source in before
    )


def test_virtual_lpis_of_a_resident_vpe_arrive(qemu: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with counting(qemu, tmp_path, GIC_V4) as guest:
            await play_in_place(guest, resident_vlpis(Random(1), GIC_V4.vcpus))

    asyncio.run(story())


def test_spis_go_where_they_are_routed(qemu: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with counting(qemu, tmp_path, SPEC) as guest:
            await play_in_place(guest, routed_spis(Random(1), SPEC.vcpus))

    asyncio.run(story())


def test_a_doorbell_schedules_the_vpe(qemu: Path, tmp_path: Path) -> None:
    """Nobody holds it, and it is not resident: its own doorbell has it run."""

    async def story() -> None:
        async with counting(qemu, tmp_path, GIC_V4) as guest:
            wanted = Source(id=3, kind=SourceKind.VLPI, vcpu=7, sender=1, line=3, priority=0x80)
            (source,) = await guest.probe.add([wanted], deadline=guest.deadline)
            for number in (1, 2, 3):
                guest.vm.doorbell.raise_vector(3, number)
                last = (await guest.received(number))[-1]
                assert (last.id, last.number, last.vcpu, last.vector) == (3, number, 7, source.number)

    asyncio.run(story())


def test_commands_wait_while_the_its_is_off_and_a_cleared_table_is_empty(qemu: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with counting(qemu, tmp_path, SPEC) as guest:
            deadline = guest.deadline
            lpis = [
                Source(id=64 + event, kind=SourceKind.ITS_LPI, vcpu=1, line=event, priority=0x80) for event in range(3)
            ]
            await guest.probe.add(lpis, deadline=deadline)
            await guest.probe.step(Command.ITS_SWITCH, (0,), deadline=deadline)
            await guest.probe.trigger([64], deadline=deadline)
            assert guest.ledger.read(guest.vm.ram.view) == []
            await guest.probe.step(Command.ITS_SWITCH, (1,), deadline=deadline)
            assert [one.id for one in await guest.received(1)] == [64]
            await guest.probe.hold(Hold.PRIORITY, vcpu_mask=2, argument=0x40, deadline=deadline)
            await guest.probe.trigger([65], deadline=deadline)
            assert await guest.probe.await_pending([65], deadline=deadline) == {65}
            await guest.probe.step(Command.LPI_SWITCH, (2, 2), deadline=deadline)
            await guest.probe.step(Command.LPI_SWITCH, (0, 2), deadline=deadline)
            await guest.probe.release(deadline=deadline)
            await guest.probe.trigger([66], deadline=deadline)
            assert [one.id for one in await guest.received(2)] == [64, 66]

    asyncio.run(story())


def test_what_this_machine_has_not_is_refused(qemu: Path, tmp_path: Path) -> None:
    async def story() -> None:
        async with counting(qemu, tmp_path, SPEC) as guest:
            assert guest.features == 1
            for kind, vcpu in ((SourceKind.ITS_VLPI, 7), (SourceKind.NMI, 0)):
                with pytest.raises(ProtocolError, match="no such source"):
                    await guest.probe.add(
                        [Source(id=70, kind=kind, vcpu=vcpu, line=5, priority=0x80)], deadline=guest.deadline
                    )

    asyncio.run(story())
