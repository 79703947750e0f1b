"""The RAM section: the block list, and the hot loop over page records."""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.migration.stream.cursor import U64, Cursor
from harness.migration.stream.elements import RamBlock, RamBlockList, RamMark, RamPages, VendorRecords
from harness.migration.stream.format import (
    FLAG_CONTINUE,
    FLAG_HOOK,
    FLAG_MEM_SIZE,
    FLAG_PAGE,
    FLAG_ZERO,
    MAX_RAM_BLOCKS,
    MAX_RAM_BYTES,
    OTHER_TREES,
    RamRecord,
)
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SIZE

NEXT_DATA_PAGE = FLAG_PAGE | FLAG_CONTINUE
NEXT_ZERO_PAGE = FLAG_ZERO | FLAG_CONTINUE
WORD_BYTES = 8
LONG_RUN_RECORDS = 16
BACK_OFF_RECORDS = 64
LOOK_AHEAD_ZEROS = 4096
"""Zero records are small, so a look at all that the buffer could hold of them would mostly be wasted."""
ZERO_RECORD_BYTES = WORD_BYTES + 1
MAX_BLOCK_PAGE_BYTES = 16 << 30
"""The largest huge page of any architecture."""


class RecordReader(Protocol):
    """Cuts the records of one flag that a vendor tree adds. It may keep state: one reader serves one stream.

    What it cannot cut yet it answers with NeedMoreError, what is no such record with StreamError, as a Cursor does.
    """

    @property
    def flag(self) -> int:
        """Bit of the word that says so."""
        ...

    @property
    def is_open(self) -> bool:
        """True in the middle of a record that is given in several elements."""
        ...

    def read(self, view: memoryview, pos: int, *, base: int, block: str) -> tuple[VendorRecords, int]:
        """The records at *pos*, and where they end; *base* is the offset of ``view[0]``, *block* the current one."""
        ...

    def resume(self, view: memoryview, pos: int, *, base: int) -> tuple[VendorRecords, int]:
        """The next part of an open record."""
        ...


class RecordList:
    """Words and starts of records in a row: arrays of long runs, and lists of what stands between them."""

    def __init__(self, word: int, start: int) -> None:
        """With the first record."""
        self.words = [word]
        """Of the records behind the last long run; the caller appends."""
        self.starts = [start]
        self._parts: list[tuple[NDArray[np.uint64], NDArray[np.intp]]] = []

    def add_run(self, words: NDArray[np.uint64], start: int, record_bytes: int) -> int:
        """Append records of one length, the first of which begins at *start*; where the last one ends."""
        self._close()
        end = start + len(words) * record_bytes
        self._parts.append((words, np.arange(start, end, record_bytes, dtype=np.intp)))
        return end

    def arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
        """All words, and all starts."""
        self._close()
        if len(self._parts) == 1:
            return self._parts[0]
        words, starts = zip(*self._parts, strict=True)
        return np.concatenate(words), np.concatenate(starts)

    def _close(self) -> None:
        if self.words:
            self._parts.append((np.array(self.words, dtype=np.uint64), np.array(self.starts, dtype=np.intp)))
            # Emptied in place: the caller holds on to their methods.
            self.words.clear()
            self.starts.clear()


class RamScanner:
    """Cuts the inside of RAM sections into elements; keeps what the wire leaves out: blocks and the current block."""

    def __init__(
        self,
        *,
        page_size: int,
        has_gpa: bool,
        records: Mapping[int, RamRecord],
        readers: Sequence[RecordReader] = (),
    ) -> None:
        self.unknown_flags: list[int] = []
        """Flags of the record at which the stream was not understood any more."""
        self._readers = {reader.flag: reader for reader in readers}
        self._open: RecordReader | None = None
        self.blocks: dict[str, RamBlock] = {}
        self.block = ""
        self.is_postcopy_advised = False
        self._page_size = page_size
        self._has_gpa = has_gpa
        self._records = records

    def scan(
        self, view: memoryview, pos: int, *, base: int
    ) -> tuple[RamPages | RamBlockList | RamMark | VendorRecords, int]:
        """The next element at *pos* and the position behind it; *base* is the stream offset of ``view[0]``.

        Raises NeedMoreError when not even one record is complete.
        """
        if self._open is not None:
            return self._vendor_part(self._open, view, pos, base=base)
        if (pages := self._long_run(view, pos, base=base)) is not None:
            return pages, pages.end
        cursor = Cursor(view, pos, len(view), base=base)
        word = cursor.u64()
        flags = word & (self._page_size - 1)
        if flags == FLAG_MEM_SIZE:
            return self._block_list(cursor, word), cursor.pos
        reader = self._readers.get(flags & ~FLAG_CONTINUE)
        if reader is not None:
            return self._vendor(reader, view, pos, base=base)
        record = self._record(cursor, flags)
        if record.has_block:
            return self._pages(view, pos, base=base)
        if flags & FLAG_CONTINUE:
            raise cursor.error(f"RAM record {word:#x} has CONTINUE but belongs to no page")
        return RamMark(word=word), cursor.pos

    def _record(self, cursor: Cursor, flags: int) -> RamRecord:
        record = self._records.get(flags & ~FLAG_CONTINUE)
        if record is None:
            self.unknown_flags.append(flags & ~FLAG_CONTINUE)
            raise cursor.error(f"RAM record with unknown flags {flags:#x}", hint=_hint(flags))
        return record

    def _vendor(self, reader: RecordReader, view: memoryview, pos: int, *, base: int) -> tuple[VendorRecords, int]:
        records, end = reader.read(view, pos, base=base, block=self.block)
        if records.last_ram_addr >= self._used_bytes(records.block, records.offset):
            message = f"page {records.last_ram_addr:#x} lies beyond block {records.block}"
            raise StreamError(message, offset=records.offset)
        self.block = records.block
        self._open = reader if reader.is_open else None
        return records, end

    def _vendor_part(self, reader: RecordReader, view: memoryview, pos: int, *, base: int) -> tuple[VendorRecords, int]:
        records, end = reader.resume(view, pos, base=base)
        self._open = reader if reader.is_open else None
        return records, end

    def _block_list(self, cursor: Cursor, word: int) -> RamBlockList:
        left = word - FLAG_MEM_SIZE
        if left > MAX_RAM_BYTES:
            raise cursor.error(f"RAM of {left:#x} bytes is beyond any guest")
        blocks: dict[str, RamBlock] = {}
        while left > 0:
            block = self._block(cursor)
            if block.name in blocks or block.used_bytes > left or len(blocks) == MAX_RAM_BLOCKS:
                raise cursor.error(f"RAM block list breaks at block {block.name} ({block.used_bytes:#x} bytes)")
            blocks[block.name] = block
            left -= block.used_bytes
        self.blocks = blocks
        return RamBlockList(word=word, blocks=tuple(blocks.values()))

    def _block(self, cursor: Cursor) -> RamBlock:
        name = cursor.str8("RAM block name")
        used_bytes = cursor.u64()
        page_size = self._block_page_size(cursor)
        gpa = cursor.u64() if self._has_gpa else None
        return RamBlock(name=name, used_bytes=used_bytes, page_size=page_size, gpa=gpa)

    def _block_page_size(self, cursor: Cursor) -> int | None:
        # Only postcopy sends it, and only where the block's page is not the host's, so its value has to tell: what
        # comes instead is a name (first byte not 0) or the word that ends this part (0x10, 0x200).
        if not self.is_postcopy_advised or self._has_gpa:
            return None
        value = cursor.peek_u64()
        if PAGE_SIZE <= value <= MAX_BLOCK_PAGE_BYTES and value & (value - 1) == 0:
            return cursor.u64()
        return None

    def _long_run(self, view: memoryview, pos: int, *, base: int) -> RamPages | None:
        """Records of data that fill *view* from *pos* on: nearly all that is ever cut, so it has a way of its own."""
        record_bytes = WORD_BYTES + self._page_size
        if len(view) - pos < LONG_RUN_RECORDS * record_bytes or not self.block:
            return None
        if U64.unpack_from(view, pos)[0] & (self._page_size - 1) != NEXT_DATA_PAGE:
            return None
        words = self._run_of(NEXT_DATA_PAGE, record_bytes, view, pos)
        end = pos + len(words) * record_bytes
        if end + record_bytes <= len(view) or int(words.max()) >= self._used_bytes(self.block, base + pos):
            return None
        starts = np.arange(pos, end, record_bytes, dtype=np.intp)
        return RamPages(
            block=self.block,
            buffer=view,
            words=words,
            starts=starts,
            end=end,
            offset=base + pos,
            page_size=self._page_size,
        )

    def _pages(self, view: memoryview, pos: int, *, base: int) -> tuple[RamPages, int]:
        block, end = self._first_page(view, pos, base=base)
        records = RecordList(int(U64.unpack_from(view, pos)[0]), pos)
        end = self._run(view, end, records)
        words, starts = records.arrays()
        limit = self._used_bytes(block, base + pos)
        if int(words.max()) & -self._page_size >= limit:
            raise self._beyond(block, words.tolist(), starts.tolist(), base)
        self.block = block
        offset = base + pos
        pages = RamPages(
            block=block, buffer=view, words=words, starts=starts, end=end, offset=offset, page_size=self._page_size
        )
        return pages, end

    def _first_page(self, view: memoryview, pos: int, *, base: int) -> tuple[str, int]:
        """Block of the record at *pos*, of whatever kind, and where the record ends."""
        cursor = Cursor(view, pos, len(view), base=base)
        flags = cursor.u64() & (self._page_size - 1)
        record = self._record(cursor, flags)
        block = self.block if flags & FLAG_CONTINUE else cursor.str8("RAM block name")
        if not block:
            raise cursor.error("page record continues a block, but none was named yet")
        cursor.take(record.payload_bytes + (self._page_size if record.payload_is_page else 0))
        if record.length_prefix:
            prefix = cursor.take(struct.calcsize(record.length_prefix))
            cursor.take(self._bounded(cursor, struct.unpack(record.length_prefix, prefix)[-1]))
        return block, cursor.pos

    def _bounded(self, cursor: Cursor, length: int) -> int:
        # An encoded page that outgrows the page twice would have been sent plain.
        if length > 2 * self._page_size:
            raise cursor.error(f"encoded page of {length} bytes")
        return length

    def _run(self, view: memoryview, pos: int, records: RecordList) -> int:
        """Append all complete plain records that follow at *pos*; return where they end. The hot loop."""
        end = len(view)
        last_start = end - WORD_BYTES
        mask = self._page_size - 1
        data_bytes = WORD_BYTES + self._page_size
        unpack_from = U64.unpack_from
        add_word, add_start = records.words.append, records.starts.append
        no_run_before = pos
        while pos <= last_start:
            (word,) = unpack_from(view, pos)
            flags = word & mask
            if flags == NEXT_DATA_PAGE:
                after = pos + data_bytes
                if pos >= no_run_before and end - pos >= LONG_RUN_RECORDS * data_bytes:
                    run = self._run_of(NEXT_DATA_PAGE, data_bytes, view, pos)
                    pos = records.add_run(run, pos, data_bytes)
                    # Where pages of zeros lie between, looking ahead again soon would cost more than it saves.
                    no_run_before = pos + (0 if len(run) >= LONG_RUN_RECORDS else BACK_OFF_RECORDS * data_bytes)
                    continue
            elif flags == NEXT_ZERO_PAGE:
                after = pos + ZERO_RECORD_BYTES
                # A record that far on tells cheaply whether a look ahead is worth its price.
                far = pos + LONG_RUN_RECORDS * ZERO_RECORD_BYTES
                if far <= last_start and unpack_from(view, far)[0] & mask == NEXT_ZERO_PAGE:
                    run = self._run_of(NEXT_ZERO_PAGE, ZERO_RECORD_BYTES, view, pos, most=LOOK_AHEAD_ZEROS)
                    pos = records.add_run(run, pos, ZERO_RECORD_BYTES)
                    continue
            else:
                break
            if after > end:
                break
            add_word(word)
            add_start(pos)
            pos = after
        return pos

    def _run_of(
        self, flags: int, record_bytes: int, view: memoryview, pos: int, *, most: int = sys.maxsize
    ) -> NDArray[np.uint64]:
        """Words of the records with *flags* that follow each other at *pos*, found with one strided look.

        At least one of *record_bytes* must be complete there.
        """
        count = min((len(view) - pos) // record_bytes, most)
        # Gathered first: what follows would otherwise touch every record of the buffer again.
        words = np.ndarray((count,), dtype=">u8", buffer=view, offset=pos, strides=(record_bytes,)).astype(np.uint64)
        is_other = (words & np.uint64(self._page_size - 1)) != flags
        first_other = int(is_other.argmax())
        return words[:first_other] if is_other[first_other] else words

    def _used_bytes(self, block: str, offset: int) -> int:
        known = self.blocks.get(block)
        if known is None:
            raise StreamError(f"page of unknown RAM block {block}", offset=offset)
        return known.used_bytes

    def _beyond(self, block: str, words: list[int], starts: list[int], base: int) -> StreamError:
        used_bytes = self.blocks[block].used_bytes
        mask = self._page_size - 1
        index = next(index for index, word in enumerate(words) if word & ~mask >= used_bytes)
        ram_addr = words[index] & ~mask
        message = f"page {ram_addr:#x} lies beyond block {block} of {used_bytes:#x} bytes"
        return StreamError(message, offset=base + starts[index])


def _hint(flags: int) -> str:
    if flags & FLAG_HOOK:
        return "RDMA streams are not supported"
    meanings = [meaning for flag, meaning in OTHER_TREES.items() if flags & flag]
    return f"another tree's flag: {'; '.join(meanings)}" if meanings else "a vendor tree's flag? see format.RAM_RECORDS"
