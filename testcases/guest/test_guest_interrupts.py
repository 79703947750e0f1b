"""A guest counts interrupts only when it was told to, and only where the host's device is."""

from __future__ import annotations

from typing import Any

import pytest

from harness.guest.interrupts import InterruptProbe
from harness.guest.protocol import Command
from harness.model.errors import ProtocolError
from harness.model.interrupts import Hold
from harness.model.machine import Arch

pytestmark = pytest.mark.vm
ARCHES = tuple(Arch)


def test_a_guest_that_was_not_told_to_count_refuses_and_keeps_its_memory(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest() as (_, probe, plain):
            for command in (Command.IRQ_OPEN, Command.IRQ_DRAIN):
                with pytest.raises(ProtocolError, match="interrupts are not counted"):
                    await probe.request(command, b"", deadline=first_lab.deadline)
        async with first_lab.guest("-append", "irq=on") as (_, _, counting):
            assert counting.managed_pages < plain.managed_pages

    first_lab.play(story())


def test_without_the_hosts_device_nothing_can_be_opened(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest("-append", "irq=on") as (_, probe, _):
            interrupts = InterruptProbe(probe)
            with pytest.raises(ProtocolError, match="no such source"):
                await interrupts.open(deadline=first_lab.deadline)
            with pytest.raises(ProtocolError, match="interrupts are not counted"):
                await interrupts.hold(Hold.OFF, vcpu_mask=1, deadline=first_lab.deadline)
            with pytest.raises(ProtocolError, match="bad payload"):
                await probe.request(Command.IRQ_OPEN, b"x", deadline=first_lab.deadline)

    first_lab.play(story())
