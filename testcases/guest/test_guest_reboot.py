"""The probe's side of a reboot: many ways to do it, and what the earliest code of the next boot finds."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from harness.guest.early_memory import firmware_scratch, wrong_lines
from harness.guest.frames import Frame, FrameReader, Kind
from harness.guest.lines import page_bytes
from harness.guest.probe import Probe
from harness.guest.protocol import Command, parse_ready
from harness.guest.reboot import early_report, reboot_guest, spare
from harness.model.early import EarlyReport, EarlyState, InterruptState
from harness.model.errors import ProtocolError
from harness.model.guest import CrashKind, GuestDescription, HaltMode, Workload
from harness.model.machine import Arch
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE, Damage, GpaRange
from harness.model.reboot_way import WAYS, RebootWay, devices_of, ways_of
from testcases.guest.conftest import Lab, Vm

pytestmark = pytest.mark.vm
NEWER_QEMU_IS_NIGHTLY = True
ARCHES = tuple(Arch)
SEED = 0xFEED5EED12345678
PENDED = 8
MEMORY_MIB = 64


@dataclass
class RamOf:
    """A VM's memory as the harness has it."""

    vm: Vm

    @property
    def view(self) -> memoryview:
        return self.vm.ram

    @property
    def size_bytes(self) -> int:
        return len(self.vm.ram)

    def data_extents(self) -> list[tuple[int, int]]:
        return [(0, len(self.vm.ram))]


def devices(arch: Arch) -> list[str]:
    words = [word for device in devices_of(ways_of(arch)) for word in ("-device", device)]
    return [*words, "-action", "panic=pause"]


def scratch_of(vm: Vm, description: GuestDescription) -> GpaRange | None:
    """Where firmware works in managed memory."""
    return firmware_scratch(RamOf(vm), vm.layout, description)


def page_at(vm: Vm, gpa: int) -> bytes:
    start = vm.layout.gpa_to_ram(gpa)
    return bytes(vm.ram[start : start + PAGE_SIZE])


async def booted(vm: Vm, probe: Probe, description: GuestDescription, lab: Lab) -> None:
    if scratch := scratch_of(vm, description):
        await spare(probe, scratch, deadline=lab.deadline)
    await probe.fill(SEED, deadline=lab.deadline)


async def rebooted(vm: Vm, probe: Probe, way: RebootWay, lab: Lab, **how: Any) -> tuple[EarlyReport, int]:
    """What the earliest code found, and how many interrupts were pending before."""
    vm.monitor.events.clear()
    pended = await reboot_guest(probe, way, deadline=lab.deadline, **how)
    if way is RebootWay.PANIC:
        await vm.monitor.wait("GUEST_PANICKED")
    if way in {RebootWay.PANIC, RebootWay.HOST}:
        await vm.monitor.execute("system_reset")
    if way is RebootWay.PANIC:
        await vm.monitor.execute("cont")
    await probe.ready(deadline=lab.deadline)
    count = sum(each.state is InterruptState.PENDING for each in pended)
    return await early_report(probe, deadline=lab.deadline), count


def test_a_first_boot_has_nothing_to_look_at(lab: Lab) -> None:
    async def story() -> None:
        async with lab.guest(memory_mib=MEMORY_MIB) as (_, probe, _):
            report = await early_report(probe, deadline=lab.deadline)
            assert report.state is EarlyState.NOTHING
            assert (report.pages_checked, report.interrupts) == (0, ())

    lab.play(story())


def test_every_way_boots_anew_and_memory_is_as_it_was(lab: Lab) -> None:
    async def story() -> None:
        async with lab.guest(*devices(lab.arch), vcpus=2, memory_mib=MEMORY_MIB) as (vm, probe, description):
            await booted(vm, probe, description, lab)
            for way in ways_of(lab.arch):
                await probe.start(Workload.RANDOM, seed=3, deadline=lab.deadline)
                before = await probe.describe(deadline=lab.deadline)
                report, _ = await rebooted(vm, probe, way, lab)
                after = await probe.describe(deadline=lab.deadline)
                is_reset = WAYS[way].resets
                seen = report.pages_checked + report.pages_locked + report.pages_spared
                assert (report.state, report.pages_bad) == (EarlyState.LOOKED, 0), way
                assert seen == description.managed_pages
                assert report.pages_locked <= 2
                assert (report.boot_id, report.is_kexec) == (before.boot_id, not is_reset)
                assert after.boot_count == before.boot_count + is_reset
                assert (after.boot_id != before.boot_id) is is_reset
                await probe.fill(SEED, deadline=lab.deadline)

    lab.play(story())


def test_no_interrupt_survives_a_reset(lab: Lab) -> None:
    async def story() -> None:
        async with lab.guest(*devices(lab.arch), vcpus=2, memory_mib=MEMORY_MIB) as (vm, probe, description):
            await booted(vm, probe, description, lab)
            for way in (way for way in ways_of(lab.arch) if WAYS[way].resets):
                report, pended = await rebooted(vm, probe, way, lab, pend=True, vcpu_mask=3)
                assert pended >= PENDED, way
                assert report.interrupts == (), way
                await probe.fill(SEED, deadline=lab.deadline)

    lab.play(story())


@pytest.mark.parametrize("first_lab", [Arch.X86_64], indirect=True)
def test_a_boot_without_a_reset_finds_the_interrupts_of_the_one_before(first_lab: Lab) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=2, memory_mib=MEMORY_MIB) as (vm, probe, description):
            await booted(vm, probe, description, first_lab)
            report, pended = await rebooted(vm, probe, RebootWay.BARE, first_lab, pend=True)
            pending = [each for each in report.interrupts if each.state is InterruptState.PENDING]
            assert len(pending) >= PENDED
            assert pended >= PENDED
            assert not report.is_kexec

    first_lab.play(story())


def test_all_vcpus_reboot_at_once(lab: Lab) -> None:
    async def story() -> None:
        async with lab.guest(*devices(lab.arch), vcpus=4, memory_mib=MEMORY_MIB) as (vm, probe, description):
            await booted(vm, probe, description, lab)
            way = RebootWay.PSCI if lab.arch is Arch.AARCH64 else RebootWay.RESET_PORT
            for count in (2, 3):
                await probe.start(Workload.SHARED, seed=3, deadline=lab.deadline)
                report, _ = await rebooted(vm, probe, way, lab, vcpu_mask=0xF)
                assert (report.pages_bad, report.boot_count) == (0, count - 1)
                await probe.fill(SEED, deadline=lab.deadline)

    lab.play(story())


def older_line(gpa: int) -> bytes:
    return page_bytes(gpa, 0, SEED)[:LINE_SIZE]


def older_page(gpa: int) -> bytes:
    return page_bytes(gpa, 0, SEED)


def garbage(gpa: int) -> bytes:
    return bytes(gpa >> 12 & 0xFF | 1 for _ in range(PAGE_SIZE))


@pytest.mark.parametrize(
    ("damaged", "kind", "lines"),
    [
        (older_line, Damage.LINE, 1),
        (older_page, Damage.STALE, LINES_PER_PAGE),
        (garbage, Damage.RANDOM, LINES_PER_PAGE),
    ],
    ids=["line", "page", "garbage"],
)
def test_damage_is_told_by_its_size(first_lab: Lab, damaged: Any, kind: Damage, lines: int) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=MEMORY_MIB) as (vm, probe, description):
            await booted(vm, probe, description, first_lab)
            gpa = description.page_gpa(description.managed_pages // 3)
            start = vm.layout.gpa_to_ram(gpa)
            content = damaged(gpa)
            vm.ram[start : start + len(content)] = content
            report, _ = await rebooted(vm, probe, RebootWay.HOST, first_lab)
            (damage,) = report.damages
            assert report.by_kind == {kind: 1}
            assert (damage.gpa, damage.lines) == (gpa, lines)
            found = wrong_lines([damage], RamOf(vm), vm.layout, private_seed=SEED)
            assert [line.gpa for line in found] == [gpa + LINE_SIZE * line for line in range(lines)]
            assert not any(line.is_shared for line in found)

    first_lab.play(story())


def test_a_page_that_is_being_written_is_left_out(first_lab: Lab) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=MEMORY_MIB) as (vm, probe, description):
            await booted(vm, probe, description, first_lab)
            lock = vm.layout.gpa_to_ram(description.ledger_gpa) + 4 * (description.managed_pages // 3) + 3
            vm.ram[lock] |= 0x80
            report, _ = await rebooted(vm, probe, RebootWay.HOST, first_lab)
            assert (report.pages_locked, report.pages_bad) == (1, 0)

    first_lab.play(story())


def test_a_boot_page_that_was_lost_is_said_to_be(first_lab: Lab) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=MEMORY_MIB) as (vm, probe, description):
            await booted(vm, probe, description, first_lab)
            place = bytes(vm.ram).find(b"CVMBOOT1")
            while place % PAGE_SIZE:
                place = bytes(vm.ram).find(b"CVMBOOT1", place + 1)
            vm.ram[place : place + LINE_SIZE] = bytes(LINE_SIZE)
            report, _ = await rebooted(vm, probe, RebootWay.HOST, first_lab)
            assert (report.state, report.pages_checked) == (EarlyState.SPOILED, 0)

    first_lab.play(story())


def test_memory_that_was_not_filled_is_not_judged(first_lab: Lab) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=MEMORY_MIB) as (vm, probe, _):
            report, _ = await rebooted(vm, probe, RebootWay.HOST, first_lab)
            assert (report.state, report.boot_count) == (EarlyState.NOTHING, 1)

    first_lab.play(story())


def test_a_machine_without_a_way_says_so(first_lab: Lab) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=MEMORY_MIB) as (_, probe, _):
            for way in (RebootWay.WATCHDOG, RebootWay.PANIC):
                with pytest.raises(ProtocolError, match="no such way"):
                    await reboot_guest(probe, way, deadline=first_lab.deadline)

    first_lab.play(story())


@pytest.mark.parametrize("command", [Command.REBOOT, Command.HALT, Command.CRASH], ids=lambda code: code.name)
def test_a_repeat_of_what_ended_a_boot_does_not_end_the_next(first_lab: Lab, command: Command) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=MEMORY_MIB) as (vm, probe, _):
            way = RebootWay.PSCI if first_lab.arch is Arch.AARCH64 else RebootWay.RESET_PORT
            payloads = {
                Command.REBOOT: struct.pack("<III", WAYS[way].code, 1, 0),
                Command.HALT: struct.pack("<I", HaltMode.RESET),
                Command.CRASH: struct.pack("<I", CrashKind.TRIPLE_FAULT),
            }
            await probe.close()
            reader, writer = vm.channel
            frames = FrameReader()
            wire = Frame(kind=Kind.REQUEST, code=command, seq=77, payload=payloads[command]).encode()
            writer.write(wire + bytes(-len(wire) % 8))
            ready = await next_frame(reader, frames, Kind.EVENT)
            assert parse_ready(ready.payload).boot_count == 2
            writer.write(wire + bytes(-len(wire) % 8))
            again = await next_frame(reader, frames, Kind.REPLY)
            assert (again.seq, again.payload) == (77, b"")
            probe.attach(reader, writer)
            assert (await probe.describe(deadline=first_lab.deadline)).boot_count == 2

    first_lab.play(story())


async def next_frame(reader: asyncio.StreamReader, frames: FrameReader, kind: Kind) -> Frame:
    """The next frame of *kind*; others are dropped, a READY of an earlier boot with them."""
    while True:
        for frame in frames.feed(await reader.read(4096)):
            if frame.kind is kind:
                return frame
