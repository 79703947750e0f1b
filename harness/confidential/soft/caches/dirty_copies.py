"""Dirty copies of lines in all caches of a host, as columns: at most one of each line and view."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.caches.written_lines import Contents, Lines
from harness.model.memory import LINE_SIZE

Flags = NDArray[np.bool_]
Numbers = NDArray[np.uint8]
"""Of views or of CPUs."""

_VIEWS = 256


class DirtyCopies:
    """In the order in which they came, or in which :meth:`take` took them."""

    def __init__(self) -> None:
        self.lines: Lines = np.empty(0, dtype=np.int64)
        self.views: Numbers = np.empty(0, dtype=np.uint8)
        self.cpus: Numbers = np.empty(0, dtype=np.uint8)
        self.stale: Flags = np.empty(0, dtype=np.bool_)
        """Memory was changed below them."""
        self.contents: Contents = np.empty((0, LINE_SIZE), dtype=np.uint8)
        """As the CPU has them, a row each."""

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, lines: Lines, views: Numbers, cpus: Numbers, contents: Contents) -> None:
        """Copies of lines and views that have none."""
        self.lines = np.concatenate([self.lines, lines])
        self.views = np.concatenate([self.views, views])
        self.cpus = np.concatenate([self.cpus, cpus])
        self.stale = np.concatenate([self.stale, np.zeros(len(lines), dtype=np.bool_)])
        self.contents = np.concatenate([self.contents, contents])

    def holds(self, lines: Lines, views: Numbers) -> Flags:
        """Which copies are of one of these pairs of line and view; *lines* ascend, each once."""
        if not len(lines):
            return np.zeros(len(self), dtype=np.bool_)
        place = np.minimum(np.searchsorted(lines, self.lines), len(lines) - 1)
        found: Flags = (lines[place] == self.lines) & (views[place] == self.views)
        return found

    def shows(self, lines: Lines, views: Numbers) -> Flags:
        """For which of these pairs there is a copy that is not stale."""
        fresh = ~self.stale
        return np.isin(_keys(lines, views), _keys(self.lines[fresh], self.views[fresh]))

    def drop(self, lines: Lines, views: Numbers) -> Flags:
        """Copies of these pairs are written anew: what they held is gone. Which ones are kept."""
        kept = ~self.holds(lines, views)
        if not kept.all():
            self._keep(kept)
        return kept

    def make_stale(self, start_line: int, end_line: int | None) -> None:
        """Memory of [start, end) was changed below the caches."""
        self.stale |= (self.lines >= start_line) & (end_line is None or self.lines < end_line)

    def take(self, leaves: Flags, rng: np.random.Generator) -> Self:
        """Take these out, in random order."""
        gone = type(self)()
        order = rng.permutation(np.flatnonzero(leaves))
        gone.lines, gone.views, gone.cpus = self.lines[order], self.views[order], self.cpus[order]
        gone.stale, gone.contents = self.stale[order], self.contents[order]
        if len(order):
            self._keep(~leaves)
        return gone

    def _keep(self, flags: Flags) -> None:
        self.lines, self.views, self.cpus = self.lines[flags], self.views[flags], self.cpus[flags]
        self.stale, self.contents = self.stale[flags], self.contents[flags]


def _keys(lines: Lines, views: Numbers) -> Lines:
    return lines * _VIEWS + views
