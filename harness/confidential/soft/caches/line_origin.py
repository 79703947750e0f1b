"""Which view a damaged line was written through, told from the line itself and the keys of its guest.

An old copy of a line shows through the new view as what the two keys make of it. Undone, it is again what somebody
wrote: whoever knows that (a pattern, an older content) recognises it, whatever wrote it back and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from harness.confidential.soft.caches.line_views import Contents, Lines, LineView, MemoryEngine
from harness.model.memory import LINE_SIZE

Known = Callable[[int, bytes], str]
"""Says of a line (ram_addr / 64) and 64 bytes what they are, e.g. ``generation 3``; empty for what it does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineOrigin:
    """What a damaged line turned out to be."""

    ram_addr: int
    written: LineView | None
    """The view it was written through; None when nothing known comes out of it."""
    content: str = ""
    """What was written, in the words of whoever recognised it."""
    gpa: int | None = None
    """Where the guest has it; None where nobody said."""

    @property
    def view(self) -> str:
        """The view in words, empty when nobody knows."""
        return str(self.written) if self.written else ""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"ram_addr {self.ram_addr:#x}" if self.gpa is None else f"gpa {self.gpa:#x}"


def origins(
    lines: Lines,
    found: Contents,
    *,
    read: LineView,
    candidates: Iterable[LineView],
    engine: MemoryEngine,
    known: Known,
) -> tuple[LineOrigin, ...]:
    """Of *lines*, which hold *found* (a row each) as the guest sees them through *read*. The first candidate wins."""
    open_rows = np.arange(len(lines))
    told: dict[int, LineOrigin] = {}
    for view in candidates:
        # What was written back through *view* and is read through *read*: the other way round.
        contents = engine.seen(lines[open_rows], found[open_rows], written=read, read=view)
        told.update(_recognised(open_rows, lines, contents, view, known))
        open_rows = np.array([row for row in open_rows.tolist() if row not in told], dtype=np.int64)
    return tuple(
        told.get(row) or LineOrigin(ram_addr=int(line) * LINE_SIZE, written=None)
        for row, line in enumerate(lines.tolist())
    )


def _recognised(
    rows: Lines, lines: Lines, contents: Contents, view: LineView, known: Known
) -> Iterator[tuple[int, LineOrigin]]:
    for row, content in zip(rows.tolist(), contents, strict=True):
        words = known(int(lines[row]), content.tobytes())
        if words:
            yield row, LineOrigin(ram_addr=int(lines[row]) * LINE_SIZE, written=view, content=words)
