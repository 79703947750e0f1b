"""A window of the ring buffer: pages are collected in one piece of memory until they go as one command."""

from __future__ import annotations

import numpy as np

from harness.migration.sealed.guest import Pages, RamPages
from harness.model.memory import PAGE_SIZE


class Window:
    """Collects up to *size* rows of *row_bytes* bytes."""

    def __init__(self, size: int, *, row_bytes: int = PAGE_SIZE) -> None:
        self.size = size
        self._ram_pages: RamPages = np.empty(size, dtype=np.uint64)
        self._rows: Pages = np.empty((size, row_bytes), dtype=np.uint8)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return self.size - self._count

    def add(self, ram_pages: RamPages) -> Pages:
        """Rows for the content of *ram_pages*, to be written by the caller. There must be room."""
        start, self._count = self._count, self._count + len(ram_pages)
        assert self._count <= self.size
        self._ram_pages[start : self._count] = ram_pages
        return self._rows[start : self._count]

    def take(self) -> tuple[RamPages, Pages]:
        """What was collected: views, valid until the next :meth:`add`."""
        count, self._count = self._count, 0
        return self._ram_pages[:count], self._rows[:count]
