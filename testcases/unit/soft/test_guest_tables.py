"""The host's walk of the guest's page tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.confidential.soft.memory.guest_tables import LARGE, PRESENT, GuestTables, View
from harness.confidential.soft.options import SOFT_C_BIT
from harness.model.address_map import AddressMap
from harness.model.memory import PAGE_SIZE
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet

from .small_vm import (
    ADDRESSES,
    BELOW_PAGES,
    ENTRIES,
    FIRST_TABLE,
    PD_HIGH,
    PD_LOW,
    PDPT,
    PML4,
    TOTAL_PAGES,
    Memory,
    gpa_of,
    pages,
    span,
)

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)
EVERYTHING = span(0, TOTAL_PAGES)


def memory() -> Memory:
    made = Memory()
    made.build()
    return made


def tables(of: Memory, *, c_bit: int = SOFT_C_BIT, addresses: AddressMap = ADDRESSES, base_va: int = 0) -> GuestTables:
    return GuestTables(of.ram, addresses, root_gpa=PML4 << 12, c_bit=c_bit, base_va=base_va)


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, TOTAL_PAGES - 1), st.integers(1, 700), st.booleans()), max_size=6))
def test_every_way_of_looking_gives_what_was_mapped(ranges: list[tuple[int, int, bool]]) -> None:
    guest = memory()
    expected = np.full(TOTAL_PAGES, View.PRIVATE, dtype=np.uint8)
    for start, count, private in ranges:
        end = min(start + count, TOTAL_PAGES)
        guest.map(start, end, private=private)
        expected[start:end] = View.PRIVATE if private else View.SHARED
    walk = tables(guest)
    assert (walk.look(EVERYTHING) == expected).all()
    for start in range(0, TOTAL_PAGES, 256):
        assert (walk.look(span(start, start + 256)) == expected[start : start + 256]).all()
    assert walk.whole().page_map == PageMap(
        total_pages=TOTAL_PAGES,
        shared=PageSet.of(*((page, page + 1) for page in np.flatnonzero(expected == 0).tolist())),
    )
    assert not walk.whole().unknown


def test_pages_may_come_in_any_order_and_more_than_once() -> None:
    guest = memory()
    guest.map(700, 701, private=False)
    guest.map(1900, 1901, private=False)
    wanted = pages(1900, 5, 700, 700, 1899, 701)
    assert tables(guest).look(wanted).tolist() == [0, 1, 0, 0, 1, 1]
    assert tables(guest).look(pages()).tolist() == []


def test_a_leaf_of_2_mib_holds_for_all_its_pages() -> None:
    guest = memory()
    guest.large(1, private=False)
    guest.large(3, private=False)
    shared = tables(guest).whole().page_map.shared
    assert shared == PageSet.of((ENTRIES, 2 * ENTRIES), (3 * ENTRIES, 4 * ENTRIES))


def test_a_leaf_of_1_gib_holds_for_all_its_pages() -> None:
    guest = memory()
    guest.entry(PDPT, 0, PRESENT | LARGE)
    assert tables(guest).whole().page_map.shared == PageSet.of((0, BELOW_PAGES))


@pytest.mark.parametrize("bit", [47, 51, 58])
def test_any_bit_can_be_the_c_bit(bit: int) -> None:
    """A real one takes its place away from the address."""
    guest = memory()
    mask = np.uint64(1 << bit)
    for table in range(FIRST_TABLE, FIRST_TABLE + TOTAL_PAGES // ENTRIES):
        words = guest.words[table * ENTRIES : (table + 1) * ENTRIES]
        words |= mask
    guest.words[FIRST_TABLE * ENTRIES + 7] &= ~mask
    for table in (PML4, PDPT, PD_LOW, PD_HIGH):
        words = guest.words[table * ENTRIES : (table + 1) * ENTRIES]
        words[words != 0] |= mask
    found = tables(guest, c_bit=1 << bit).whole()
    assert found.page_map.shared == PageSet.of((7, 8))
    assert not found.unknown


def test_what_is_not_mapped_is_unknown_and_counts_as_private() -> None:
    guest = memory()
    guest.unmap(30, 40)
    guest.entry(PD_HIGH, 0, 0)
    found = tables(guest).whole()
    assert found.unknown == PageSet.of((30, 40), (BELOW_PAGES, BELOW_PAGES + ENTRIES))
    assert not found.page_map.shared


def test_unplugged_memory_is_unknown() -> None:
    found = tables(memory(), addresses=ADDRESSES.unplug(PageSet.of((1500, 1600)))).whole()
    assert found.unknown == PageSet.of((1500, 1600))


def test_a_table_that_is_unplugged_is_not_followed() -> None:
    addresses = ADDRESSES.unplug(PageSet.of((600, 601)))
    guest = memory()
    first = guest.words[FIRST_TABLE * ENTRIES : (FIRST_TABLE + 1) * ENTRIES]
    guest.words[600 * ENTRIES : 601 * ENTRIES] = first
    guest.entry(PD_LOW, 0, 600 << 12 | PRESENT)
    assert not tables(guest).whole().unknown
    for look in (EVERYTHING, span(0, 9)):
        assert (tables(guest, addresses=addresses).look(look)[:9] == View.UNKNOWN).all()


@pytest.mark.parametrize(
    ("table", "index", "entry"),
    [
        (PML4, 0, PML4 << 12 | PRESENT),
        (PML4, 0, 0xFFFF_FFFF_F000 | PRESENT),
        (PML4, 0, PDPT << 12 | PRESENT | LARGE),
        (PDPT, 0, BELOW_PAGES << 12 | PRESENT),
        (PD_LOW, 0, 3 << 30 | PRESENT),
        (PD_LOW, 0, gpa_of(TOTAL_PAGES - 1) + PAGE_SIZE | PRESENT),
    ],
    ids=["itself", "beyond", "leaf-at-the-top", "in-the-hole", "no-memory", "behind-the-end"],
)
def test_tables_that_make_no_sense_are_unknown(table: int, index: int, entry: int) -> None:
    guest = memory()
    guest.entry(table, index, entry)
    found = tables(guest).whole()
    assert PageSet.of((0, ENTRIES)).issubset(found.unknown)
    assert (tables(guest).look(span(0, 9)) == View.UNKNOWN).all()


def test_a_leaf_that_maps_another_page_says_nothing_of_this_one() -> None:
    guest = memory()
    guest.entry(FIRST_TABLE, 5, gpa_of(6) | PRESENT)
    guest.entry(PD_LOW, 1, gpa_of(0) | PRESENT | LARGE)
    assert tables(guest).whole().unknown == PageSet.of((5, 6), (ENTRIES, 2 * ENTRIES))
    assert not tables(guest).whole().page_map.shared


@PROPERTY
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_garbage_never_breaks_a_walk(seed: int, root: int) -> None:
    ram = np.random.default_rng(seed).integers(0, 256, 64 * PAGE_SIZE, dtype=np.uint8)
    # Mostly small addresses, so that some entries lead somewhere.
    words = ram.view(np.uint64)
    words[::3] &= np.uint64(0x3F0FF)
    for addresses in (ADDRESSES, AddressMap(windows=(), unmapped=PageSet.empty())):
        walk = GuestTables(ram, addresses, root_gpa=root % (1 << 18) if seed % 2 else root, c_bit=SOFT_C_BIT)
        assert walk.look(EVERYTHING).max() <= View.UNKNOWN
        assert (walk.look(EVERYTHING[:9]) == walk.look(EVERYTHING)[:9]).all()
        walk.whole()


def test_a_direct_map_may_begin_elsewhere() -> None:
    guest = memory()
    guest.map(3, 4, private=False)
    base = 0xFFFF_8880_0000_0000
    guest.entry(PML4, base >> 39 & 511, PDPT << 12 | PRESENT)
    guest.entry(PML4, 0, 0)
    assert tables(guest, base_va=base).whole().page_map.shared == PageSet.of((3, 4))
    assert tables(guest).whole().unknown.pages == TOTAL_PAGES
    with pytest.raises(ValueError, match="2 MiB"):
        tables(guest, base_va=0x1000)
