"""A window of the ring buffer on its way out: how many pages it has, and its last record, which waits for the end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.migration.sealed.page_buffers import Buffers
from harness.migration.sealed.records import RUN, Subtype


class Batch:
    """Records of packets become those of a batch: all of one window are BATCH, and the last is BATCH_END."""

    def __init__(self, window_pages: int) -> None:
        self.window_pages = window_pages
        self.pages = 0
        """Of the window so far."""
        self._last = np.zeros(1, dtype=RUN)

    @property
    def room(self) -> int:
        """Pages that still fit."""
        return self.window_pages - self.pages

    def add(self, rows: NDArray[np.void]) -> Buffers:
        """Take *rows*, at least one and no more than there is room; the records that can go."""
        waiting: Buffers = [self._last.tobytes()] if self.pages else []
        rows["subtype"] = Subtype.BATCH
        self.pages += len(rows)
        self._last = rows[-1:].copy()
        return [*waiting, rows[:-1].view(np.uint8).data] if len(rows) > 1 else waiting

    def end(self) -> Buffers:
        """The last record; the window is empty then. Nothing when it was."""
        if not self.pages:
            return []
        self.pages = 0
        self._last["subtype"] = Subtype.BATCH_END
        return [self._last.tobytes()]
