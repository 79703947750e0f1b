"""Applies page faults to the elements of a stream, and keeps the stream valid around what it drops and inserts."""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness.migration.relay.faults import CATALOGUE
from harness.migration.relay.page_faults import ZEROS, Target, deliver
from harness.migration.stream import xbzrle
from harness.migration.stream.elements import (
    Element,
    PageKind,
    PageRecord,
    RamBlock,
    RamBlockList,
    RamMark,
    RamPages,
    SectionHead,
)
from harness.migration.stream.format import FLAG_CONTINUE, FLAG_PAGE, SectionType
from harness.migration.stream.writer import encode, encode_page
from harness.model.machine import MAIN_RAM_IDS
from harness.model.memory import PAGE_SIZE
from harness.model.seed import Seed
from harness.model.wire import TABLE_FAULTS, AppliedFault, WireFault
from harness.model.wire import WireFaultName as Name

Buffers = list[bytes | memoryview]
POOL_PAGES = 256
"""Pages watched, where no target is given, until one of them is sent again with other content."""
LOWEST_SHARE = 16
"""Targets of our own choice stay out of the lowest 1/16 of the block, where firmware and boot code live."""


class PageEditor:
    """All page faults of one stream. Feed it every element; it returns what to send instead."""

    def __init__(self, faults: Sequence[WireFault], seed: Seed) -> None:
        self._faults = tuple(fault for fault in faults if CATALOGUE[fault.name].is_page_fault)
        self._seed = seed
        self._anchors: list[_Anchor] = []
        self._watched: dict[tuple[str, int], Target] = {}
        self._struck: list[Target] = []
        self._out_block = ""
        self._is_final = False

    def edit(self, element: Element) -> Buffers:
        """The bytes to send for *element*."""
        match element:
            case RamPages():
                return self._pages(element)
            case RamMark(is_end=True) if self._is_final:
                return [*self._duplicates(), encode(element)]
            case SectionHead(kind=SectionType.END):
                self._is_final = True
            case RamBlockList():
                self._choose_targets(element)
        return [encode(element)]

    def applied(self) -> tuple[AppliedFault, ...]:
        """What each fault did, or that it never struck."""
        struck = [target.applied() for target in self._struck]
        names = {target.name for target in self._struck}
        silent = [fault for fault in self._faults if fault.name not in names]
        return (
            *struck,
            *(AppliedFault(name=fault.name, times=0, detail="no page to strike was sent") for fault in silent),
        )

    def _choose_targets(self, found: RamBlockList) -> None:
        for index, fault in enumerate(self._faults):
            block = _block_of(fault, found.blocks)
            if block is None:
                continue
            rng = self._seed.rng("wire", fault.name, index)
            if fault.name in TABLE_FAULTS:
                self._take_bits(fault, block, rng)
            elif fault.targets:
                self._take_given(fault, block, rng)
            else:
                self._anchors += _anchors(fault, block, rng)
        self._anchors.sort(key=lambda anchor: anchor.ram_addr)

    def _take_given(self, fault: WireFault, block: RamBlock, rng: random.Random) -> None:
        free = sorted(set(fault.targets) - {ram_addr for _, ram_addr in self._watched})
        wanted = fault.count * (2 if fault.name == Name.SWAP_PAGES else 1)
        for ram_addr in rng.sample(free, min(wanted, len(free))):
            self._strike(_Anchor(fault, block.name, ram_addr, rng), ram_addr)

    def _take_bits(self, fault: WireFault, block: RamBlock, rng: random.Random) -> None:
        for ram_addr in sorted({one.page for one in fault.bits}):
            target = self._strike(_Anchor(fault, block.name, ram_addr, rng), ram_addr)
            target.bits = tuple(one for one in fault.bits if one.page == ram_addr)

    def _strike(self, anchor: _Anchor, ram_addr: int) -> Target:
        target = anchor.target(ram_addr)
        self._watched[anchor.block, ram_addr] = target
        self._promote(target)
        return target

    def _promote(self, target: Target) -> None:
        if target.name == Name.SWAP_PAGES:
            single = next((other for other in self._struck if other.name == target.name and not other.partner), None)
            if single:
                single.partner, target.partner = target, single
        self._struck.append(target)

    def _pages(self, pages: RamPages) -> Buffers:
        self._reach_anchors(pages)
        if not self._watched:
            return self._span(pages, 0, len(pages))
        buffers: Buffers = []
        sent = 0
        for index, word in enumerate(pages.words.tolist()):
            target = self._watched.get((pages.block, word & -PAGE_SIZE))
            if target is not None:
                buffers += self._span(pages, sent, index)
                buffers += self._hit(pages, index, target)
                sent = index + 1
        return buffers + self._span(pages, sent, len(pages))

    def _reach_anchors(self, pages: RamPages) -> None:
        """A page of data at or behind an anchor becomes its target: so the place depends on seed and content only."""
        if not self._anchors or self._anchors[0].ram_addr > int(pages.words.max()):
            return
        for word in pages.words.tolist():
            ram_addr = word & -PAGE_SIZE
            if word & FLAG_PAGE and (pages.block, ram_addr) not in self._watched:
                self._reach(pages.block, ram_addr)

    def _reach(self, block: str, ram_addr: int) -> None:
        anchor = next((one for one in self._anchors if one.block == block and one.ram_addr <= ram_addr), None)
        if anchor is None:
            return
        self._anchors.remove(anchor)
        if CATALOGUE[anchor.fault.name].needs_resend:
            self._watched[block, ram_addr] = anchor.target(ram_addr)
        else:
            self._strike(anchor, ram_addr)

    def _hit(self, pages: RamPages, index: int, target: Target) -> Buffers:
        content = _content(pages.record(index), target, pages.offset)
        if content is None:
            target.detail = "a compressed record went by unchanged"
            return self._span(pages, index, index + 1)
        target.see(content)
        if target not in self._struck and not self._may_promote(target):
            target.delivered = content
            return self._span(pages, index, index + 1)
        if target.name == Name.SWAP_PAGES:
            return self._swap(target, content)
        delivered = deliver(target)
        return [] if delivered is None else [self._page(target, delivered)]

    def _may_promote(self, target: Target) -> bool:
        """A watched page was sent again: if its content is new, it becomes a target while targets are wanted."""
        if target.latest == target.first:
            return False
        wanted = sum(fault.count for fault in self._faults if fault.name == target.name and not fault.targets)
        have = sum(1 for other in self._struck if other.name == target.name)
        if have >= wanted:
            self._watched = {place: other for place, other in self._watched.items() if other is not target}
            return False
        self._promote(target)
        return True

    def _swap(self, target: Target, content: bytes) -> Buffers:
        partner = target.partner
        if partner is None:
            target.delivered = content
            return [self._page(target, content)]
        target.times += 1
        partner.delivered = content
        partner.detail = f"holds what was sent for {target.ram_addr:#x}"
        return [self._page(partner, content)]

    def _duplicates(self) -> Buffers:
        buffers: Buffers = []
        for target in self._struck:
            if target.name == Name.DUPLICATE_PAGE and target.records:
                target.times += 1
                target.delivered = target.first
                buffers.append(self._page(target, target.first))
        return buffers

    def _page(self, target: Target, content: bytes) -> bytes:
        self._out_block = target.block
        record = PageRecord(block=target.block, ram_addr=target.ram_addr, flags=FLAG_PAGE, data=content)
        return encode_page(record)

    def _span(self, pages: RamPages, start: int, end: int) -> Buffers:
        """Records as they came; the first gets its block's name back if what went before it was taken away."""
        if start == end:
            return []
        buffers: Buffers = []
        first = pages.record(start)
        if not first.is_named and self._out_block != pages.block:
            named = PageRecord(
                block=first.block, ram_addr=first.ram_addr, flags=first.flags & ~FLAG_CONTINUE, data=first.data
            )
            buffers.append(encode_page(named))
            start += 1
        self._out_block = pages.block
        if start < end:
            buffers.append(pages.buffer[int(pages.starts[start]) : pages.end_of(end - 1)])
        return buffers


class _Anchor:
    """A place from which on the next page of data becomes a target."""

    def __init__(self, fault: WireFault, block: str, ram_addr: int, rng: random.Random) -> None:
        self.fault = fault
        self.block = block
        self.ram_addr = ram_addr
        self._place_seed = rng.getrandbits(64)

    def target(self, ram_addr: int) -> Target:
        """The target at *ram_addr*; its inner place (bit, line) was drawn with the anchor."""
        rng = random.Random(self._place_seed)  # noqa: S311 - reproducible on purpose
        return Target(name=self.fault.name, block=self.block, ram_addr=ram_addr, rng=rng)


def _block_of(fault: WireFault, blocks: Sequence[RamBlock]) -> RamBlock | None:
    # Arm's virt has flash of 64 MiB, larger than the memory of a small guest.
    main = [block for block in blocks if block.name in MAIN_RAM_IDS]
    named = [block for block in blocks if block.name == fault.block] if fault.block else main or blocks
    return max(named, key=lambda block: block.used_bytes, default=None)


def _anchors(fault: WireFault, block: RamBlock, rng: random.Random) -> list[_Anchor]:
    pages = block.used_bytes // PAGE_SIZE
    if CATALOGUE[fault.name].needs_resend:
        wanted = POOL_PAGES
    else:
        wanted = fault.count * (2 if fault.name == Name.SWAP_PAGES else 1)
    indexes = rng.sample(range(pages // LOWEST_SHARE, pages), min(wanted, pages - pages // LOWEST_SHARE))
    return [_Anchor(fault, block.name, index * PAGE_SIZE, rng) for index in indexes]


def _content(record: PageRecord, target: Target, offset: int) -> bytes | None:
    match record.kind:
        case PageKind.DATA:
            return bytes(record.data)
        case PageKind.ZERO:
            return ZEROS
        case PageKind.XBZRLE if target.records:
            return xbzrle.apply(target.latest, record.data, offset=offset)
        case _:
            return None
