"""Turn what was latched during one hop into a timeline: phases and marks from QMP events, samples from polling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.model.timeline import Mark, Phase, Sample, Timeline

_MARKED = {"STOP", "RESUME", "RESET", "SHUTDOWN", "GUEST_PANICKED", "SUSPEND", "WAKEUP"}

_EARLY_S = 0.1
"""The destination's first state comes a little before the migrate command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEvent:
    """One QMP event as the harness received it."""

    side: str
    name: str
    at_s: float
    """Monotonic time."""
    status: str = ""
    """``MIGRATION``'s status, ``MIGRATION_PASS``'s number as text, else empty."""


def timeline_of(
    events: Iterable[SideEvent], samples: Sequence[Sample], *, hop: int, started_s: float, ended_s: float
) -> Timeline:
    """The story of one hop, relative to its ``migrate`` command."""
    inside = sorted((e for e in events if started_s - _EARLY_S <= e.at_s <= ended_s), key=lambda event: event.at_s)
    sides = dict.fromkeys(event.side for event in inside)
    phases = [phase for side in sides for phase in _phases(side, inside, started_s, ended_s)]
    marks = [
        Mark(t_s=event.at_s - started_s, side=event.side, label=_label(event))
        for event in inside
        if event.name in _MARKED or event.name == "MIGRATION_PASS"
    ]
    return Timeline(hop=hop, samples=tuple(samples), phases=tuple(phases), marks=tuple(marks))


def _phases(side: str, events: Sequence[SideEvent], started_s: float, ended_s: float) -> list[Phase]:
    states = [event for event in events if event.side == side and event.name == "MIGRATION"]
    ends = [event.at_s for event in states[1:]] + [ended_s]
    return [
        Phase(side=side, name=event.status, start_s=event.at_s - started_s, end_s=end_s - started_s)
        for event, end_s in zip(states, ends, strict=True)
    ]


def _label(event: SideEvent) -> str:
    return f"PASS {event.status}" if event.name == "MIGRATION_PASS" else event.name
