"""What only Arm's virt machine has: an entry at EL2, PSCI by SMC, GICv4, several models of processor."""

from __future__ import annotations

from typing import Any

import pytest

from harness.model.guest import HaltMode
from harness.model.machine import AARCH64_CPU, Arch

pytestmark = pytest.mark.vm
ARCHES = (Arch.AARCH64,)
SEED = 0xA12
GICV4 = ("-machine", "virtualization=on,gic-version=4")
"""QEMU takes the last word on each property."""


async def is_sound(lab: Any, probe: Any, guest: Any, vcpus: int) -> None:
    assert guest.vcpus == vcpus
    await probe.fill(SEED, deadline=lab.deadline)
    assert (await probe.verify(deadline=lab.deadline)).is_clean
    await probe.canary_arm(SEED, deadline=lab.deadline)
    report = await probe.canary_check(deadline=lab.deadline)
    assert report.is_clean
    assert report.mismatches == ()


def test_an_entry_at_el2_is_left_for_el1(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(*GICV4, vcpus=4, memory_mib=64) as (vm, probe, guest):
            await is_sound(lab, probe, guest, 4)
            assert "entered at EL2" in vm.console.read_text(encoding="ascii")
            await probe.halt(HaltMode.RESET, deadline=lab.deadline)
            assert (await probe.ready(deadline=lab.deadline)).boot_count == 2
            await probe.halt(HaltMode.POWER_OFF, deadline=lab.deadline)
            await vm.monitor.wait("SHUTDOWN")

    lab.play(story())


@pytest.mark.parametrize("model", ["cortex-a57", AARCH64_CPU])
def test_named_models_of_processor_do(lab: Any, model: str) -> None:
    async def story() -> None:
        async with lab.guest("-cpu", model, vcpus=2, memory_mib=64) as (vm, probe, guest):
            await is_sound(lab, probe, guest, 2)
            assert "entered at EL1" in vm.console.read_text(encoding="ascii")

    lab.play(story())
