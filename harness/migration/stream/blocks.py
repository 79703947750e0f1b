"""Collects the final content of RAM blocks from a stream: what a destination would hold after the last record."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.migration.stream import xbzrle
from harness.migration.stream.elements import Element, PageKind, PageRecord, RamBlock, RamBlockList, RamPages
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.ram import NEXT_DATA_PAGE, NEXT_ZERO_PAGE, WORD_BYTES, ZERO_RECORD_BYTES
from harness.model.errors import StreamError
from harness.model.machine import MAIN_RAM_IDS

Bytes = NDArray[np.uint8]

MAX_BLOCK_BYTES = 32 << 20
"""Larger blocks are guest memory; the host compares them in place, not from a stream."""


class BlockContents:
    """Feed it every element; it keeps the blocks up to *max_bytes* each, firmware and ACPI tables, not guest memory.

    A block of which not one page came (x-ignore-shared leaves shared memory out) is absent.
    """

    def __init__(self, *, max_bytes: int = MAX_BLOCK_BYTES, without: frozenset[str] = frozenset()) -> None:
        self._max_bytes = max_bytes
        self._without = without
        self._wanted: dict[str, RamBlock] = {}
        self._rows: dict[str, Bytes] = {}

    def add(self, element: Element) -> None:
        """Take one element. Raises StreamError on an encoded page that cannot be decoded."""
        match element:
            case RamBlockList():
                kept = (block for block in element.blocks if block.name not in self._without)
                self._wanted = {block.name: block for block in kept if block.used_bytes <= self._max_bytes}
                # A second list has sizes of its own: what came under the first has no place in it.
                self._rows.clear()
            case RamPages() if element.block in self._wanted:
                self._take(element)

    def contents(self) -> Mapping[str, bytes]:
        """Block name -> its bytes; a page without any record is zero."""
        return {name: rows.tobytes()[: self._wanted[name].used_bytes] for name, rows in self._rows.items()}

    def _take(self, pages: RamPages) -> None:
        """Plain records in runs: there are hundreds in each stream, and each alone takes as long as a run."""
        rows = self._rows_of(pages)
        flags = pages.words & np.uint64(pages.page_size - 1)
        numbers = (pages.words // np.uint64(pages.page_size)).astype(np.intp)
        for start, end in pairwise([0, *(np.flatnonzero(np.diff(flags)) + 1).tolist(), len(pages)]):
            count, first = end - start, int(pages.starts[start]) + WORD_BYTES
            if flags[start] == NEXT_DATA_PAGE:
                shape, strides = (count, pages.page_size), (WORD_BYTES + pages.page_size, 1)
                rows[numbers[start:end]] = np.ndarray(shape, np.uint8, pages.buffer, first, strides)
            elif flags[start] == NEXT_ZERO_PAGE:
                strides = (ZERO_RECORD_BYTES, 1)
                rows[numbers[start:end]] = np.ndarray((count, 1), np.uint8, pages.buffer, first, strides)
            else:
                for index in range(start, end):
                    old = rows[numbers[index]]
                    old[:] = np.frombuffer(_page(pages.record(index), old, pages), dtype=np.uint8)

    def _rows_of(self, pages: RamPages) -> Bytes:
        """The block's memory, a row per page. The last may be longer than what the block uses of it."""
        if pages.block not in self._rows:
            count = -(-self._wanted[pages.block].used_bytes // pages.page_size)
            self._rows[pages.block] = np.zeros((count, pages.page_size), dtype=np.uint8)
        return self._rows[pages.block]


def small_blocks(data: bytes | memoryview, *, without: frozenset[str] = MAIN_RAM_IDS) -> Mapping[str, bytes]:
    """Final content of every RAM block of a captured stream but those in *without*.

    To compare two saved streams block by block; both a plain stream and one with x-ignore-shared will do.
    Raises StreamError.
    """
    parser, blocks = StreamParser(), BlockContents(without=without)
    for element in [*parser.feed(data), *parser.close()]:
        blocks.add(element)
    return blocks.contents()


def _page(record: PageRecord, old: Bytes, pages: RamPages) -> bytes | memoryview:
    match record.kind:
        case PageKind.DATA:
            return record.data
        case PageKind.ZERO:
            return bytes([record.data[0]]) * pages.page_size
        case PageKind.XBZRLE:
            return xbzrle.apply(old.tobytes(), record.data, offset=pages.offset)
        case PageKind.COMPRESSED:
            return _inflate(bytes(record.data[4:]), pages)
        case _:
            raise StreamError(f"page of block {record.block} in an unknown form", offset=pages.offset)


def _inflate(data: bytes, pages: RamPages) -> bytes:
    try:
        page = zlib.decompressobj().decompress(data, pages.page_size)
    except zlib.error as error:
        raise StreamError(f"compressed page: {error}", offset=pages.offset) from None
    if len(page) != pages.page_size:
        raise StreamError(f"compressed page of {len(page)} bytes", offset=pages.offset)
    return page
