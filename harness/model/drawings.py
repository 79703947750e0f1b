"""What the report draws of a protected move: the page map as a strip, the session as a sequence. Plain values only.

map_strip.py and session_sequence.py make them from evidence. They stand here because results are read and listed by
commands that need no numpy.
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
