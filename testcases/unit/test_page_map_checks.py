"""The checks of the page map: silent when all witnesses agree, and each planted fault is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks.page_map import check_after_reset, check_hypercalls, check_shared_list, check_views
from harness.model.address_map import AddressMap, Window
from harness.model.guest import RamLayout
from harness.model.live_page_map import replay
from harness.model.page_map import ENCRYPTED_BIT, Conversion, PageMap, Witness
from harness.model.page_map_views import MapEvidence, MapView, disagreements
from harness.model.page_set import PageSet
from harness.model.verdict import Finding, Verdict

PROPERTY = settings(deadline=None, derandomize=True)
"""The same examples in every run, and no clock decides."""

LAYOUT = RamLayout.q35(6 << 30)
ADDRESSES = AddressMap.of(LAYOUT)
PAGES = ADDRESSES.pages
BELOW = LAYOUT.below_4g_bytes >> 12
HIGH = 0x100000
PRIVATE = PageMap.all_private(PAGES)


def share(gfn: int, pages: int, *, attributes: int = 0, result: int = 0) -> Conversion:
    return Conversion(gpa=gfn << 12, pages=pages, attributes=attributes, result=result)


CALLS = (share(0x100, 16), share(0x400, 512, attributes=1), share(HIGH + 0x50, 7), share(0x104, 2, attributes=0x10))


def evidence(
    calls: Sequence[Conversion] = CALLS,
    *,
    addresses: AddressMap = ADDRESSES,
    earlier_hop: PageMap | None = None,
    **maps: PageMap,
) -> MapEvidence:
    """All six witnesses agree on what *calls* add up to, except those given by name."""
    start = PageMap.all_private(addresses.pages)
    truth = replay(start, calls, addresses)
    views = tuple(MapView(witness=witness, page_map=maps.get(witness.name.lower(), truth)) for witness in Witness)
    return MapEvidence(
        views=views, addresses=addresses, initial=start, conversions=tuple(calls), earlier_hop=earlier_hop
    )


def kinds(findings: Sequence[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def the_only(findings: Sequence[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


TRUTH = replay(PRIVATE, CALLS, ADDRESSES)


def test_witnesses_that_agree_are_no_finding() -> None:
    assert check_views(evidence()) == ()


def test_a_difference_that_nothing_explains_names_place_and_witnesses() -> None:
    lost = TRUTH.with_pages(PageSet.of((BELOW + 0x52, BELOW + 0x54)), private=True)
    found = the_only(check_views(evidence(host_list=lost, stream=lost, destination=lost)))
    assert (found.check, found.kind, found.verdict) == ("page-map/views", "mismatch", Verdict.FAIL)
    assert found.where == "gpa 0x100052000-0x100053fff"
    assert found.detail == (
        "2 pages: private says host-list, stream, destination; shared says guest-page-tables, host-walk, hypercall-log"
    )
    assert not found.remedy


def test_many_ranges_are_cut_short_in_words_only() -> None:
    lost = TRUTH.with_pages(PageSet.from_ranges((page, page + 1) for page in range(0x400, 0x420, 2)), private=True)
    found = the_only(check_views(evidence(stream=lost)))
    assert found.where.endswith("and 12 ranges more")
    assert found.detail.startswith("16 pages")


def test_two_ways_of_disagreeing_are_two_findings() -> None:
    one = TRUTH.with_pages(PageSet.of((0x410, 0x411)), private=True)
    other = TRUTH.with_pages(PageSet.of((0x420, 0x421)), private=True)
    assert kinds(check_views(evidence(stream=one, host_walk=other))) == ["mismatch", "mismatch"]


def test_a_witness_is_not_held_to_what_it_does_not_know() -> None:
    base = evidence()
    partial = MapView(witness=Witness.STREAM, page_map=PRIVATE, knows=PageSet.of((0, 0x100), (0x104, 0x106)))
    views = (*(view for view in base.views if view.witness != Witness.STREAM), partial)
    assert check_views(replace(base, views=views)) == ()
    wrong = replace(partial, knows=PageSet.of((0, 0x101)))
    found = the_only(check_views(replace(base, views=(*base.views[:2], wrong))))
    assert found.where == "gpa 0x100000-0x100fff"


def test_one_witness_alone_proves_nothing() -> None:
    base = evidence()
    silent = replace(base.views[1], knows=PageSet.empty())
    found = the_only(check_views(replace(base, views=(base.views[0], silent))))
    assert (found.kind, found.verdict) == ("too-few-witnesses", Verdict.ERROR)
    assert kinds(check_views(replace(base, views=()))) == ["too-few-witnesses"]


def test_maps_of_different_memory_are_told() -> None:
    assert kinds(check_views(evidence(destination=PageMap.all_private(PAGES - 1)))) == ["size"]


def test_b5_the_page_after_a_call_is_undercounted() -> None:
    ahead = TRUTH.with_pages(PageSet.of((0x110, 0x111)), private=False)
    found = the_only(check_views(evidence(guest_tables=ahead, host_walk=ahead)))
    assert (found.kind, found.where) == ("undercounted", "gpa 0x110000-0x110fff")
    assert "B5" in found.remedy


def test_b5_is_not_claimed_for_more_than_one_page() -> None:
    ahead = TRUTH.with_pages(PageSet.of((0x110, 0x113)), private=False)
    assert kinds(check_views(evidence(guest_tables=ahead, host_walk=ahead))) == ["never-reported"]


def test_b8_page_size_bits_read_as_encrypted() -> None:
    wrong = TRUTH.with_pages(PageSet.of((0x400, 0x600)), private=True)
    found = the_only(check_views(evidence(host_list=wrong, stream=wrong, destination=wrong)))
    assert found.kind == "page-size-bits"
    assert "B8" in found.remedy


def test_b8_is_not_claimed_when_only_part_of_such_a_call_is_wrong() -> None:
    wrong = TRUTH.with_pages(PageSet.of((0x400, 0x500)), private=True)
    assert kinds(check_views(evidence(host_list=wrong, stream=wrong, destination=wrong))) == ["mismatch"]


def test_b9_frames_cut_to_32_bits() -> None:
    far = 1 << 32
    addresses = AddressMap(windows=(Window(0, 0, 64), Window(far, 64, 64)), unmapped=PageSet.empty())
    calls = (share(2, 1), share(far + 8, 4), share(far - 2, 3))
    cut = PageMap(total_pages=128, shared=PageSet.of((0, 1), (2, 3), (8, 12)))
    found = check_views(evidence(calls, addresses=addresses, destination=cut))
    assert set(kinds(found)) == {"narrow-frames"}
    assert "B9" in found[0].remedy


def test_b10_offset_taken_for_gpa() -> None:
    # What lies at gpa 4 GiB + x has offset 2 GiB + x; looked up as a gpa that is in the hole, where nothing is listed.
    wrong = TRUTH.with_pages(PageSet.of((BELOW, PAGES)), private=True)
    wrong = wrong.with_pages(PageSet.of((HIGH + 0x50, HIGH + 0x57)), private=False)
    found = check_views(evidence(stream=wrong))
    assert kinds(found) == ["offset-for-gpa", "offset-for-gpa"]
    assert "B10" in found[0].remedy


def test_b12_a_list_that_was_not_carried() -> None:
    found = check_views(evidence(destination=PRIVATE))
    assert set(kinds(found)) == {"not-carried"}
    assert "B12" in found[0].remedy


def test_b12_a_list_that_was_appended_to_an_earlier_one() -> None:
    earlier = PageMap(total_pages=PAGES, shared=PageSet.of((0x2000, 0x2010)))
    both = TRUTH.with_pages(earlier.shared, private=False)
    assert kinds(check_views(evidence(destination=both, earlier_hop=earlier))) == ["appended"]
    assert kinds(check_views(evidence(destination=both))) == ["mismatch"]
    unrelated = PageMap(total_pages=PAGES, shared=PageSet.of((0x2008, 0x2010)))
    assert kinds(check_views(evidence(destination=both, earlier_hop=unrelated))) == ["mismatch"]


def test_b13_status_of_unplugged_memory_is_lost() -> None:
    addresses = ADDRESSES.unplug(PageSet.of((0x400, 0x600)))
    whole = replay(PRIVATE, CALLS, ADDRESSES)
    lost = whole.with_pages(PageSet.of((0x400, 0x600)), private=True)
    base = evidence(addresses=addresses, **{witness.name.lower(): whole for witness in Witness} | {"destination": lost})
    found = the_only(check_views(replace(base, initial=whole)))
    assert (found.kind, found.where) == ("unmapped-lost", "unmapped ram_addr 0x400000-0x5fffff")
    assert "B13" in found.remedy


def test_b14_a_page_that_no_call_ever_named() -> None:
    early = TRUTH.with_pages(PageSet.of((0x900, 0x901)), private=False)
    found = the_only(check_views(evidence(guest_tables=early, host_walk=early)))
    assert (found.kind, found.where) == ("never-reported", "gpa 0x900000-0x900fff")
    assert "B14" in found.remedy


def test_b14_is_not_claimed_for_what_was_shared_from_the_start() -> None:
    initial = PageMap(total_pages=PAGES, shared=PageSet.of((0x900, 0x901)))
    truth = replay(initial, CALLS, ADDRESSES)
    base = evidence(**{witness.name.lower(): truth for witness in Witness} | {"destination": TRUTH})
    assert kinds(check_views(replace(base, initial=initial))) == ["mismatch"]


def test_b5_is_not_claimed_when_guest_and_calls_agree() -> None:
    calls = (share(0x100, 16), share(0x110, 1))
    truth = replay(PRIVATE, calls, ADDRESSES)
    lost = truth.with_pages(PageSet.of((0x110, 0x111)), private=True)
    assert kinds(check_views(evidence(calls, stream=lost))) == ["mismatch"]


def test_b51_is_not_claimed_when_guest_and_calls_agree() -> None:
    calls = (share(0x100, 16, result=-22), share(0x100, 16))
    truth = replay(PRIVATE, calls, ADDRESSES)
    lost = truth.with_pages(PageSet.of((0x104, 0x106)), private=True)
    assert kinds(check_views(evidence(calls, stream=lost))) == ["mismatch"]


def test_a_conversion_that_was_in_flight_excuses_the_guest_and_nobody_else() -> None:
    ahead = TRUTH.with_pages(PageSet.of((0x900, 0x904)), private=False)
    caught = replace(evidence(guest_tables=ahead, host_walk=ahead), in_flight=PageSet.of((0x900, 0x904)))
    assert check_views(caught) == ()
    assert len(check_views(replace(caught, in_flight=PageSet.of((0x900, 0x903))))) == 1
    lost = replace(evidence(destination=ahead), in_flight=PageSet.of((0x900, 0x904)))
    assert len(check_views(lost)) == 1


def test_b20_the_tail_of_a_large_call() -> None:
    calls = (*CALLS, share(0x2000, 20000))
    truth = replay(PRIVATE, calls, ADDRESSES)
    wrong = truth.with_pages(PageSet.of((0x2000 + 16384, 0x2000 + 20000)), private=True)
    found = the_only(check_views(evidence(calls, host_list=wrong, stream=wrong, destination=wrong)))
    assert found.kind == "cut-at-64-mib"


def test_b51_a_failed_conversion_that_the_guest_believes() -> None:
    calls = (*CALLS, share(0x800, 4, result=-22))
    believes = TRUTH.with_pages(PageSet.of((0x800, 0x804)), private=False)
    found = the_only(check_views(evidence(calls, guest_tables=believes, host_walk=believes)))
    assert (found.kind, found.where) == ("failed-conversion", "gpa 0x800000-0x803fff")


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(0, PAGES - 512), st.integers(1, 512)), max_size=6), st.sampled_from(list(Witness))
)
def test_every_page_that_differs_is_under_exactly_one_finding(changes: list[tuple[int, int]], who: Witness) -> None:
    wrong = TRUTH
    for start, pages in changes:
        wrong = wrong.with_pages(PageSet.of((start, start + pages)), private=start % 2 == 0)
    found = check_views(evidence(**{who.name.lower(): wrong}))
    differing = sum(int(finding.detail.split()[0]) for finding in found)
    assert differing == wrong.difference(TRUTH).pages


def test_disagreements_group_by_who_says_what() -> None:
    views = [
        MapView(witness=Witness.GUEST_TABLES, page_map=PageMap(total_pages=8, shared=PageSet.of((0, 2), (6, 8)))),
        MapView(witness=Witness.HOST_LIST, page_map=PageMap(total_pages=8, shared=PageSet.of((4, 5)))),
    ]
    assert [(list(item.pages.ranges()), item.shared) for item in disagreements(views)] == [
        ([(0, 2), (6, 8)], (Witness.GUEST_TABLES,)),
        ([(4, 5)], (Witness.HOST_LIST,)),
    ]


def test_a_good_list_is_no_finding() -> None:
    assert check_shared_list([(1, 3), (4, 9)]) == ()
    assert check_shared_list([]) == ()


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        ([(1, 3), (3, 4)], "not-merged"),
        ([(1, 3), (2, 4)], "overlap"),
        ([(4, 9), (1, 3)], "unsorted"),
        ([(1, 3), (5, 5)], "empty-range"),
        ([(1, 3), (7, 5)], "empty-range"),
    ],
)
def test_b7_lists_that_are_longer_than_needed_or_broken(entries: list[tuple[int, int]], kind: str) -> None:
    assert kinds(check_shared_list(entries)) == [kind]


def test_b15_calls_that_lost_their_arguments() -> None:
    assert check_hypercalls(CALLS) == ()
    found = the_only(check_hypercalls([share(0, 0), share(0, 0), share(5, 1)]))
    assert (found.kind, found.detail) == ("zero-arguments", "2 of 3 calls name gpa 0 and no pages")


def test_invalid_calls_are_told_with_their_registers() -> None:
    found = the_only(check_hypercalls([share(5, 1, attributes=ENCRYPTED_BIT | 7)]))
    assert found.detail == "gpa 0x5000, 1 pages, attributes 0x17: undefined page size"


@pytest.mark.parametrize(("kexec", "kind", "bug"), [(False, "kept-over-reset", "B3"), (True, "kept-over-kexec", "B4")])
def test_b3_and_b4_ranges_of_the_old_kernel(kexec: bool, kind: str, bug: str) -> None:
    fresh = PageMap(total_pages=PAGES, shared=PageSet.of((0x10, 0x12)))
    before = fresh.with_pages(PageSet.of((0x100, 0x120)), private=False)
    assert check_after_reset(ADDRESSES, fresh=fresh, before=before, after=fresh, kexec=kexec) == ()
    found = the_only(check_after_reset(ADDRESSES, fresh=fresh, before=before, after=before, kexec=kexec))
    assert (found.kind, found.where) == (kind, "gpa 0x100000-0x11ffff")
    assert bug in found.remedy


def test_a_map_that_is_neither_old_nor_fresh() -> None:
    fresh = PageMap(total_pages=PAGES, shared=PageSet.of((0x10, 0x12)))
    after = PageMap(total_pages=PAGES, shared=PageSet.of((0x20, 0x21)))
    found = check_after_reset(ADDRESSES, fresh=fresh, before=fresh, after=after)
    assert kinds(found) == ["not-fresh", "not-fresh"]


@pytest.mark.parametrize(("bits", "told"), [(20, "13 to 20"), (16, "13 to 16"), (15, "13 to 15"), (12, "12")])
def test_b9_frames_cut_to_any_width_are_told_with_it_and_not_taken_for_b10(bits: int, told: str) -> None:
    high, pages = 0x100000, 1 << 17
    addresses = AddressMap(windows=(Window(0, 0, pages), Window(high, pages, pages)), unmapped=PageSet.empty())
    calls = (share(3, 2), share((1 << bits) + 7 if bits < 17 else 9, 2), share(high + 40, 5), share(high + 4090, 8))
    truth = replay(PageMap.all_private(addresses.pages), calls, addresses)
    folded = [(gfn % (1 << bits)) for call in calls for gfn in range(call.gpa >> 12, (call.gpa >> 12) + call.pages)]
    cut, _ = addresses.to_ram(PageSet.from_ranges((gfn, gfn + 1) for gfn in folded))
    found = check_views(evidence(calls, addresses=addresses, destination=replace(truth, shared=cut)))
    assert set(kinds(found)) == {"narrow-frames"}
    assert found[0].remedy.endswith(f"cut to {told} bits")


def alternating() -> tuple[AddressMap, PageMap]:
    """A guest of 64 GiB with 100,000 shared ranges."""
    addresses = AddressMap.of(RamLayout.q35(64 << 30))
    shared = PageSet.from_ranges((start, start + 83) for start in range(0, 166 * 100_000, 166))
    return addresses, PageMap(total_pages=addresses.pages, shared=shared)


def views_of(page_map: PageMap, **others: PageMap) -> tuple[MapView, ...]:
    return tuple(MapView(witness=witness, page_map=others.get(witness.name.lower(), page_map)) for witness in Witness)


def test_a_large_guest_with_many_ranges_is_compared_page_by_page() -> None:
    addresses, same = alternating()
    assert same.shared.intervals == 100_000
    start = PageMap.all_private(addresses.pages)
    assert check_views(MapEvidence(views=views_of(same), addresses=addresses, initial=start)) == ()
    one = same.with_pages(PageSet.of((83, 84)), private=False)
    found = the_only(check_views(MapEvidence(views=views_of(same, stream=one), addresses=addresses, initial=start)))
    assert (found.where, found.detail.partition(":")[0]) == ("gpa 0x53000-0x53fff", "1 page")
    everywhere = PageMap(total_pages=addresses.pages, shared=same.shared.shifted(1))
    many = check_views(MapEvidence(views=views_of(same, destination=everywhere), addresses=addresses, initial=start))
    assert [finding.detail.partition(":")[0] for finding in many] == ["100000 pages"] * 2
    assert many[0].where.endswith("and 99996 ranges more")


def test_narrow_ranges_are_told_from_wide_ones() -> None:
    assert PageSet.of((1, 2), (4, 6), (8, 9)).narrow(1) == PageSet.of((1, 2), (8, 9))
    assert PageSet.of((4, 6)).narrow(1) == PageSet.empty()
    assert list(alternating()[1].shared.ranges())[99_999] == (166 * 99_999, 166 * 99_999 + 83)
