#!/usr/bin/env python3
"""A page map of a 64 GiB guest with 100,000 alternating ranges, compared between all six witnesses; goal: 0.1 s."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from harness.checks.page_map import check_views
from harness.model.address_map import AddressMap
from harness.model.guest import RamLayout
from harness.model.map_strip import map_strip
from harness.model.page_map import PageMap, Witness
from harness.model.page_map_views import MapEvidence, MapView
from harness.model.page_set import PageSet

RANGES = 100_000
ROUNDS = 7


def main() -> None:
    addresses = AddressMap.of(RamLayout.q35(64 << 30))
    step = addresses.pages // (2 * RANGES)
    shared = PageSet.from_ranges((start, start + step) for start in range(0, 2 * RANGES * step, 2 * step))
    same = PageMap(total_pages=addresses.pages, shared=shared)
    # One witness of six is off by a page in every range: as many disagreements as there are ranges.
    other = PageMap(total_pages=addresses.pages, shared=shared.shifted(1))
    equal, different = evidence(addresses, same, same), evidence(addresses, same, other)
    for name, work in (
        ("two maps", lambda: same.difference(other)),
        ("six witnesses that agree", lambda: check_views(equal)),
        ("six witnesses, one is off everywhere", lambda: check_views(different)),
        ("the strip of the report", lambda: map_strip(different)),
    ):
        milliseconds = 1000 * statistics.median(timed(work) for _ in range(ROUNDS))
        print(f"page map of {shared.intervals} ranges: {name:38} {milliseconds:7.2f} ms")


def evidence(addresses: AddressMap, page_map: PageMap, destination: PageMap) -> MapEvidence:
    maps = dict.fromkeys(Witness, page_map) | {Witness.DESTINATION: destination}
    return MapEvidence(
        views=tuple(MapView(witness=witness, page_map=item) for witness, item in maps.items()),
        addresses=addresses,
        initial=PageMap.all_private(addresses.pages),
    )


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
