"""A page map that changes page by page, as a host keeps it while the guest converts memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy as np

from harness.model.address_map import AddressMap
from harness.model.page_map import Conversion, PageMap
from harness.model.page_set import PageSet


class LivePageMap:
    """The mutable twin of :class:`PageMap`: one conversion costs microseconds whatever the size of the map."""

    def __init__(self, start: PageMap) -> None:
        self._total_pages = start.total_pages
        self._edges: list[int] = start.shared.edges.tolist()

    def convert(self, conversion: Conversion, addresses: AddressMap) -> None:
        """Apply one hypercall; a refused or failed one changes nothing."""
        if not conversion.took_effect:
            return
        first = conversion.gpa >> 12
        for start, end in addresses.ram_spans(first, first + conversion.pages):
            self.set_range(start, end, private=conversion.is_private)

    def set_range(self, start: int, end: int, *, private: bool) -> None:
        """Make RAM pages [start, end) private or shared, merging with both neighbours. ValueError outside RAM."""
        if not 0 <= start <= end <= self._total_pages:
            raise ValueError(f"pages {start:#x}-{end:#x} of {self._total_pages:#x}")
        if start == end:
            return
        # An edge at *start* or *end* disappears when the range continues a neighbour of its own kind.
        low, high = bisect_left(self._edges, start), bisect_right(self._edges, end)
        is_shared_before, is_shared_after = low % 2 == 1, high % 2 == 1
        turns = []
        if is_shared_before == private:
            turns.append(start)
        if is_shared_after == private:
            turns.append(end)
        self._edges[low:high] = turns

    def snapshot(self) -> PageMap:
        """The map as it is now."""
        shared = PageSet.from_edges(np.array(self._edges, dtype=np.uint64))
        return PageMap(total_pages=self._total_pages, shared=shared)


def replay(start: PageMap, conversions: Iterable[Conversion], addresses: AddressMap) -> PageMap:
    """The map after all *conversions* in order."""
    live = LivePageMap(start)
    for conversion in conversions:
        live.convert(conversion, addresses)
    return live.snapshot()
