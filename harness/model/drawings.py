"""What the report draws: the page map as a strip, the session as a sequence, interrupts and reboots as lanes.

Plain values only. map_strip.py, session_sequence.py and interrupt_timeline.py make them from evidence. They stand here
because results are read and listed by commands that need no numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PageKind(StrEnum):
    """What a witness says of the pages of one column."""

    PRIVATE = "p"
    SHARED = "s"
    BOTH = "b"
    """Private and shared pages lie in the column, none of them wrong."""
    MISMATCH = "m"
    """At least one page of which it says something else than the guest does."""
    UNKNOWN = "-"
    """It cannot speak of any of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StripRow:
    """What one witness says."""

    witness: str
    """A value of :class:`harness.model.page_map.Witness`."""
    kinds: str
    """One :class:`PageKind` per column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapStrip:
    """All witnesses of one moment over one axis: RAM pages in ram_addr order. Plain values only."""

    title: str
    """Which moment, e.g. ``hop 1``."""
    total_pages: int
    pages_per_column: int
    windows: tuple[tuple[int, int, int], ...]
    """(gfn, ram_page, pages) of the parts of main memory, to tell a column's gpa."""
    rows: tuple[StripRow, ...]
    mismatch_pages: int
    mismatches: tuple[str, ...]
    """Where they are, in words, the first of them."""
    mismatches_left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootMark:
    """One reboot of a guest."""

    number: int
    """From 1."""
    way: str
    """A value of :class:`harness.model.reboot_way.RebootWay`."""
    duration_s: float
    """From the order until the guest was back, or until nobody waited any more."""
    came_back: bool
    findings: int
    """How many things were found wrong behind it."""


class Actor(StrEnum):
    """Lanes, from left to right."""

    SOURCE_PROCESSOR = "source processor"
    SOURCE_HOST = "source host"
    WIRE = "wire"
    DESTINATION_HOST = "destination host"
    DESTINATION_PROCESSOR = "destination processor"


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStep:
    """One arrow."""

    sender: Actor
    receiver: Actor
    label: str
    count: int = 1
    status: int = 0
    """Of a command: the firmware's answer, 0 success."""
    detail: str = ""
    must_fail: bool = False
    """Refusing is the right answer: the guest was sent before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSequence:
    """One attempt. Plain values only."""

    title: str
    """Which attempt, e.g. ``hop 1``."""
    end: str
    """How it ended: completed, failed, cancelled."""
    steps: tuple[SequenceStep, ...]
    steps_left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessCell:
    """What one witness saw of one source when the machine stood still."""

    held: str
    """Where its interrupt was, in words; empty when it was nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptLane:
    """One source. Times are seconds since the source machine stopped, negative before."""

    label: str
    before_s: tuple[float, ...]
    """Raised while the source ran."""
    between_s: tuple[float, ...]
    """Raised while nothing ran."""
    after_s: tuple[float, ...]
    """Raised while the destination ran."""
    taken_s: tuple[float, ...]
    """Logged by the guest at the source."""
    delivered_s: tuple[float, ...]
    """Logged by the guest at the destination."""
    cells: tuple[WitnessCell, ...]
    is_queued: bool
    """The device still had it when the source had stopped."""
    lost: int
    doubled: int
    strays: int
    """Received by a vCPU that it was not for."""

    @property
    def is_wrong(self) -> bool:
        """Whether something is wrong with it."""
        return bool(self.lost or self.doubled or self.strays or len({cell.held for cell in self.cells[1:]}) > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptTimeline:
    """The interrupts of one move."""

    title: str
    lanes: tuple[InterruptLane, ...]
    witnesses: tuple[str, ...]
    loaded_s: float
    running_s: float
    """When the destination was loaded and let go, since the source stopped."""
    raised: int
    received: int
    lanes_left_out: int = 0
