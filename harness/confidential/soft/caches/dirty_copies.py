"""Dirty copies of lines in all caches of a host: at most one of each line and view.

A copy has a slot in a pool, and each view knows the slot of each line: so what concerns a few lines costs as little as
they are few, however much is dirty elsewhere. A guest waits for the answer of a conversion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.caches.written_lines import Contents, Lines
from harness.model.memory import LINE_SIZE

Flags = NDArray[np.bool_]
Numbers = NDArray[np.uint8]
"""Of views or of CPUs."""
Slots = NDArray[np.int64]

_POOL_AT_FIRST = 1 << 10


@dataclass(frozen=True, slots=True)
class Gone:
    """Copies that have left the caches, a row each, in the order in which they left."""

    lines: Lines
    views: Numbers
    stale: Flags
    contents: Contents

    def __len__(self) -> int:
        return len(self.lines)


class DirtyCopies:
    """By slot. Slots are good until the next :meth:`store` or :meth:`take`."""

    def __init__(self, total_lines: int) -> None:
        self._total_lines = total_lines
        self._slot_of: list[NDArray[np.int32]] = []
        """Of each view and line; 0 is none, else the slot and 1, so that untouched memory is never allocated."""
        self._counts: list[int] = []
        self._lines: Lines = np.empty(0, dtype=np.int64)
        self._views: Numbers = np.empty(0, dtype=np.uint8)
        self._cpus: Numbers = np.empty(0, dtype=np.uint8)
        self._stale: Flags = np.empty(0, dtype=np.bool_)
        """Memory was changed below them."""
        self._alive: Flags = np.empty(0, dtype=np.bool_)
        self._contents: Contents = np.empty((0, LINE_SIZE), dtype=np.uint8)
        """As the CPU has them, a row each."""
        self._free: Slots = np.empty(0, dtype=np.int64)
        self._free_count = 0

    def __len__(self) -> int:
        return sum(self._counts)

    def count(self, view: int) -> int:
        """Copies of one view."""
        return self._counts[view] if view < len(self._counts) else 0

    def every(self) -> Slots:
        """All copies."""
        return np.flatnonzero(self._alive)

    def of_view(self, view: int) -> Slots:
        """All copies of one view."""
        return np.flatnonzero(self._alive & (self._views == view))

    def within(self, view: int, start_line: int, end_line: int) -> Slots:
        """Copies of one view in [start, end)."""
        if view >= len(self._slot_of):
            return np.empty(0, dtype=np.int64)
        slots = self._slot_of[view][start_line:end_line]
        found: Slots = slots[slots != 0].astype(np.int64) - 1
        return found

    def lines(self, slots: Slots) -> Lines:
        """Their lines."""
        return self._lines[slots]

    def views(self, slots: Slots) -> Numbers:
        """Their views."""
        return self._views[slots]

    def cpus(self, slots: Slots) -> Numbers:
        """The CPUs that wrote them."""
        return self._cpus[slots]

    def stale(self, slots: Slots) -> Flags:
        """Whether memory was changed below them."""
        return self._stale[slots]

    def shows(self, lines: Lines, views: Numbers) -> Flags:
        """For which of these pairs there is a copy that is not stale."""
        found = np.zeros(len(lines), dtype=np.bool_)
        for view in range(len(self._slot_of)):
            rows = np.flatnonzero(views == view)
            slots = self._slot_of[view][lines[rows]].astype(np.int64) - 1
            rows, slots = rows[slots >= 0], slots[slots >= 0]
            found[rows] = ~self._stale[slots]
        return found

    def store(self, view: int, lines: Lines, cpus: Numbers, contents: Contents) -> Slots:
        """Copies of these lines, each once, in place of what this view had of them; their slots."""
        while view >= len(self._slot_of):
            self._slot_of.append(np.zeros(self._total_lines, dtype=np.int32))
            self._counts.append(0)
        slots = self._slot_of[view][lines].astype(np.int64) - 1
        new = np.flatnonzero(slots < 0)
        slots[new] = self._allocated(len(new))
        self._slot_of[view][lines[new]] = slots[new] + 1
        self._counts[view] += len(new)
        self._lines[slots], self._views[slots], self._cpus[slots] = lines, view, cpus
        self._stale[slots], self._alive[slots] = False, True
        self._contents[slots] = contents
        return slots

    def drop(self, view: int, lines: Lines) -> None:
        """This view has no copies of these lines any more, if it had any."""
        if view < len(self._slot_of):
            slots = self._slot_of[view][lines].astype(np.int64) - 1
            self.release(slots[slots >= 0])

    def make_stale(self, start_line: int, end_line: int | None) -> None:
        """Memory of [start, end) was changed below the caches."""
        end = self._total_lines if end_line is None else end_line
        for view in range(len(self._slot_of)):
            self._stale[self.within(view, start_line, end)] = True

    def take(self, slots: Slots, rng: np.random.Generator) -> Gone:
        """Take these out, in random order."""
        order = rng.permutation(slots)
        gone = Gone(self._lines[order], self._views[order], self._stale[order], self._contents[order])
        self.release(order)
        return gone

    def release(self, slots: Slots) -> None:
        """Take these out; nobody asks what they held."""
        for view in np.flatnonzero(np.bincount(self._views[slots])).tolist():
            of_view = slots[self._views[slots] == view]
            self._slot_of[view][self._lines[of_view]] = 0
            self._counts[view] -= len(of_view)
        self._alive[slots] = False
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)

    def _allocated(self, count: int) -> Slots:
        if count > self._free_count:
            self._grow(count - self._free_count)
        self._free_count -= count
        return self._free[self._free_count : self._free_count + count].copy()

    def _grow(self, at_least: int) -> None:
        old = len(self._alive)
        more = max(at_least, old, _POOL_AT_FIRST)
        for name in ("_lines", "_views", "_cpus", "_stale", "_alive", "_contents", "_free"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros((more, *column.shape[1:]), dtype=column.dtype)]))
        self._free[self._free_count : self._free_count + more] = np.arange(old, old + more)
        self._free_count += more
