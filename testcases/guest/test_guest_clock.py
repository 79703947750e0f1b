"""The guest's own watch over its clocks: silent when they run, and proven to speak."""

from __future__ import annotations

from typing import Any

import pytest

from harness.guest.heartbeat import VCPUS_OFFSET, read_heartbeat
from harness.model.errors import ProtocolError
from harness.model.machine import Arch

pytestmark = pytest.mark.vm
ARCHES = tuple(Arch)
TSC_OFFSET = 8


async def set_last_tsc(vm: Any, heartbeat_gpa: int, vcpu: int, change: int) -> None:
    """Make the guest believe that its last reading of the clock was another one."""
    await vm.monitor.execute("stop")
    at = vm.layout.gpa_to_ram(heartbeat_gpa) + VCPUS_OFFSET + 64 * vcpu + TSC_OFFSET
    tsc = int.from_bytes(vm.ram[at : at + 8], "little")
    vm.ram[at : at + 8] = (tsc + change).to_bytes(8, "little")
    await vm.monitor.execute("cont")


async def beat_on(lab: Any, probe: Any, beats: int) -> Any:
    start = await probe.heartbeat(deadline=lab.deadline)
    now = start
    while any(new.beats < old.beats + beats for new, old in zip(now.vcpus, start.vcpus, strict=True)):
        assert not lab.deadline.has_passed
        now = await probe.heartbeat(deadline=lab.deadline)
    return now


def test_a_clock_that_ran_backwards_is_told_with_its_vcpu(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=2) as (vm, probe, guest):
            quiet = await beat_on(lab, probe, 3)
            assert [vcpu.backward_tsc for vcpu in quiet.vcpus] == [0, 0]
            loud = quiet
            while not loud.vcpus[1].backward_tsc:
                # A handler that has read the old value already overwrites what is planted: then it is planted again.
                await set_last_tsc(vm, guest.heartbeat_gpa, 1, 1 << 50)
                loud = await beat_on(lab, probe, 2)
            assert loud.vcpus[0].backward_tsc == 0
            assert 0 < loud.vcpus[1].backward_tsc <= 1 << 50
            page = read_heartbeat(vm.ram, vm.layout, guest.heartbeat_gpa)
            assert page.vcpus[1].backward_tsc == loud.vcpus[1].backward_tsc
            await probe.heartbeat(reset_gaps=True, deadline=lab.deadline)
            assert (await beat_on(lab, probe, 2)).vcpus[1].backward_tsc == 0

    lab.play(story())


def test_a_clock_that_jumped_ahead_is_told_with_its_vcpu(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=2) as (vm, probe, guest):
            # The real step comes on top, so the figure exceeds the jump on any host.
            jump = 1 << 22
            while (await beat_on(first_lab, probe, 3)).tsc <= jump:
                pass
            loud = await beat_on(first_lab, probe, 2)
            while loud.vcpus[0].gap_tsc <= jump:
                await set_last_tsc(vm, guest.heartbeat_gpa, 0, -jump)
                loud = await beat_on(first_lab, probe, 2)
            assert loud.vcpus[0].gap_at_tsc > 0

    first_lab.play(story())


def test_a_page_that_is_no_heartbeat_page_is_refused(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest() as (vm, _, guest):
            with pytest.raises(ProtocolError, match="no heartbeat page"):
                read_heartbeat(vm.ram, vm.layout, guest.heartbeat_gpa + 4096)

    first_lab.play(story())
