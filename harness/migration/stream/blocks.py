"""Collects the final content of RAM blocks from a stream: what a destination would hold after the last record."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from harness.migration.stream import xbzrle
from harness.migration.stream.elements import Element, PageKind, PageRecord, RamBlock, RamBlockList, RamPages
from harness.migration.stream.parser import StreamParser
from harness.model.errors import StreamError
from harness.model.machine import MAIN_RAM_IDS

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
        self._contents: dict[str, bytearray] = {}

    def add(self, element: Element) -> None:
        """Take one element. Raises StreamError on an encoded page that cannot be decoded."""
        match element:
            case RamBlockList():
                kept = (block for block in element.blocks if block.name not in self._without)
                self._wanted = {block.name: block for block in kept if block.used_bytes <= self._max_bytes}
            case RamPages() if element.block in self._wanted:
                for record in element.records():
                    self._put(record, element)

    def contents(self) -> Mapping[str, bytes]:
        """Block name -> its bytes; a page without any record is zero."""
        return {name: bytes(data) for name, data in self._contents.items()}

    def _put(self, record: PageRecord, pages: RamPages) -> None:
        # The last page may be cut short: a block's used length need not be a multiple of the page.
        block = self._wanted[record.block]
        data = self._contents.get(record.block)
        if data is None:
            data = self._contents[record.block] = bytearray(block.used_bytes)
        place = slice(record.ram_addr, min(record.ram_addr + pages.page_size, block.used_bytes))
        data[place] = _page(record, data, pages)[: place.stop - place.start]


def small_blocks(data: bytes | memoryview, *, without: frozenset[str] = MAIN_RAM_IDS) -> Mapping[str, bytes]:
    """Final content of every RAM block of a captured stream but those in *without*.

    To compare two saved streams block by block; both a plain stream and one with x-ignore-shared will do.
    Raises StreamError.
    """
    parser, blocks = StreamParser(), BlockContents(without=without)
    for element in [*parser.feed(data), *parser.close()]:
        blocks.add(element)
    return blocks.contents()


def _page(record: PageRecord, block: bytearray, pages: RamPages) -> bytes | memoryview:
    match record.kind:
        case PageKind.DATA:
            return record.data
        case PageKind.ZERO:
            return bytes([record.data[0]]) * pages.page_size
        case PageKind.XBZRLE:
            old = bytes(block[record.ram_addr : record.ram_addr + pages.page_size])
            return xbzrle.apply(old, record.data, offset=pages.offset)
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
