"""Views of a physical line: a cache tags it with ASID and C-bit, and memory holds what the view's key made of it.

Where two views of one line are not coherent (CPUID 0x8000001F EAX bit 10 clear), what is written through one is read
through the other as what encryption and decryption make of it. Content here is always what the CPU has in its cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.processor.memory_encryption import MemoryCipher
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE

Lines = NDArray[np.int64]
Contents = NDArray[np.uint8]

_PAGES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, order=True)
class LineView:
    """Through which key a line is read and written."""

    asid: int
    """0 for whoever has the C-bit clear, guest or host."""

    @property
    def is_private(self) -> bool:
        """Whether the C-bit is set."""
        return self.asid != 0

    def __str__(self) -> str:
        return f"ASID {self.asid}, C=1" if self.is_private else "C=0"


SHARED = LineView(0)
"""Of host, devices and the guest's shared mappings."""


@dataclass(slots=True)
class MemoryEngine:
    """The memory controller: a key for each ASID. It encrypts when a line is written back, not when it is stored."""

    _keys: dict[int, Callable[[], MemoryCipher]] = field(default_factory=dict)

    def load(self, view: LineView, key: Callable[[], MemoryCipher]) -> None:
        """*view* uses this key from now on, for lines that are still in caches too."""
        self._keys[view.asid] = key

    def seen(self, lines: Lines, contents: Contents, *, written: LineView, read: LineView) -> Contents:
        """What *read* shows of lines that were written back through *written*; rows of 64 bytes."""
        if written == read:
            return contents
        found = np.empty_like(contents)
        for first in range(0, len(lines), _PAGES_AT_ONCE):
            part = slice(first, first + _PAGES_AT_ONCE)
            found[part] = self._seen(lines[part], contents[part], written, read)
        return found

    def _seen(self, lines: Lines, contents: Contents, written: LineView, read: LineView) -> Contents:
        # The tweak belongs to the page, and each 16 bytes stand for themselves: the rest of the page does not matter.
        pages, row = np.unique(lines // LINES_PER_PAGE, return_inverse=True)
        place = lines % LINES_PER_PAGE
        work = np.zeros((len(pages), LINES_PER_PAGE, LINE_SIZE), dtype=np.uint8)
        work[row, place] = contents
        data = work.reshape(-1, PAGE_SIZE).tobytes()
        if written.is_private:
            data = self._keys[written.asid]().host_view(pages.tolist(), data)
        if read.is_private:
            data = self._keys[read.asid]().guest_view(pages.tolist(), data)
        seen: Contents = np.frombuffer(data, dtype=np.uint8).reshape(work.shape)[row, place]
        return seen
