"""QEMU's own word on resets and ends, as evidence."""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.reset import MachineEvent
from harness.vm.qmp import QmpEvent

_NAMES = frozenset({"RESET", "SHUTDOWN"})


def machine_events(events: Iterable[QmpEvent]) -> tuple[MachineEvent, ...]:
    """RESET and SHUTDOWN among *events*, such as ``session.events[cursor:]``."""
    return tuple(
        MachineEvent(
            name=event.name,
            reason=str(event.data.get("reason", "")),
            by_guest=event.data.get("guest") is True,
            at_s=event.sent_s,
        )
        for event in events
        if event.name in _NAMES
    )
