"""The page map of one move as a strip for the report: a row per witness, a letter per column of neighbouring pages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from harness.model.drawings import MapStrip, PageKind, StripRow
from harness.model.memory import GpaRange
from harness.model.page_map import Witness
from harness.model.page_map_views import GUEST_SIDE, MapEvidence, MapView
from harness.model.page_set import Edges, PageSet

COLUMNS_MAX = 1000
_RANGES_KEPT = 12

Counts = np.ndarray[tuple[int], np.dtype[np.int64]]


def map_strip(evidence: MapEvidence, *, title: str = "") -> MapStrip:
    """The strip of *evidence*. A row is wrong where it departs from the guest; where the guest cannot speak, from the
    first witness that can. One wrong page makes its whole column wrong, however many pages the column has.
    """
    views = _guest_first(evidence.settled_views())
    total = evidence.addresses.pages
    per_column = max(1, -(-total // COLUMNS_MAX))
    # The last column may be short: a page beyond the end is in no set.
    columns = np.arange(0, -(-total // per_column) * per_column + 1, per_column, dtype=np.uint64)
    reference = _reference(views)
    wrong = [_wrong(view, reference) for view in views]
    anywhere = PageSet.empty()
    for pages in wrong:
        anywhere |= pages
    places = evidence.addresses.to_gfn(anywhere)
    hidden = anywhere.pages - places.pages
    words = [str(GpaRange(start << 12, end << 12)) for start, end in islice(places.ranges(), _RANGES_KEPT)]
    return MapStrip(
        title=title,
        total_pages=total,
        pages_per_column=per_column,
        windows=tuple((item.gfn, item.ram_page, item.pages) for item in evidence.addresses.windows),
        rows=tuple(_row(view, pages, columns) for view, pages in zip(views, wrong, strict=True)),
        mismatch_pages=anywhere.pages,
        mismatches=(*words, f"{hidden} pages without a gpa") if hidden else tuple(words),
        mismatches_left_out=max(0, places.intervals - _RANGES_KEPT),
    )


def _guest_first(views: Sequence[MapView]) -> list[MapView]:
    return sorted(views, key=lambda view: (view.witness not in GUEST_SIDE, list(Witness).index(view.witness)))


def _shared(view: MapView) -> PageSet:
    return view.page_map.shared if view.knows is None else view.page_map.shared & view.knows


def _wrong(view: MapView, reference: PageSet) -> PageSet:
    differs = view.page_map.shared ^ reference
    return differs if view.knows is None else differs & view.knows


def _reference(views: Sequence[MapView]) -> PageSet:
    """Shared pages by the first view that knows each."""
    shared, known = PageSet.empty(), PageSet.empty()
    for view in views:
        shared |= _shared(view) - known
        known |= view.known
        if view.knows is None:
            break
    return shared


def _row(view: MapView, wrong: PageSet, columns: Edges) -> StripRow:
    known = _counts(view.known, columns)
    shared = _counts(_shared(view), columns)
    kinds = np.full(len(known), PageKind.BOTH.value)
    kinds[shared == 0] = PageKind.PRIVATE.value
    kinds[(shared == known) & (shared > 0)] = PageKind.SHARED.value
    kinds[known == 0] = PageKind.UNKNOWN.value
    kinds[_counts(wrong, columns) > 0] = PageKind.MISMATCH.value
    return StripRow(witness=view.witness.value, kinds="".join(kinds.tolist()))


def _counts(pages: PageSet, columns: Edges) -> Counts:
    """How many of *pages* lie between each two neighbours of *columns*."""
    starts, ends = pages.edges[::2], pages.edges[1::2]
    before = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64)
    index = np.searchsorted(starts, columns, side="left")
    overshoot = np.zeros(len(columns), dtype=np.int64)
    inside = index > 0
    last = ends[index[inside] - 1].astype(np.int64)
    overshoot[inside] = np.maximum(0, last - columns[inside].astype(np.int64))
    below: Counts = before[index] - overshoot
    return np.diff(below)
