"""The page map as a strip: what a column says, and that no wrong page disappears in it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.model.address_map import AddressMap, Window
from harness.model.drawings import MapStrip, PageKind, StripRow
from harness.model.guest import RamLayout
from harness.model.map_strip import COLUMNS_MAX, map_strip
from harness.model.page_map import PageMap, Witness
from harness.model.page_map_views import MapEvidence, MapView
from harness.model.page_set import PageSet
from harness.report.strip import STRIP_LEFT, STRIP_RIGHT, draw_strip

TOTAL = 3500
ADDRESSES = AddressMap(windows=(Window(0, 0, 2000), Window(0x100000, 2000, 1500)), unmapped=PageSet.empty())
SHARED = PageSet.of((0, 4), (5, 6), (3000, 3400))
TRUTH = PageMap(total_pages=TOTAL, shared=SHARED)
PER_COLUMN = 4


def evidence(**maps: PageMap) -> MapEvidence:
    views = tuple(MapView(witness=witness, page_map=maps.get(witness.name.lower(), TRUTH)) for witness in Witness)
    return MapEvidence(views=views, addresses=ADDRESSES, initial=PageMap.all_private(TOTAL))


def row(strip: MapStrip, witness: Witness) -> str:
    return next(row.kinds for row in strip.rows if row.witness == witness)


def test_columns_say_what_lies_in_them() -> None:
    strip = map_strip(evidence(), title="hop 1")
    assert (strip.pages_per_column, strip.total_pages, strip.title) == (PER_COLUMN, TOTAL, "hop 1")
    kinds = row(strip, Witness.HOST_LIST)
    assert kinds[:3] == "sbp"
    assert kinds[3000 // PER_COLUMN : 3400 // PER_COLUMN] == "s" * 100
    assert len(kinds) == TOTAL // PER_COLUMN
    assert (strip.mismatch_pages, strip.mismatches) == (0, ())


@given(
    st.sets(st.integers(0, TOTAL - 1), min_size=1, max_size=30),
    st.sampled_from([witness for witness in Witness if witness != Witness.GUEST_TABLES]),
)
@settings(deadline=None, derandomize=True)
def test_a_single_wrong_page_makes_its_column_wrong_and_no_other(pages: set[int], witness: Witness) -> None:
    flipped = PageSet.from_ranges((page, page + 1) for page in pages)
    wrong = PageMap(total_pages=TOTAL, shared=SHARED ^ flipped)
    strip = map_strip(evidence(**{witness.name.lower(): wrong}))
    for item in strip.rows:
        found = {index for index, kind in enumerate(item.kinds) if kind == PageKind.MISMATCH}
        assert found == ({page // PER_COLUMN for page in pages} if item.witness == witness else set())
    assert strip.mismatch_pages == len(pages)


@given(st.integers(1, 5000), st.lists(st.tuples(st.integers(0, 4999), st.integers(1, 99)), max_size=20))
@settings(deadline=None, derandomize=True)
def test_every_column_is_counted_as_page_by_page(total: int, some: list[tuple[int, int]]) -> None:
    shared = PageSet.from_ranges((start, min(start + length, total)) for start, length in some if start < total)
    addresses = AddressMap(windows=(Window(0, 0, total),), unmapped=PageSet.empty())
    page_map = PageMap(total_pages=total, shared=shared)
    views = (MapView(witness=Witness.GUEST_TABLES, page_map=page_map),)
    strip = map_strip(MapEvidence(views=views, addresses=addresses, initial=page_map))
    members = {page for start, end in shared.ranges() for page in range(start, end)}
    assert len(strip.rows[0].kinds) <= COLUMNS_MAX
    for index, kind in enumerate(strip.rows[0].kinds):
        column = range(index * strip.pages_per_column, min((index + 1) * strip.pages_per_column, total))
        inside = sum(page in members for page in column)
        assert kind == ("p" if not inside else "s" if inside == len(column) else "b")


def test_what_a_witness_does_not_know_is_unknown_and_never_wrong() -> None:
    base = evidence(stream=PageMap.all_private(TOTAL))
    partial = replace(base.views[4], knows=PageSet.of((8, 2990)))
    assert partial.witness is Witness.STREAM
    strip = map_strip(replace(base, views=(*base.views[:4], partial)))
    kinds = row(strip, Witness.STREAM)
    assert kinds[:3] == "--p"
    assert PageKind.MISMATCH not in set(kinds)


def test_pages_in_flight_are_left_to_the_next_witness() -> None:
    flying = PageSet.of((100, 108))
    behind = PageMap(total_pages=TOTAL, shared=SHARED | flying)
    base = replace(evidence(host_list=behind, hypercall_log=TRUTH), in_flight=flying)
    strip = map_strip(base)
    assert row(strip, Witness.GUEST_TABLES)[25:27] == "--"
    assert row(strip, Witness.HOST_LIST)[25:27] == "mm"


def test_mismatches_are_told_in_words_and_bounded() -> None:
    flipped = PageSet.from_ranges((page, page + 1) for page in range(1990, 2030, 2))
    strip = map_strip(evidence(destination=PageMap(total_pages=TOTAL, shared=SHARED ^ flipped)))
    assert strip.mismatches[0] == "0x7c6000-0x7c6fff"
    assert strip.mismatches[5] == "0x100000000-0x100000fff"
    assert (len(strip.mismatches), strip.mismatches_left_out) == (12, 8)
    hidden = evidence(destination=PageMap(total_pages=TOTAL, shared=SHARED ^ flipped))
    hidden = replace(hidden, addresses=ADDRESSES.unplug(PageSet.of((1990, 2030))))
    assert map_strip(hidden).mismatches == ("20 pages without a gpa",)


def test_a_large_guest_with_many_ranges_has_a_strip_too() -> None:
    addresses = AddressMap.of(RamLayout.q35(64 << 30))
    shared = PageSet.from_ranges((start, start + 83) for start in range(0, 166 * 100_000, 166))
    assert shared.intervals == 100_000
    same = PageMap(total_pages=addresses.pages, shared=shared)
    off = same.with_pages(PageSet.of((83, 84)), private=False)
    views = tuple(
        MapView(witness=witness, page_map=off if witness is Witness.DESTINATION else same) for witness in Witness
    )
    strip = map_strip(MapEvidence(views=views, addresses=addresses, initial=PageMap.all_private(addresses.pages)))
    assert row(strip, Witness.DESTINATION)[0] == PageKind.MISMATCH
    assert set(row(strip, Witness.DESTINATION)[1:]) == {PageKind.BOTH, PageKind.PRIVATE}
    assert strip.mismatch_pages == 1


def test_the_drawing_has_every_row_a_pointer_and_a_hole() -> None:
    flipped = PageSet.of((100, 101), (101, 102), (3450, 3451))
    drawing = draw_strip(map_strip(evidence(host_list=PageMap(total_pages=TOTAL, shared=SHARED ^ flipped))))
    assert drawing is not None
    assert [row.name for row in drawing.rows] == [
        "guest",
        "guest, by host",
        "hypercalls",
        "host",
        "wire",
        "destination",
    ]
    assert len(drawing.pointers) == 2
    assert [tick.label for tick in drawing.ticks if tick.edge] == ["0x100000000"]
    host = next(row for row in drawing.rows if row.name == "host")
    assert host.paths[-1][0] == "mismatch"
    assert all(STRIP_LEFT <= tick.x < STRIP_RIGHT for tick in drawing.ticks)


@pytest.mark.parametrize("total", [1, 2, 999, 1000, 1001, 65536, 1 << 24])
def test_a_guest_of_any_size_can_be_drawn(total: int) -> None:
    addresses = AddressMap(windows=(Window(0, 0, total),), unmapped=PageSet.empty())
    page_map = PageMap.all_private(total)
    views = (MapView(witness=Witness.GUEST_TABLES, page_map=page_map),)
    drawing = draw_strip(map_strip(MapEvidence(views=views, addresses=addresses, initial=page_map)))
    assert drawing is not None
    assert drawing.ticks[0].label == "0x0"
    assert all(b.x - a.x > 7 * len(b.label) for a, b in zip(drawing.ticks, drawing.ticks[1:], strict=False))


def test_nothing_gives_no_strip() -> None:
    empty = MapStrip(title="", total_pages=0, pages_per_column=1, windows=(), rows=(), mismatch_pages=0, mismatches=())
    assert draw_strip(empty) is None
    assert draw_strip(replace(empty, rows=(StripRow(witness="x", kinds=""),))) is None
    assert draw_strip(replace(empty, pages_per_column=0, rows=(StripRow(witness="x", kinds="p"),))) is None
    odd = draw_strip(replace(empty, rows=(StripRow(witness="x", kinds="?p"), StripRow(witness="y", kinds="p"))))
    assert odd is not None
    assert odd.rows[0].paths[0][0] == "unknown"
