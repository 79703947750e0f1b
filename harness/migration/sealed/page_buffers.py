"""Page records as arrays and back: what is sealed, and what QEMU is given."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.migration.sealed.guest import Pages, RamPages
from harness.migration.stream import elements
from harness.migration.stream.elements import PageKind
from harness.migration.stream.format import FLAG_CONTINUE, FLAG_PAGE, FLAG_ZERO
from harness.migration.stream.ram import NEXT_DATA_PAGE, WORD_BYTES
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE

Buffers = list[bytes | memoryview]

DATA = np.dtype([("word", ">u8"), ("data", "u1", (PAGE_SIZE,))])
"""A record of data with CONTINUE."""
_ZERO = np.dtype([("word", ">u8"), ("fill", "u1")])


def ram_pages_of(pages: elements.RamPages) -> RamPages:
    """ram_addr >> 12 of each record."""
    return pages.words >> np.uint64(PAGE_SHIFT)


def contents_in_place(pages: elements.RamPages) -> Pages | None:
    """What the records carry, a row each, as it stands in the buffer; None where not all are data with CONTINUE."""
    size, start = WORD_BYTES + PAGE_SIZE, int(pages.starts[0])
    if pages.end - start != len(pages) * size or not _are_alike(pages):
        return None
    return np.ndarray((len(pages), PAGE_SIZE), np.uint8, pages.buffer, start + WORD_BYTES, (size, 1))


def _are_alike(pages: elements.RamPages) -> bool:
    flags = pages.words & np.uint64(PAGE_SIZE - 1)
    return bool((flags == NEXT_DATA_PAGE).all())


def contents_of(pages: elements.RamPages, out: Pages) -> None:
    """Write what each record carries into the rows of *out*. StreamError for a delta: its page cannot be known here."""
    flags = pages.words & np.uint64(PAGE_SIZE - 1)
    is_next = flags == NEXT_DATA_PAGE
    for start, end in pairwise([0, *(np.flatnonzero(np.diff(is_next)) + 1).tolist(), len(pages)]):
        if is_next[start]:
            shape, strides = (end - start, PAGE_SIZE), (WORD_BYTES + PAGE_SIZE, 1)
            offset = int(pages.starts[start]) + WORD_BYTES
            out[start:end] = np.ndarray(shape, np.uint8, pages.buffer, offset, strides)
        else:
            _one_by_one(pages, range(start, end), out)


def _one_by_one(pages: elements.RamPages, indexes: range, out: Pages) -> None:
    for index in indexes:
        record = pages.record(index)
        if record.kind is PageKind.ZERO:
            out[index] = record.data[0]
        elif record.kind is PageKind.DATA:
            out[index] = np.frombuffer(record.data, dtype=np.uint8)
        else:
            hint = "switch xbzrle and compression off: pages of a protected guest have no deltas"
            raise StreamError(f"{record.kind} record of a protected page", offset=pages.offset, hint=hint)


def plain_records(ram_pages: RamPages, contents: Pages, *, memory: NDArray[np.void] | None = None) -> Buffers:
    """Records as QEMU sends them, all with CONTINUE, pages of zeros short.

    Those of data are made in *memory* (rows of DATA), if it is given and long enough; *contents* may be its pages.
    """
    is_zero = zero_pages(contents)
    words = ram_pages << np.uint64(PAGE_SHIFT) | np.uint64(FLAG_CONTINUE)
    if memory is None or len(memory) < len(contents):
        memory = np.empty(len(contents), dtype=DATA)
    is_there = np.may_share_memory(memory, contents)
    buffers: Buffers = []
    for start, end in pairwise([0, *(np.flatnonzero(np.diff(is_zero)) + 1).tolist(), len(contents)]):
        rows = np.empty(end - start, dtype=_ZERO) if is_zero[start] else memory[start:end]
        rows["word"] = words[start:end] | np.uint64(FLAG_ZERO if is_zero[start] else FLAG_PAGE)
        if is_zero[start]:
            rows["fill"] = 0
        elif not is_there:
            rows["data"] = contents[start:end]
        buffers.append(rows.view(np.uint8).data)
    return buffers


def named(block: str, buffers: Buffers) -> Buffers:
    """Records of which the first has CONTINUE, with the name of *block* in it instead."""
    first = memoryview(buffers[0])
    (word,) = struct.unpack(">Q", first[:WORD_BYTES])
    name = block.encode("ascii")
    head = struct.pack(">QB", word & ~FLAG_CONTINUE, len(name)) + name
    return [head, first[WORD_BYTES:], *buffers[1:]]


class RowMemory:
    """Memory for the rows of one element, the same each time: fresh memory costs as much as encryption.

    What is taken is valid until :meth:`free`; it always has a row behind it.
    """

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        self._rows = np.empty(0, dtype=dtype)
        self._used = 0

    def free(self) -> None:
        """All that was taken is done with."""
        self._used = 0

    def take(self, rows: int) -> NDArray[np.void]:
        """Memory for *rows* rows."""
        start, self._used = self._used, self._used + rows
        if self._used >= len(self._rows):
            start, self._used = 0, rows
            self._rows = np.empty(max(rows, 2 * len(self._rows)) + 1, dtype=self._rows.dtype)
        return self._rows[start : self._used]


def zero_pages(contents: Pages) -> NDArray[np.bool_]:
    """Which rows are all zero. Looks at the rest of a page only where its first word is zero."""
    words = contents.view(np.uint64)
    is_zero: NDArray[np.bool_] = words[:, 0] == 0
    candidates = np.flatnonzero(is_zero)
    if len(candidates):
        is_zero[candidates] = ~words[candidates].any(axis=1)
    return is_zero
