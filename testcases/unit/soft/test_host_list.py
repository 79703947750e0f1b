"""The host's list of shared frames: right where it is right, and each fault wrong in exactly its own way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.confidential.soft.memory.host_list import TRUNCATED_BITS, HostList, ListRules
from harness.model.address_map import AddressMap, Window
from harness.model.errors import StreamError
from harness.model.live_page_map import LivePageMap
from harness.model.page_map import ENCRYPTED_BIT, Conversion, PageMap
from harness.model.page_map_wire import parse_ranges, serialise
from harness.model.page_set import PageSet
from harness.model.soft_fault import SoftFault

from .small_vm import ADDRESSES, BELOW_PAGES, HIGH_GFN, TOTAL_PAGES, gpa_of, span

PROPERTY = settings(deadline=None, derandomize=True)
CALLS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, BELOW_PAGES + 40), st.integers(HIGH_GFN - 20, HIGH_GFN + 1100)),
        st.integers(0, 300),
        st.booleans(),
        st.integers(0, 3),
        st.sampled_from([0, 0, 0, -14]),
    ),
    max_size=25,
)
EVERYTHING = span(0, TOTAL_PAGES)


def call(gfn: int, count: int, *, private: bool, size: int = 0, result: int = 0) -> Conversion:
    attributes = size | (ENCRYPTED_BIT if private else 0)
    return Conversion(gpa=gfn << 12, pages=count, attributes=attributes, result=result)


def made(*conversions: Conversion, fault: SoftFault | None = None, addresses: AddressMap = ADDRESSES) -> HostList:
    host_list = HostList(addresses, ListRules.of({fault} if fault else set()))
    for conversion in conversions:
        host_list.convert(conversion)
    return host_list


def shared(gfn: int, end: int) -> Conversion:
    return call(gfn, end - gfn, private=False)


def private(gfn: int, end: int) -> Conversion:
    return call(gfn, end - gfn, private=True)


@PROPERTY
@given(CALLS)
def test_m8_any_sequence_equals_the_map_of_pages(calls: list[tuple[int, int, bool, int, int]]) -> None:
    host_list, live = made(), LivePageMap(PageMap.all_private(TOTAL_PAGES))
    gfns = PageSet.empty()
    for gfn, count, is_private, size, result in calls:
        conversion = call(gfn, count, private=is_private, size=size, result=result)
        host_list.convert(conversion)
        live.convert(conversion, ADDRESSES)
        if conversion.took_effect:
            gfns = gfns - conversion.gfns if is_private else gfns | conversion.gfns
    assert host_list.page_map() == live.snapshot()
    assert (host_list.is_shared(EVERYTHING) == live.snapshot().shared.holds(EVERYTHING)).all()
    assert host_list.entries == tuple(gfns.ranges()), "sorted, merged with both neighbours"


@PROPERTY
@given(CALLS)
def test_it_arrives_as_it_was_sent(calls: list[tuple[int, int, bool, int, int]]) -> None:
    source = made(*(call(gfn, count, private=is_private) for gfn, count, is_private, _, _ in calls))
    source.begin_sending()
    packed = source.pack()
    assert packed is not None
    destination = made(shared(3, 9))
    destination.take(packed)
    assert destination.entries == source.entries


def test_frames_without_memory_are_in_the_list_too() -> None:
    """B11: firmware marks its flash; it has no RAM page, and the list travels with it."""
    flash = 0xFFC00
    source = made(shared(flash, flash + 8))
    assert source.entries == ((flash, flash + 8),)
    assert not source.page_map().shared
    packed = source.pack()
    assert packed is not None
    assert parse_ranges(packed)[0] == PageSet.of((flash, flash + 8))


def test_a_page_without_a_frame_is_shared() -> None:
    some = AddressMap(windows=(Window(0, 0, 8),), unmapped=PageSet.empty())
    assert made(addresses=some).is_shared(span(6, 10)).tolist() == [False, False, True, True]


def test_what_is_no_list_is_refused() -> None:
    with pytest.raises(StreamError, match="tag"):
        made().take(b"\0\0\0\7")


def test_unplugged_memory_arrives_by_its_frame() -> None:
    unplugged = ADDRESSES.unplug(PageSet.of((1030, 1040)))
    wire = serialise(PageMap(total_pages=TOTAL_PAGES, shared=PageSet.of((1030, 1035))), unplugged)
    host_list = made(addresses=unplugged)
    host_list.take(wire)
    assert host_list.entries == ((HIGH_GFN + 6, HIGH_GFN + 11),)


def test_b3_a_reset_clears_it_or_not() -> None:
    for fault, entries in ((None, ()), (SoftFault.LIST_KEPT_OVER_RESET, ((4, 8),))):
        host_list = made(shared(4, 8), fault=fault)
        host_list.reset()
        assert host_list.entries == entries


def test_b6_removing_a_range_loses_the_entry_behind_it() -> None:
    calls = [shared(0, 10), shared(20, 30), shared(40, 50), private(5, 7)]
    assert made(*calls).entries == ((0, 5), (7, 10), (20, 30), (40, 50))
    lossy = made(*calls, fault=SoftFault.LIST_LOSES_NEIGHBOUR)
    assert lossy.entries == ((0, 5), (7, 10), (40, 50))
    lossy.convert(private(12, 18))
    assert lossy.entries == ((0, 5), (7, 10), (40, 50)), "what removes nothing loses nothing"


def test_b7_a_new_range_is_not_merged_with_its_successor() -> None:
    calls = [shared(10, 20), shared(0, 10), shared(20, 30)]
    assert made(*calls).entries == ((0, 30),)
    split = made(*calls, fault=SoftFault.LIST_NOT_MERGED)
    assert split.entries == ((0, 10), (10, 30))
    assert split.page_map() == made(*calls).page_map()
    assert (split.is_shared(EVERYTHING) == made(*calls).is_shared(EVERYTHING)).all()
    packed = split.pack()
    assert packed is not None
    assert len(packed) == 2 * 12 + 4, "entry by entry"


@PROPERTY
@given(CALLS)
def test_b7_is_only_about_the_number_of_entries(calls: list[tuple[int, int, bool, int, int]]) -> None:
    conversions = [call(gfn, count, private=is_private) for gfn, count, is_private, _, _ in calls]
    split, clean = made(*conversions, fault=SoftFault.LIST_NOT_MERGED), made(*conversions)
    assert split.page_map() == clean.page_map()
    assert (split.is_shared(EVERYTHING) == clean.is_shared(EVERYTHING)).all()


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("is_private", [True, False])
def test_b8_the_page_size_is_taken_for_the_encrypted_bit(size: int, is_private: bool) -> None:
    calls = [shared(0, 4), call(0, 8, private=is_private, size=size)]
    assert made(*calls).entries == (() if is_private else ((0, 8),))
    wrong = made(*calls, fault=SoftFault.PAGE_SIZE_AS_ENCRYPTED)
    assert wrong.entries == (() if is_private or size else ((0, 8),))


def test_b9_gfns_are_cut_when_they_are_sent() -> None:
    limit = 1 << TRUNCATED_BITS
    calls = [shared(5, 9), shared(limit + 100, limit + 300)]
    cut = made(*calls, fault=SoftFault.GFN_TRUNCATED)
    assert cut.entries == made(*calls).entries
    packed = cut.pack()
    assert packed is not None
    assert parse_ranges(packed)[0] == PageSet.of((5, 9), (100, 300))


def test_b10_an_offset_is_looked_up_as_a_frame() -> None:
    high = gpa_of(BELOW_PAGES) >> 12
    calls = [shared(3, 5), shared(high, high + 2)]
    assert np.flatnonzero(made(*calls).is_shared(EVERYTHING)).tolist() == [3, 4, BELOW_PAGES, BELOW_PAGES + 1]
    wrong = made(*calls, fault=SoftFault.RAM_OFFSET_AS_GPA)
    assert np.flatnonzero(wrong.is_shared(EVERYTHING)).tolist() == [3, 4]
    assert wrong.page_map().shared == PageSet.of((3, 5))
    assert wrong.entries == made(*calls).entries


def test_b12_the_list_is_not_sent() -> None:
    assert made(shared(0, 4), fault=SoftFault.LIST_NOT_SENT).pack() is None


def test_b12_an_earlier_list_of_the_stream_stays() -> None:
    for fault, entries in ((None, ((2, 4),)), (SoftFault.LIST_APPENDED, ((0, 4),))):
        source = made(shared(0, 4), fault=fault)
        source.begin_sending()
        source.convert(private(0, 2))
        packed = source.pack()
        assert packed is not None
        destination = made()
        destination.take(packed)
        assert destination.entries == entries
