"""The probe finds its processors and its memory, and says what went wrong when it crashes."""

from __future__ import annotations

from typing import Any

import pytest

from harness.guest.heartbeat import read_heartbeat
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, GuestError
from harness.model.guest import FOUR_GIB, CrashKind, HaltMode
from harness.model.machine import Arch

pytestmark = pytest.mark.vm
ARCHES = tuple(Arch)
MIB = 1 << 20
HALT_S = 0.2
"""A vCPU beats 100 times a second."""


@pytest.mark.parametrize("vcpus", [1, 2, 4, 8])
def test_all_vcpus_start_and_beat(lab: Any, vcpus: int) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=vcpus, memory_mib=64) as (vm, probe, guest):
            assert (guest.arch, guest.vcpus, guest.boot_count) == (lab.arch, vcpus, 1)
            first = read_heartbeat(vm.ram, vm.layout, guest.heartbeat_gpa)
            assert (first.boot_id, first.boot_count, first.ledger_gpa) == (guest.boot_id, 1, guest.ledger_gpa)
            reply = await probe.heartbeat(deadline=lab.deadline)
            while any(now.beats <= then.beats for now, then in zip(reply.vcpus, first.vcpus, strict=True)):
                assert not lab.deadline.has_passed
                reply = await probe.heartbeat(deadline=lab.deadline)
            assert [beat.backward_tsc for beat in reply.vcpus] == [0] * vcpus

    lab.play(story())


@pytest.mark.parametrize(
    ("memory_mib", "below_4g_mib"),
    [(64, 0), (128, 0), (3072, 0), (5120, 0), (128, 32), (128, 100), (64, 64), (3072, 1024)],
)
def test_ram_is_found_on_both_sides_of_the_hole(lab: Any, memory_mib: int, below_4g_mib: int) -> None:
    if below_4g_mib and lab.arch is not Arch.X86_64:
        pytest.skip("only a PC has a hole")

    async def story() -> None:
        async with lab.guest(memory_mib=memory_mib, below_4g_mib=below_4g_mib) as (vm, _, guest):
            layout = vm.layout
            found = sum(span.size_bytes for span in guest.ram)
            # A PC's firmware keeps the legacy hole below 1 MiB and its tables at the end of low memory.
            assert memory_mib * MIB - found < 2 * MIB
            assert 0 < found - guest.managed_pages * 4096 < 4 * MIB + memory_mib * MIB // 512
            has_more = lab.arch is Arch.X86_64 and (memory_mib >= 2816 or 0 < below_4g_mib < memory_mib)
            assert any(span.start == FOUR_GIB for span in guest.managed) == has_more
            assert has_more == (layout.below_4g_bytes < layout.total_bytes)
            for span in guest.managed:
                assert layout.gpa_to_ram(span.end - 4096) - layout.gpa_to_ram(span.start) == span.size_bytes - 4096

    lab.play(story())


VECTORS = {
    Arch.X86_64: {CrashKind.UNDEFINED: 6, CrashKind.PAGE_FAULT: 14, CrashKind.DIVIDE: 0},
    # Exception classes of ESR_EL1: unknown, data abort from this level, BRK.
    Arch.AARCH64: {CrashKind.UNDEFINED: 0x00, CrashKind.PAGE_FAULT: 0x25, CrashKind.DIVIDE: 0x3C},
}
IMAGE = {Arch.X86_64: "0x2", Arch.AARCH64: "0x402"}
"""How addresses within the probe begin."""


@pytest.mark.parametrize("kind", [CrashKind.UNDEFINED, CrashKind.PAGE_FAULT, CrashKind.DIVIDE])
def test_a_crash_is_told_on_both_lines(lab: Any, kind: CrashKind) -> None:
    vector, image = VECTORS[lab.arch][kind], IMAGE[lab.arch]

    async def story() -> None:
        async with lab.guest(vcpus=2) as (vm, probe, _):
            await probe.crash(kind, deadline=lab.deadline)
            with pytest.raises(GuestError, match=f"vector {vector}, error .* rip {image}.*vCPU 0"):
                await probe.clock(deadline=lab.deadline)
            assert f"PANIC vector={vector} error=" in vm.console.read_text(encoding="ascii")

    lab.play(story())


def test_an_nmi_from_outside_is_a_fault_too(first_lab: Any) -> None:
    if first_lab.arch is not Arch.X86_64:
        pytest.skip("only a PC has an NMI button")

    async def story() -> None:
        async with first_lab.guest(vcpus=2) as (vm, probe, _):
            await vm.monitor.execute("inject-nmi")
            with pytest.raises(GuestError, match="vector 2"):
                await probe.clock(deadline=first_lab.deadline)

    first_lab.play(story())


def test_a_reset_counts_the_boots_and_changes_the_boot_id(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=2) as (_, probe, guest):
            await probe.fill(1, deadline=lab.deadline)
            for boot in (2, 3):
                await probe.halt(HaltMode.RESET, deadline=lab.deadline)
                ready = await probe.ready(deadline=lab.deadline)
                assert (ready.boot_count, ready.vcpus) == (boot, 2)
                assert ready.boot_id != guest.boot_id

    lab.play(story())


def test_a_triple_fault_is_noticed_as_a_restart(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest() as (_, probe, _):
            await probe.crash(CrashKind.TRIPLE_FAULT, deadline=lab.deadline)
            with pytest.raises(GuestError, match="restarted by itself"):
                await probe.verify(deadline=lab.deadline)

    lab.play(story())


def test_a_guest_that_hangs_is_told_from_one_that_beats(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=2) as (vm, probe, guest):
            await probe.crash(CrashKind.HANG, deadline=lab.deadline)
            with pytest.raises(DeadlineError, match="CLOCK"):
                await probe.clock(deadline=Deadline.after(0.3))
            before = read_heartbeat(vm.ram, vm.layout, guest.heartbeat_gpa).vcpus
            now = before
            while now[1].beats < before[1].beats + 3:
                assert not lab.deadline.has_passed
                now = read_heartbeat(vm.ram, vm.layout, guest.heartbeat_gpa).vcpus
            assert now[0].beats == before[0].beats

    lab.play(story())


def test_halt_stops_every_vcpu_and_leaves_qemu_running(lab: Any) -> None:
    if lab.arch is not Arch.X86_64:
        pytest.skip("QEMU tells of an Arm vCPU's halt nowhere; the next test sees its heart stop")

    async def story() -> None:
        async with lab.guest(vcpus=4) as (vm, probe, _):
            await probe.halt(HaltMode.STOP, deadline=lab.deadline)
            registers = ""
            while registers.count("HLT=1") < 4:
                assert not lab.deadline.has_passed
                registers = await vm.monitor.execute("human-monitor-command", **{"command-line": "info registers -a"})
            assert (await vm.monitor.execute("query-status"))["status"] == "running"

    lab.play(story())


def test_halt_ends_every_heartbeat(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=4) as (vm, probe, guest):
            await probe.halt(HaltMode.STOP, deadline=lab.deadline)
            asked, still = Deadline.after(HALT_S), None
            while not asked.has_passed or still is None:
                assert not lab.deadline.has_passed
                now = read_heartbeat(vm.ram, vm.layout, guest.heartbeat_gpa).vcpus
                if now != still:
                    still, asked = now, Deadline.after(HALT_S)
            assert (await vm.monitor.execute("query-status"))["status"] == "running"

    lab.play(story())


def test_power_off_ends_qemu(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=2) as (vm, probe, _):
            await probe.halt(HaltMode.POWER_OFF, deadline=lab.deadline)
            await vm.monitor.wait("SHUTDOWN")
            assert await vm.process.wait() == 0

    lab.play(story())
