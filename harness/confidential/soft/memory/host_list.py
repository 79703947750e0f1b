"""The list of shared guest frames as QEMU of the AMD and Hygon series keeps it: sorted half-open ranges, merged.

Whatever is not in it is private. How it is kept, read and sent is a handful of rules; each known bug replaces one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.model.address_map import AddressMap
from harness.model.page_map import Conversion, PageMap
from harness.model.page_map_wire import parse_ranges, serialise_ranges
from harness.model.page_set import PageSet
from harness.model.soft_fault import SoftFault

Pages = NDArray[np.uint64]
Range = tuple[int, int]
"""Guest frames, the end not included."""

TRUNCATED_BITS = 15
"""What is left of a gfn with GFN_TRUNCATED: the series' 32 bits, scaled to guests of some hundred MiB."""


def _merge(entries: list[Range], start: int, end: int) -> None:
    """Add a range; what overlaps or touches it on either side becomes one with it."""
    low = bisect_left(entries, start, key=lambda entry: entry[1])
    high = bisect_right(entries, end, key=lambda entry: entry[0])
    _replace(entries, low, high, start, end)


def _merge_backwards_only(entries: list[Range], start: int, end: int) -> None:
    """B7: an entry that begins where the new range ends stays one of its own."""
    low = bisect_left(entries, start, key=lambda entry: entry[1])
    high = bisect_left(entries, end, key=lambda entry: entry[0])
    _replace(entries, low, high, start, end)


def _replace(entries: list[Range], low: int, high: int, start: int, end: int) -> None:
    if low < high:
        start, end = min(start, entries[low][0]), max(end, entries[high - 1][1])
    entries[low:high] = [(start, end)]


def _cut(entries: list[Range], start: int, end: int) -> None:
    """Take a range out."""
    low = bisect_right(entries, start, key=lambda entry: entry[1])
    high = bisect_left(entries, end, key=lambda entry: entry[0])
    if low >= high:
        return
    rests = [(entries[low][0], start), (end, entries[high - 1][1])]
    entries[low:high] = [(first, last) for first, last in rests if first < last]


def _cut_and_lose_next(entries: list[Range], start: int, end: int) -> None:
    """B6: the walk goes on from an entry that is freed, and takes the one behind it out too."""
    low = bisect_right(entries, start, key=lambda entry: entry[1])
    high = bisect_left(entries, end, key=lambda entry: entry[0])
    if low < high:
        del entries[high : high + 1]
    _cut(entries, start, end)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRules:
    """How one QEMU treats its list."""

    add: Callable[[list[Range], int, int], None] = _merge
    remove: Callable[[list[Range], int, int], None] = _cut
    is_private: Callable[[Conversion], bool] = lambda conversion: conversion.is_private
    looks_up_ram_offset: bool = False
    outlives_reset: bool = False
    is_sent: bool = True
    sent_bits: int = 64
    appends: bool = False

    @classmethod
    def of(cls, faults: AbstractSet[SoftFault]) -> ListRules:
        """The rules of a QEMU with *faults*."""
        rules = cls()
        for fault, change in _FAULTY.items():
            if fault in faults:
                rules = change(rules)
        return rules


_FAULTY: Mapping[SoftFault, Callable[[ListRules], ListRules]] = {
    SoftFault.LIST_LOSES_NEIGHBOUR: lambda rules: replace(rules, remove=_cut_and_lose_next),
    SoftFault.LIST_NOT_MERGED: lambda rules: replace(rules, add=_merge_backwards_only),
    SoftFault.PAGE_SIZE_AS_ENCRYPTED: lambda rules: replace(rules, is_private=lambda call: call.attributes != 0),
    SoftFault.RAM_OFFSET_AS_GPA: lambda rules: replace(rules, looks_up_ram_offset=True),
    SoftFault.LIST_KEPT_OVER_RESET: lambda rules: replace(rules, outlives_reset=True),
    SoftFault.GFN_TRUNCATED: lambda rules: replace(rules, sent_bits=TRUNCATED_BITS),
    SoftFault.LIST_NOT_SENT: lambda rules: replace(rules, is_sent=False),
    SoftFault.LIST_APPENDED: lambda rules: replace(rules, appends=True),
}


@dataclass(slots=True)
class HostList:
    """The list of one VM. Not thread-safe: its owner locks."""

    addresses: AddressMap
    rules: ListRules = field(default_factory=ListRules)
    _entries: list[Range] = field(default_factory=list)
    _sent_before: tuple[Range, ...] = ()
    _bounds: Pages | None = None
    """Of the entries, for many look-ups at once; None after a change."""

    @property
    def entries(self) -> tuple[Range, ...]:
        """The list itself, in its own order."""
        return tuple(self._entries)

    def convert(self, conversion: Conversion) -> None:
        """Apply one hypercall; a refused or failed one changes nothing."""
        if not conversion.took_effect:
            return
        first = conversion.gpa >> 12
        change = self.rules.remove if self.rules.is_private(conversion) else self.rules.add
        change(self._entries, first, first + conversion.pages)
        self._bounds = None

    def is_shared(self, ram_pages: Pages) -> NDArray[np.bool_]:
        """What the host believes of RAM pages. A page without a gpa counts as shared, as in the series."""
        if self.rules.looks_up_ram_offset:
            return self._holds(ram_pages)
        shared = np.ones(len(ram_pages), dtype=np.bool_)
        for window in self.addresses.windows:
            inside = (ram_pages >= window.ram_page) & (ram_pages < window.ram_page + window.pages)
            shared[inside] = self._holds(ram_pages[inside] - np.uint64(window.ram_page) + np.uint64(window.gfn))
        return shared

    def names(self, gfn: int) -> bool:
        """Whether *gfn* is on the list, be there memory or not."""
        return bool(self._holds(np.array([gfn], dtype=np.uint64))[0])

    def page_map(self) -> PageMap:
        """What the host believes of all RAM pages."""
        gfns = PageSet.from_ranges(self._entries)
        everything = PageSet.of((0, self.addresses.pages))
        shared = gfns & everything if self.rules.looks_up_ram_offset else self.addresses.to_ram(gfns)[0]
        return PageMap(total_pages=self.addresses.pages, shared=shared)

    def reset(self) -> None:
        """The boot CPU was reset."""
        if not self.rules.outlives_reset:
            self._set([])

    def begin_sending(self) -> None:
        """A stream begins. The appending bug (B12): a first list goes with it, and the last one is added to that."""
        self._sent_before = tuple(self._entries) if self.rules.appends else ()

    def pack(self) -> bytes | None:
        """The list as it travels, entry by entry; None when this QEMU sends none."""
        if not self.rules.is_sent:
            return None
        mask = (1 << self.rules.sent_bits) - 1
        bounds = [(start & mask, (start & mask) + end - start) for start, end in (*self._sent_before, *self._entries)]
        return serialise_ranges(np.array(bounds, dtype=np.uint64).reshape(-1, 2))

    def take(self, data: bytes) -> None:
        """A list that came in. Raises StreamError for what is none."""
        gfns, hidden, _ = parse_ranges(data)
        mapped = replace(self.addresses, unmapped=PageSet.empty())
        self._set(list((gfns | mapped.to_gfn(hidden)).ranges()))

    def _set(self, entries: list[Range]) -> None:
        self._entries, self._bounds = entries, None

    def _holds(self, gfns: Pages) -> NDArray[np.bool_]:
        if self._bounds is None:
            self._bounds = np.array(self._entries, dtype=np.uint64).reshape(-1)
        # Touching entries give equal bounds, which is as good as none: both turn the parity at the same place.
        return (np.searchsorted(self._bounds, gfns, side="right") & 1).astype(np.bool_)
