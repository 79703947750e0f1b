"""Which 64-byte lines of guest memory were written since somebody last looked: RAM against a snapshot of it.

Any writer is seen: vCPUs, devices, QEMU, the harness. A line that was written with what it held already is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from harness.model.memory import LINE_SIZE

Lines = NDArray[np.int64]
"""Numbers of lines: ram_addr / 64."""
Contents = NDArray[np.uint8]
Extents = Callable[[], Iterable[tuple[int, int]]]
"""Half-open ranges of ram_addr that may hold anything but zeros, ascending, such as SharedRam.data_extents."""

_CHUNK_BYTES = 1 << 20
_WORD = np.uint64
"""A line has as many words as a word has bytes, so the truth values of its eight comparisons are one word again."""
_NONE: Lines = np.empty(0, dtype=np.int64)


class WrittenLines:
    """The snapshot of one VM's memory. Costs as much memory as the guest uses. One caller at a time."""

    def __init__(self, ram: Contents, extents: Extents | None = None) -> None:
        """Memory as it is now counts as looked at. *extents* spares the rest, which is not even read as a whole."""
        if len(ram) % LINE_SIZE:
            raise ValueError(f"{len(ram)} bytes are no whole number of lines")
        self._ram = ram
        self._lines = ram.reshape(-1, LINE_SIZE)
        self._extents = extents or (lambda: ((0, len(ram)),))
        self._known = np.zeros(len(ram), dtype=np.uint8)
        self._known_lines = self._known.reshape(-1, LINE_SIZE)
        self.adopt()

    def take(self, start: int = 0, end: int | None = None) -> Lines:
        """Lines written in [start, end) of ram_addr since they were last looked at, ascending; looked at now."""
        parts = [self._take_chunk(first, last) for first, last in self._within(*self._bounds(start, end))]
        return np.concatenate(parts) if parts else _NONE

    def adopt(self, start: int = 0, end: int | None = None) -> None:
        """What is there now counts as looked at; nobody asks who wrote it."""
        for first, last in self._within(*self._bounds(start, end)):
            self._known[first:last] = self._ram[first:last]

    def take_some(self, lines: Lines) -> Lines:
        """As :meth:`take`, of these lines only."""
        now = self._lines[lines]
        is_new = (now.view(_WORD) != self._known_lines[lines].view(_WORD)).any(axis=1)
        found: Lines = lines[is_new]
        self._known_lines[found] = now[is_new]
        return found

    def put(self, lines: Lines, contents: Contents) -> None:
        """Write to guest memory what counts as looked at. The VM must not run."""
        self._lines[lines] = contents
        self._known_lines[lines] = contents

    def contents(self, lines: Lines) -> Contents:
        """What these lines held when they were last looked at, a row each, a copy."""
        rows: Contents = self._known_lines[lines]
        return rows

    def _bounds(self, start: int, end: int | None) -> tuple[int, int]:
        end = len(self._ram) if end is None else end
        if start % LINE_SIZE or end % LINE_SIZE or not 0 <= start <= end <= len(self._ram):
            raise ValueError(f"[{start:#x}, {end:#x}) are no lines of {len(self._ram)} bytes")
        return start, end

    def _within(self, start: int, end: int) -> Iterable[tuple[int, int]]:
        """Chunks of [start, end) that may hold anything. To ask for extents takes long: of a part all is read."""
        is_whole = start == 0 and end == len(self._ram)
        for low, high in self._extents() if is_whole else ((start, end),):
            last = min(high, end)
            for chunk in range(max(low, start), last, _CHUNK_BYTES):
                yield chunk, min(chunk + _CHUNK_BYTES, last)

    def _take_chunk(self, first: int, last: int) -> Lines:
        known = self._known[first:last]
        if not len(_differing(self._ram[first:last], known)):
            return _NONE
        # A copy first: the guest may go on writing, and what is remembered must be what was compared.
        now = self._ram[first:last].copy()
        found = _differing(now, known)
        known[:] = now
        return found + first // LINE_SIZE


def _differing(one: Contents, other: Contents) -> Lines:
    words = one.view(_WORD) != other.view(_WORD)
    return np.flatnonzero(words.view(_WORD))
