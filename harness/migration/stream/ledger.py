"""Counts page records as they go by: how often each page was sent, as what, and in which pass."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.migration.stream.elements import Configuration, Element, RamBlock, RamBlockList, RamPages, SectionHead
from harness.migration.stream.format import FLAG_CONTINUE, FLAG_PAGE, FLAG_ZERO, SectionType
from harness.model.memory import PAGE_SIZE
from harness.model.wire import BlockAccount

Counts = NDArray[np.uint32]

_ONE = np.uint32(1)


class BlockLedger:
    """Arrays of one block, one item per page."""

    def __init__(self, block: RamBlock, rank: int, page_size: int) -> None:
        pages = -(-block.used_bytes // page_size)
        self.name = block.name
        self.rank = rank
        self.data: Counts = np.zeros(pages, dtype=np.uint32)
        self.zero: Counts = np.zeros(pages, dtype=np.uint32)
        self.delta: Counts = np.zeros(pages, dtype=np.uint32)
        self.first_pass: Counts = np.zeros(pages, dtype=np.uint32)
        """Number of the pass that sent the page first, from 1; 0: never sent."""
        self.last_pass: Counts = np.zeros(pages, dtype=np.uint32)

    @property
    def sent(self) -> Counts:
        """How often each page was sent, in whatever form."""
        return self.data + self.zero + self.delta

    def account(self) -> BlockAccount:
        sent = self.sent
        return BlockAccount(
            name=self.name,
            pages=len(sent),
            data_records=int(self.data.sum()),
            zero_records=int(self.zero.sum()),
            delta_records=int(self.delta.sum()),
            pages_sent=int(np.count_nonzero(sent)),
            pages_resent=int(np.count_nonzero(sent > 1)),
        )

    def add_row(self, start: int, end: int, pass_number: int) -> None:
        """Count records of data of the pages from *start* to *end*, each once."""
        self.data[start:end] += _ONE
        if pass_number == 1:
            self.first_pass[start:end] = 1
        else:
            first = self.first_pass[start:end]
            first[first == 0] = pass_number
        self.last_pass[start:end] = pass_number

    def add(self, indexes: NDArray[np.intp], flags: NDArray[np.uint64], pass_number: int) -> None:
        """Count records of one pass; *indexes* ascend, so none stands twice."""
        start, end = int(indexes[0]), int(indexes[-1]) + 1
        # The first pass and full rewrites send every page in turn, and a slice costs a third of an index array.
        where = slice(start, end) if end - start == len(indexes) else indexes
        is_data, is_zero = flags == FLAG_PAGE, flags == FLAG_ZERO
        self.data[where] += is_data
        self.zero[where] += is_zero
        is_delta = ~(is_data | is_zero)
        if is_delta.any():
            self.delta[where] += is_delta
        first = self.first_pass[where]
        self.first_pass[where] = np.where(first == 0, pass_number, first)
        self.last_pass[where] = pass_number


class PageLedger:
    """All blocks of one stream.

    A pass is told from the order: QEMU walks blocks and pages upwards, so a record that is not behind the one before it
    starts a new pass, and so does the END section, before which the dirty bitmap is read for the last time. Pages that
    a postcopy destination asks for jump the queue and look like passes; a postcopy's count means nothing.
    """

    def __init__(self) -> None:
        self.blocks: dict[str, BlockLedger] = {}
        self.page_size = PAGE_SIZE
        self.records_per_pass: list[int] = []
        self._steps = np.zeros(0, dtype=np.uint64)
        self._last = (-1, -1)
        self._starts_pass = True
        self._is_final = False

    def add(self, element: Element) -> None:
        """Take one element of the stream; anything but RAM leaves no trace."""
        match element:
            case RamPages():
                self._pages(element)
            case RamBlockList():
                self._block_list(element)
            case Configuration(target_page_bits=int() as bits):
                self.page_size = 1 << bits
            case SectionHead(kind=SectionType.END):
                self._is_final = self._starts_pass = True

    def counts(self, block: str) -> Counts:
        """How often each page of *block* was sent: a copy, safe while the stream goes on."""
        return self.blocks[block].sent

    def accounts(self) -> tuple[BlockAccount, ...]:
        """One account per block, in the order of the stream."""
        return tuple(block.account() for block in list(self.blocks.values()))

    def _block_list(self, found: RamBlockList) -> None:
        blocks = enumerate(found.blocks)
        self.blocks = {block.name: BlockLedger(block, rank, self.page_size) for rank, block in blocks}

    def _pages(self, pages: RamPages) -> None:
        block = self.blocks[pages.block]
        if self._is_row(pages):
            start = int(pages.words[0]) // pages.page_size
            block.add_row(start, start + len(pages), self._pass(block, start, start + len(pages)))
            return
        flags = pages.words & np.uint64((pages.page_size - 1) & ~FLAG_CONTINUE)
        indexes = (pages.words >> np.uint64(pages.page_size.bit_length() - 1)).astype(np.intp)
        falls = np.flatnonzero(indexes[1:] <= indexes[:-1]) + 1
        for start, end in pairwise([0, *falls.tolist(), len(indexes)]):
            self._count(block, indexes[start:end], flags[start:end])

    def _is_row(self, pages: RamPages) -> bool:
        """Data of one page after the other: the first pass and full rewrites are, and it is much cheaper to count."""
        words = pages.words
        if int(words[0]) & (pages.page_size - 1) != FLAG_PAGE | FLAG_CONTINUE:
            return False
        if len(self._steps) < len(words):
            self._steps = np.arange(len(words), dtype=np.uint64) * np.uint64(pages.page_size)
        return bool((words - self._steps[: len(words)] == words[0]).all())

    def _count(self, block: BlockLedger, indexes: NDArray[np.intp], flags: NDArray[np.uint64]) -> None:
        pass_number = self._pass(block, int(indexes[0]), int(indexes[-1]) + 1, len(indexes))
        block.add(indexes, flags, pass_number)

    def _pass(self, block: BlockLedger, start: int, end: int, records: int = 0) -> int:
        """Number of the pass that pages from *start* to *end* belong to, *records* of them, or all."""
        jumps_back = (block.rank, start) <= self._last and not self._is_final
        if jumps_back or self._starts_pass or not self.records_per_pass:
            self.records_per_pass.append(0)
            self._starts_pass = False
        self.records_per_pass[-1] += records or end - start
        self._last = (block.rank, end - 1)
        return len(self.records_per_pass)
