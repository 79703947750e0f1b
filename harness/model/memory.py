"""Guest memory as witnesses speak of it: pages, lines, ranges and kinds of damage.

Addresses are gpa (guest physical), gfn (gpa >> 12), ram_addr (offset in a RAMBlock) or hva; never just "address".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
LINE_SIZE = 64
LINES_PER_PAGE = PAGE_SIZE // LINE_SIZE


class Damage(StrEnum):
    """What happened to a page, told from its content alone."""

    STALE = "stale"
    """An older generation than the last one written: a lost update."""
    NEWER = "newer"
    """A generation that the guest has not written yet: the ledger, not the page, went back in time."""
    SWAPPED = "swapped"
    """The valid content of another page."""
    SHIFTED = "shifted"
    """The page's own lines at other places within it."""
    TORN = "torn"
    """Lines of different generations side by side."""
    ZEROED = "zeroed"
    """Nothing but zero bytes."""
    LINE = "line"
    """Single 64-byte lines are wrong, the rest of the page is right: cache class."""
    BIT = "bit"
    """One bit differs from a line that is otherwise right."""
    RANDOM = "random"
    """Bytes that never were a pattern: ciphertext, another key."""
    FOREIGN = "foreign"
    """A pattern of another seed: memory of another run or another boot."""
    CHANGED = "changed"
    """Differs, and carries no pattern that could tell more (code, stacks, firmware)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDamage:
    """One damaged page, as one witness saw it."""

    gpa: int
    kind: Damage
    lines: int
    """How many of the page's 64-byte lines are wrong."""
    first_bad_gpa: int
    """gpa of the first wrong line."""
    expected: bytes = b""
    """First bytes of that line as they should be (may be empty when the witness cannot know)."""
    found: bytes = b""
    detail: str = ""
    """E.g. ``generation 3, ledger says 5`` or ``content of gpa 0x1234000``."""


@dataclass(frozen=True, slots=True, order=True)
class GpaRange:
    """Half-open range [start, end) of guest physical addresses."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def pages(self) -> int:
        """Length in 4 KiB pages; the ranges of this harness are page-aligned."""
        return self.size_bytes >> PAGE_SHIFT

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.end - 1:#x}"


def coalesce(pages: Iterable[int]) -> tuple[GpaRange, ...]:
    """Merge page-aligned gpas into maximal ranges, in ascending order."""
    ranges: list[GpaRange] = []
    for gpa in sorted(set(pages)):
        if ranges and ranges[-1].end == gpa:
            ranges[-1] = GpaRange(ranges[-1].start, gpa + PAGE_SIZE)
        else:
            ranges.append(GpaRange(gpa, gpa + PAGE_SIZE))
    return tuple(ranges)
