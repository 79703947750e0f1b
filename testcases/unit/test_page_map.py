"""The page map: the invariants M1-M8 as properties, against a plain per-page model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.address_map import AddressMap, Window
from harness.model.errors import StreamError
from harness.model.guest import FOUR_GIB, RamLayout
from harness.model.live_page_map import LivePageMap, replay
from harness.model.page_map import ENCRYPTED_BIT, Conversion, PageMap
from harness.model.page_map_wire import END, parse, parse_ranges, serialise
from harness.model.page_set import PageSet, points_of

PROPERTY = settings(deadline=None, derandomize=True)
"""The same examples in every run, and no clock decides."""

RAM_PAGES = 48
SPLIT = 20
LAYOUT = RamLayout(below_4g_bytes=SPLIT << 12, total_bytes=RAM_PAGES << 12)
ADDRESSES = AddressMap.of(LAYOUT)
HIGH_GFN = FOUR_GIB >> 12

page_ranges = st.tuples(st.integers(0, RAM_PAGES), st.integers(0, RAM_PAGES)).map(lambda pair: (min(pair), max(pair)))
page_sets = st.lists(page_ranges, max_size=8).map(PageSet.from_ranges)
gfns = st.one_of(st.integers(0, SPLIT + 4), st.integers(HIGH_GFN - 4, HIGH_GFN + RAM_PAGES))
conversions = st.builds(
    Conversion,
    gpa=gfns.map(lambda gfn: gfn << 12),
    pages=st.integers(1, 24),
    attributes=st.sampled_from([size | enc for size in (0, 1, 2) for enc in (0, ENCRYPTED_BIT)]),
)


def as_pages(pages: PageSet) -> set[int]:
    return {page for start, end in pages.ranges() for page in range(start, end)}


def shared_by_model(calls: list[Conversion], addresses: AddressMap = ADDRESSES) -> set[int]:
    shared: set[int] = set()
    for call in calls:
        for gfn in range(call.gpa >> 12, (call.gpa >> 12) + call.pages):
            try:
                page = LAYOUT.gpa_to_ram(gfn << 12) >> 12
            except ValueError:
                continue
            if page not in addresses.unmapped:
                (shared.discard if call.is_private else shared.add)(page)
    return shared


@PROPERTY
@given(st.lists(page_ranges, max_size=10))
def test_a_set_of_ranges_holds_exactly_their_pages_in_the_fewest_ranges(ranges: list[tuple[int, int]]) -> None:
    found = PageSet.from_ranges(ranges)
    wanted = {page for start, end in ranges for page in range(start, end)}
    assert as_pages(found) == wanted
    assert found.pages == len(wanted)
    assert found.intervals == sum(1 for page in wanted if page - 1 not in wanted)


@PROPERTY
@given(page_sets, page_sets)
def test_set_operations_agree_with_sets_of_pages(one: PageSet, other: PageSet) -> None:
    left, right = as_pages(one), as_pages(other)
    assert as_pages(one | other) == left | right
    assert as_pages(one & other) == left & right
    assert as_pages(one - other) == left - right
    assert as_pages(one ^ other) == left ^ right
    assert one.issubset(other) == left.issubset(right)
    assert (one == other) == (left == right)
    assert [page in one for page in range(RAM_PAGES)] == [page in left for page in range(RAM_PAGES)]


def test_malformed_edges_and_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        PageSet.from_edges(np.array([3, 3], dtype=np.uint64))
    with pytest.raises(ValueError, match="ascending"):
        PageSet.from_edges(np.array([3], dtype=np.uint64))
    with pytest.raises(ValueError, match="ends before"):
        PageSet.of((5, 4))


def test_points_are_where_any_set_changes() -> None:
    assert points_of(PageSet.of((1, 4)), PageSet.of((4, 6)), PageSet.empty()).tolist() == [1, 4, 6]


@PROPERTY
@given(st.lists(conversions, max_size=12))
def test_m1_private_and_shared_are_all_of_ram_and_never_both(calls: list[Conversion]) -> None:
    found = replay(PageMap.all_private(RAM_PAGES), calls, ADDRESSES)
    assert found.private | found.shared == found.everything
    assert not found.private & found.shared


@PROPERTY
@given(st.lists(conversions, max_size=12))
def test_m2_and_m8_any_sequence_equals_the_per_page_model(calls: list[Conversion]) -> None:
    found = replay(PageMap.all_private(RAM_PAGES), calls, ADDRESSES)
    assert as_pages(found.shared) == shared_by_model(calls)
    one_by_one = PageMap.all_private(RAM_PAGES)
    for call in calls:
        one_by_one = one_by_one.convert(call, ADDRESSES)
    assert one_by_one == found


@PROPERTY
@given(st.lists(conversions, max_size=12), st.lists(conversions, max_size=12))
def test_m8_a_log_may_be_cut_anywhere(first: list[Conversion], second: list[Conversion]) -> None:
    start = PageMap.all_private(RAM_PAGES)
    assert replay(start, first + second, ADDRESSES) == replay(replay(start, first, ADDRESSES), second, ADDRESSES)


@PROPERTY
@given(st.lists(st.tuples(page_ranges, st.booleans()), max_size=20))
def test_b7_the_live_map_merges_with_both_neighbours(changes: list[tuple[tuple[int, int], bool]]) -> None:
    live = LivePageMap(PageMap.all_private(RAM_PAGES))
    wanted: set[int] = set()
    for (start, end), private in changes:
        live.set_range(start, end, private=private)
        wanted = wanted - set(range(start, end)) if private else wanted | set(range(start, end))
    shared = live.snapshot().shared
    assert as_pages(shared) == wanted
    assert shared.intervals == sum(1 for page in wanted if page - 1 not in wanted)


@pytest.mark.parametrize("span", [(-1, 2), (4, 3), (0, RAM_PAGES + 1)])
def test_a_range_outside_ram_is_refused_by_the_live_map(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="pages"):
        LivePageMap(PageMap.all_private(RAM_PAGES)).set_range(*span, private=False)


def test_a_map_cannot_name_pages_beyond_its_end() -> None:
    with pytest.raises(ValueError, match="shared page"):
        PageMap(total_pages=4, shared=PageSet.of((3, 5)))


@PROPERTY
@given(page_sets, st.booleans())
def test_m3_a_map_survives_the_wire(shared: PageSet, unplug_some: bool) -> None:
    addresses = ADDRESSES.unplug(PageSet.of((SPLIT - 3, SPLIT + 5))) if unplug_some else ADDRESSES
    source = PageMap(total_pages=RAM_PAGES, shared=shared)
    data = serialise(source, addresses)
    assert parse(data + b"whatever follows", addresses) == (source, len(data))


def test_m3_a_second_hop_carries_the_same_bytes() -> None:
    source = PageMap(total_pages=RAM_PAGES, shared=PageSet.of((1, 3), (SPLIT - 1, SPLIT + 1)))
    first = serialise(source, ADDRESSES)
    arrived, _ = parse(first, ADDRESSES)
    assert serialise(arrived, ADDRESSES) == first


@PROPERTY
@given(st.lists(conversions, max_size=12))
def test_m4_and_m5_telling_all_of_ram_private_leaves_nothing_of_an_old_kernel(calls: list[Conversion]) -> None:
    reset = [
        Conversion(gpa=window.gfn << 12, pages=window.pages, attributes=ENCRYPTED_BIT) for window in ADDRESSES.windows
    ]
    assert replay(PageMap.all_private(RAM_PAGES), calls + reset, ADDRESSES) == PageMap.all_private(RAM_PAGES)


@PROPERTY
@given(page_sets)
def test_m6_each_page_has_one_kind_for_whoever_asks(shared: PageSet) -> None:
    found = PageMap(total_pages=RAM_PAGES, shared=shared)
    every = np.arange(RAM_PAGES, dtype=np.uint64)
    assert (found.shared.holds(every) != found.private.holds(every)).all()


@PROPERTY
@given(st.lists(conversions, max_size=12), st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_m7_page_size_bits_never_change_the_meaning(calls: list[Conversion], sizes: list[int]) -> None:
    others = [
        Conversion(gpa=call.gpa, pages=call.pages, attributes=call.attributes & ENCRYPTED_BIT | size)
        for call, size in zip(calls, sizes, strict=False)
    ]
    start = PageMap.all_private(RAM_PAGES)
    assert replay(start, calls, ADDRESSES) == replay(start, others, ADDRESSES)


@PROPERTY
@given(page_sets)
def test_translation_goes_round_across_the_hole(pages: PageSet) -> None:
    frames = ADDRESSES.to_gfn(pages)
    assert ADDRESSES.to_ram(frames) == (pages, PageSet.empty())
    assert as_pages(frames) == {LAYOUT.ram_to_gpa(page << 12) >> 12 for page in as_pages(pages)}


def test_frames_without_ram_are_told_and_change_nothing() -> None:
    hole = PageSet.of((SPLIT - 1, SPLIT + 2))
    assert ADDRESSES.to_ram(hole) == (PageSet.of((SPLIT - 1, SPLIT)), PageSet.of((SPLIT, SPLIT + 2)))


def test_unmapped_memory_keeps_its_status_until_it_is_back() -> None:
    block = PageSet.of((4, 8))
    start = PageMap(total_pages=RAM_PAGES, shared=PageSet.of((4, 6)))
    unplugged = ADDRESSES.unplug(block)
    calls = [Conversion(gpa=0, pages=SPLIT, attributes=ENCRYPTED_BIT)]
    assert replay(start, calls, unplugged).shared == PageSet.of((4, 6))
    assert start.convert(calls[0], unplugged).shared == PageSet.of((4, 6))
    assert unplugged.to_ram(PageSet.of((3, 9))) == (PageSet.of((3, 4), (8, 9)), block)
    assert unplugged.to_gfn(start.shared) == PageSet.empty()
    assert unplugged.plug(block).to_gfn(start.shared) == PageSet.of((4, 6))
    assert unplugged.mapped == PageSet.of((0, 4), (8, RAM_PAGES))


@PROPERTY
@given(st.integers(0, 1 << 20), st.integers(1, 1 << 16))
def test_b5_bytes_become_every_page_that_they_touch(gpa: int, size_bytes: int) -> None:
    call = Conversion.of_bytes(gpa, size_bytes, private=False)
    touched = {address >> 12 for address in (*range(gpa, gpa + size_bytes, 4096), gpa + size_bytes - 1)}
    assert as_pages(call.gfns) == touched
    assert not call.refusal


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Conversion(gpa=0x1001, pages=1, attributes=0), "aligned"),
        (Conversion(gpa=0x1000, pages=0, attributes=0), "no pages"),
        (Conversion(gpa=0x1000, pages=(1 << 64) - 1, attributes=0), "wraps"),
        (Conversion(gpa=0x1000, pages=1, attributes=3), "page size"),
        (Conversion(gpa=0x1000, pages=1, attributes=0x20), "reserved"),
    ],
)
def test_calls_that_kvm_would_refuse_change_nothing(call: Conversion, reason: str) -> None:
    assert reason in call.refusal
    start = PageMap(total_pages=RAM_PAGES, shared=PageSet.of((0, 3)))
    assert replay(start, [call], ADDRESSES) == start == start.convert(call, ADDRESSES)


def test_b51_a_call_that_failed_changes_nothing() -> None:
    call = Conversion(gpa=0x1000, pages=2, attributes=0, result=-22)
    start = PageMap.all_private(RAM_PAGES)
    assert replay(start, [call], ADDRESSES) == start == start.convert(call, ADDRESSES)


def test_the_list_of_the_series_is_read_and_written_byte_for_byte() -> None:
    source = PageMap(total_pages=RAM_PAGES, shared=PageSet.of((1, 3), (SPLIT, SPLIT + 2)))
    wanted = "00000001 00000001 00000003 00000001 00100000 00100002 00000002"
    assert serialise(source, ADDRESSES).hex(" ", 4) == wanted


def test_b9_frames_beyond_32_bits_travel_whole() -> None:
    addresses = AddressMap(windows=(Window(0, 0, 8), Window((1 << 32) - 2, 8, 8)), unmapped=PageSet.empty())
    source = PageMap(total_pages=16, shared=PageSet.of((7, 10), (12, 13)))
    data = serialise(source, addresses)
    assert parse(data, addresses) == (source, len(data))
    assert parse_ranges(data)[0] == PageSet.of((7, 8), ((1 << 32) - 2, 1 << 32), ((1 << 32) + 2, (1 << 32) + 3))


def test_lists_that_are_none_are_refused_with_their_place() -> None:
    good = serialise(PageMap(total_pages=RAM_PAGES, shared=PageSet.of((1, 3))), ADDRESSES)
    for cut in range(len(good)):
        with pytest.raises(StreamError, match="cut short"):
            parse(good[:cut], ADDRESSES)
    with pytest.raises(StreamError, match=r"unknown tag 0x7 .*0xc"):
        parse(good[:12] + (7).to_bytes(4, "big"), ADDRESSES)
    with pytest.raises(StreamError, match="ends before"):
        parse(bytes.fromhex("000000010000000500000004") + END.to_bytes(4, "big"), ADDRESSES)
    beyond = bytes.fromhex("00000102") + RAM_PAGES.to_bytes(8, "big") + (RAM_PAGES + 1).to_bytes(8, "big")
    with pytest.raises(StreamError, match="beyond the end"):
        parse(beyond + END.to_bytes(4, "big"), ADDRESSES)
