"""Class B23: memory was received, and cache lines of what was there before are written back over it."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from harness.model.memory import LINE_SIZE, LINES_PER_PAGE

ONE_PAGE_IN = 32
MAX_LINES = 64
_SPARES = 8

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]


class StaleLines:
    """Lines that fall over received pages at the end. Pages that came before are preferred: there a line is stale."""

    def __init__(self, ram: Contents, rng: random.Random) -> None:
        self._ram, self._rng = ram, rng
        self._lines: dict[int, bytes] = {}
        self._spare: dict[int, bytes] = {}

    def note(self, ram_pages: Pages, has_come_before: NDArray[np.bool_]) -> None:
        """These pages are received now; memory still holds what was there before."""
        for ram_page, is_again in zip(ram_pages.tolist(), has_come_before.tolist(), strict=True):
            lines, limit = (self._lines, MAX_LINES) if is_again else (self._spare, _SPARES)
            if len(lines) < limit and not self._rng.randrange(ONE_PAGE_IN):
                ram_addr = (ram_page * LINES_PER_PAGE + self._rng.randrange(LINES_PER_PAGE)) * LINE_SIZE
                lines.setdefault(ram_addr, self._ram[ram_addr : ram_addr + LINE_SIZE].tobytes())

    def fall(self) -> int:
        """They are written back; how many."""
        lines = self._lines or self._spare
        for ram_addr, line in lines.items():
            self._ram[ram_addr : ram_addr + LINE_SIZE] = np.frombuffer(line, dtype=np.uint8)
        return len(lines)
