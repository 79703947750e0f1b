"""The guest's own word on each page, read by the host: the C-bit in the leaf entry of its x86-64 page tables.

Tables are read from the memory backend, so the guest must not be encrypted for real. Format: Intel SDM vol. 3, 4.5, and
AMD APM vol. 2, 15.34 for the C-bit, which is any bit that the processor ignores or takes away from the address. A guest
may have written anything there: whatever makes no sense, and a leaf that maps another page than the one asked for, is
*unknown*, never an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from harness.model.address_map import AddressMap
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet

PRESENT = 1 << 0
LARGE = 1 << 7
"""In a PDPT entry a leaf of 1 GiB, in a PD entry one of 2 MiB."""
ADDRESS = 0x000F_FFFF_FFFF_F000
_ENTRIES = 512
_TABLE = 3
"""What a walk down to 2 MiB can find besides a view: a table of 4 KiB leaves."""
_FEW = 8
"""Up to so many regions a loop is faster than arrays."""
_CHUNK_PAGES = 1 << 20

Pages = NDArray[np.uint64]
Indexes = NDArray[np.int64]


class View(IntEnum):
    """What a leaf entry says of its page."""

    SHARED = 0
    PRIVATE = 1
    UNKNOWN = 2
    """Not mapped, or the tables make no sense."""


Views = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableMap:
    """All of the guest's tables at one moment."""

    page_map: PageMap
    """Unknown pages are private in it."""
    unknown: PageSet
    """RAM pages."""


class GuestTables:
    """Tables that map all memory at a fixed distance: gpa P is at virtual address P + *base_va*."""

    def __init__(
        self, ram: NDArray[np.uint8], addresses: AddressMap, *, root_gpa: int, c_bit: int, base_va: int = 0
    ) -> None:
        """*c_bit* is a mask; *base_va* a multiple of 2 MiB, e.g. of a kernel's direct map. ValueError otherwise."""
        if base_va % (_ENTRIES << 12):
            raise ValueError(f"base {base_va:#x} is no multiple of 2 MiB")
        self._words = ram[: len(ram) // 8 * 8].view(np.uint64)
        self._addresses, self._root_gpa, self._c_bit = addresses, root_gpa, c_bit
        self._address_mask = ADDRESS & ~c_bit
        self._base_region = base_va >> 21
        self._limit = min(addresses.pages, len(ram) >> 12)

    def look(self, ram_pages: Pages) -> Views:
        """A :class:`View` per RAM page; about 20 us for 256 neighbours."""
        gfns, has_gfn = self._gfns(ram_pages)
        if not len(gfns):
            return np.empty(0, dtype=np.uint8)
        regions = gfns >> np.uint64(9)
        first, last = int(regions.min()), int(regions.max())
        if last - first < _FEW:
            found = [self._descend(region) for region in range(first, last + 1)]
            kinds = np.array([kind for kind, _ in found], dtype=np.uint8)
            tables = np.array([table for _, table in found], dtype=np.int64)
            which = (regions - np.uint64(first)).astype(np.int64)
        else:
            distinct, which = np.unique(regions, return_inverse=True)
            kinds, tables = self._descend_all(distinct)
        views = self._leaves(kinds[which], tables[which], gfns)
        if not has_gfn.all():
            views[~has_gfn] = View.UNKNOWN
        return views

    def whole(self) -> TableMap:
        """The view of every RAM page."""
        shared, unknown = [], []
        for start in range(0, self._addresses.pages, _CHUNK_PAGES):
            end = min(start + _CHUNK_PAGES, self._addresses.pages)
            views = self.look(np.arange(start, end, dtype=np.uint64))
            shared.append(runs_of(views == View.SHARED, start))
            unknown.append(runs_of(views == View.UNKNOWN, start))
        return TableMap(
            page_map=PageMap(total_pages=self._addresses.pages, shared=_joined(shared)), unknown=_joined(unknown)
        )

    def _gfns(self, ram_pages: Pages) -> tuple[Pages, NDArray[np.bool_]]:
        gfns = np.zeros(len(ram_pages), dtype=np.uint64)
        found = np.zeros(len(ram_pages), dtype=np.bool_)
        for window in self._addresses.windows:
            inside = (ram_pages >= window.ram_page) & (ram_pages < window.ram_page + window.pages)
            gfns[inside] = ram_pages[inside] - np.uint64(window.ram_page) + np.uint64(window.gfn)
            found |= inside
        if self._addresses.unmapped:
            found &= ~self._addresses.unmapped.holds(ram_pages)
        return gfns, found

    def _descend(self, region: int) -> tuple[int, int]:
        """Of 2 MiB from gpa ``region << 21`` on: a View, or _TABLE and the RAM page of the table of leaves."""
        mapped = region + self._base_region
        table = self._ram_page(self._root_gpa >> 12)
        for shift in (18, 9, 0):
            if table < 0:
                return View.UNKNOWN, 0
            entry = int(self._words[table * _ENTRIES + (mapped >> shift) % _ENTRIES])
            if not entry & PRESENT:
                return View.UNKNOWN, 0
            frame = (entry & self._address_mask) >> 12
            if entry & LARGE:
                if shift == 18 or frame >> 9 + shift != region >> shift:
                    return View.UNKNOWN, 0
                return (View.PRIVATE if entry & self._c_bit else View.SHARED), 0
            table = self._ram_page(frame)
        return (_TABLE, table) if table >= 0 else (View.UNKNOWN, 0)

    def _descend_all(self, regions: Pages) -> tuple[Views, Indexes]:
        """As :meth:`_descend`, for many."""
        mapped = regions + np.uint64(self._base_region)
        kinds = np.full(len(regions), _TABLE, dtype=np.uint8)
        tables = np.full(len(regions), self._ram_page(self._root_gpa >> 12), dtype=np.int64)
        for shift in (18, 9, 0):
            kinds[(kinds == _TABLE) & (tables < 0)] = View.UNKNOWN
            index = ((mapped >> np.uint64(shift)) % np.uint64(_ENTRIES)).astype(np.int64)
            entries = self._words[np.maximum(tables, 0) * _ENTRIES + index]
            is_open = kinds == _TABLE
            kinds[is_open & ((entries & PRESENT) == 0)] = View.UNKNOWN
            is_leaf = is_open & ((entries & PRESENT) != 0) & ((entries & LARGE) != 0)
            frames = (entries & np.uint64(self._address_mask)) >> np.uint64(12)
            leaf_kinds = ((entries & np.uint64(self._c_bit)) != 0).astype(np.uint8)
            is_other = frames >> np.uint64(9 + shift) != regions >> np.uint64(shift)
            leaf_kinds[is_other | (shift == 18)] = View.UNKNOWN
            kinds = np.where(is_leaf, leaf_kinds, kinds).astype(np.uint8)
            tables = self._ram_pages(frames)
        kinds[(kinds == _TABLE) & (tables < 0)] = View.UNKNOWN
        return kinds, tables

    def _leaves(self, kinds: Views, tables: Indexes, gfns: Pages) -> Views:
        in_table = kinds == _TABLE
        if not in_table.any():
            return kinds
        index = tables[in_table] * _ENTRIES + (gfns[in_table] % np.uint64(_ENTRIES)).astype(np.int64)
        entries = self._words[index]
        views = ((entries & np.uint64(self._c_bit)) != 0).astype(np.uint8)
        # One look at everything that has to be right: present, and the page itself.
        wanted = gfns[in_table] << np.uint64(12) | np.uint64(PRESENT)
        views[entries & np.uint64(self._address_mask | PRESENT) != wanted] = View.UNKNOWN
        kinds[in_table] = views
        return kinds

    def _ram_page(self, gfn: int) -> int:
        """-1 where no RAM is."""
        for window in self._addresses.windows:
            ram_page = gfn - window.gfn + window.ram_page
            if window.gfn <= gfn < window.gfn + window.pages and ram_page < self._limit:
                return -1 if self._addresses.unmapped and ram_page in self._addresses.unmapped else ram_page
        return -1

    def _ram_pages(self, gfns: Pages) -> Indexes:
        found = np.full(len(gfns), -1, dtype=np.int64)
        for window in self._addresses.windows:
            inside = (gfns >= window.gfn) & (gfns < window.gfn + window.pages)
            found[inside] = gfns[inside].astype(np.int64) - window.gfn + window.ram_page
        found[found >= self._limit] = -1
        if self._addresses.unmapped:
            found[self._addresses.unmapped.holds(np.maximum(found, 0).astype(np.uint64))] = -1
        return found


def runs_of(flags: NDArray[np.bool_], start: int = 0) -> Pages:
    """Edges of the runs of True in *flags*, of which the first is page *start*."""
    padded = np.zeros(len(flags) + 2, dtype=np.int8)
    padded[1:-1] = flags
    return (np.flatnonzero(np.diff(padded)) + start).astype(np.uint64)


def _joined(edges: list[Pages]) -> PageSet:
    bounds = np.concatenate(edges) if edges else np.empty(0, dtype=np.uint64)
    return PageSet.from_bounds(bounds[::2], bounds[1::2])
