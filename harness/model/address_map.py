"""Where main memory appears in guest physical space, and what of it is unmapped for the moment.

Page maps are kept by ram_addr: a RAM block is contiguous there, it has no hole below 4 GiB, and memory that is
unplugged keeps its place. Translation to and from gpa happens here, at the edge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.model.guest import FOUR_GIB, RamLayout
from harness.model.memory import PAGE_SHIFT, GpaRange
from harness.model.page_set import PageSet


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A run of RAM pages at consecutive guest frames."""

    gfn: int
    ram_page: int
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressMap:
    """The windows of one RAM block, and which of its pages have no gpa at present."""

    windows: tuple[Window, ...]
    """Ascending and disjoint in gfn, and disjoint in ram_page."""
    unmapped: PageSet
    """RAM pages that are unplugged, by ram_addr >> 12."""

    @classmethod
    def of(cls, layout: RamLayout) -> AddressMap:
        """All of main memory, everything mapped."""
        below, total = layout.below_4g_bytes >> PAGE_SHIFT, layout.total_bytes >> PAGE_SHIFT
        windows = [Window(0, 0, below)]
        if total > below:
            windows.append(Window(FOUR_GIB >> PAGE_SHIFT, below, total - below))
        return cls(windows=tuple(windows), unmapped=PageSet.empty())

    @property
    def pages(self) -> int:
        """Pages of the RAM block, unmapped ones included."""
        return sum(window.pages for window in self.windows)

    @property
    def mapped(self) -> PageSet:
        """RAM pages that have a gpa."""
        return PageSet.of(*((item.ram_page, item.ram_page + item.pages) for item in self.windows)) - self.unmapped

    def unplug(self, ram_pages: PageSet) -> AddressMap:
        """The same with *ram_pages* unmapped."""
        return replace(self, unmapped=self.unmapped | ram_pages)

    def plug(self, ram_pages: PageSet) -> AddressMap:
        """The same with *ram_pages* mapped again."""
        return replace(self, unmapped=self.unmapped - ram_pages)

    def to_ram(self, gfns: PageSet) -> tuple[PageSet, PageSet]:
        """RAM pages behind *gfns*, and those gfns that have no RAM behind them."""
        ram, found = PageSet.empty(), PageSet.empty()
        for window in self.windows:
            inside = gfns & PageSet.of((window.gfn, window.gfn + window.pages))
            here = inside.shifted(window.ram_page - window.gfn) - self.unmapped
            ram |= here
            found |= here.shifted(window.gfn - window.ram_page)
        return ram, gfns - found

    def ram_spans(self, first_gfn: int, end_gfn: int) -> list[tuple[int, int]]:
        """RAM page ranges behind one gfn range; :meth:`to_ram` for the hot path of single conversions."""
        spans = []
        for window in self.windows:
            start, end = max(first_gfn, window.gfn), min(end_gfn, window.gfn + window.pages)
            if start < end:
                offset = window.ram_page - window.gfn
                spans.append((start + offset, end + offset))
        if not self.unmapped:
            return spans
        return list((PageSet.from_ranges(spans) - self.unmapped).ranges())

    def to_gfn(self, ram_pages: PageSet) -> PageSet:
        """The guest frames at which *ram_pages* appear; unmapped ones appear nowhere."""
        gfns = PageSet.empty()
        mapped = ram_pages - self.unmapped
        for window in self.windows:
            inside = mapped & PageSet.of((window.ram_page, window.ram_page + window.pages))
            gfns |= inside.shifted(window.gfn - window.ram_page)
        return gfns

    def gpa_ranges(self, ram_pages: PageSet) -> tuple[GpaRange, ...]:
        """Maximal gpa ranges of *ram_pages*, ascending."""
        return tuple(GpaRange(start << PAGE_SHIFT, end << PAGE_SHIFT) for start, end in self.to_gfn(ram_pages).ranges())
