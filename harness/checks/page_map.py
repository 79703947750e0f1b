"""The private/shared map, as every witness tells it: guest page tables, hypercalls, host list, stream, destination."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from harness.checks.page_map_causes import Cause, causes_of
from harness.model.address_map import AddressMap
from harness.model.memory import GpaRange
from harness.model.page_map import Conversion, PageMap
from harness.model.page_map_views import Disagreement, MapEvidence, disagreements
from harness.model.page_set import PageSet
from harness.model.verdict import Finding, Verdict

VIEWS = "page-map/views"
LIST = "page-map/list"
HYPERCALLS = "page-map/hypercalls"
RESET = "page-map/reset"

_SHOWN_RANGES = 4


def check_views(evidence: MapEvidence) -> tuple[Finding, ...]:
    """No two witnesses say different things of a page (M2, M3)."""
    if unmet := _too_few_witnesses(evidence):
        return unmet
    sizes = {view.page_map.total_pages for view in evidence.views}
    if sizes != {evidence.addresses.pages}:
        told = ", ".join(f"{view.witness} {view.page_map.total_pages}" for view in evidence.views)
        detail = f"{evidence.addresses.pages} RAM pages, but {told}"
        return (Finding(check=VIEWS, kind="size", where="main memory", detail=detail),)
    return tuple(
        _disagreement(evidence, said, cause)
        for said in disagreements(evidence.settled_views())
        for cause in causes_of(evidence, said)
    )


def check_shared_list(entries: Sequence[tuple[int, int]]) -> tuple[Finding, ...]:
    """The list of shared gfn ranges that a host keeps or sends: sorted, disjoint, and no longer than needed (B7)."""
    findings = [
        _list_finding("empty-range", start, end, "an entry that covers no page")
        for start, end in entries
        if end <= start
    ]
    whole = sorted(entry for entry in entries if entry[0] < entry[1])
    if list(entries) != sorted(entries):
        findings.append(_list_finding("unsorted", *entries[0], "entries are not in ascending order"))
    reach = 0
    for index, (start, end) in enumerate(whole):
        if index and start < reach:
            findings.append(_list_finding("overlap", start, min(end, reach), "pages that two entries cover"))
        elif index and start == reach:
            note = "begins where its predecessor ends: entries are not merged, the list grows with every conversion"
            findings.append(_list_finding("not-merged", start, end, note, remedy="class B7"))
        reach = max(reach, end)
    return tuple(findings)


def check_hypercalls(conversions: Sequence[Conversion]) -> tuple[Finding, ...]:
    """The guest's calls arrived with arguments that mean something."""
    empty = [call for call in conversions if call.gpa == 0 and call.pages == 0]
    refused = [(index, call) for index, call in enumerate(conversions) if call.refusal and call not in empty]
    findings = [
        Finding(
            check=HYPERCALLS,
            kind="invalid",
            where=f"call {index}",
            detail=f"gpa {call.gpa:#x}, {call.pages} pages, attributes {call.attributes:#x}: {call.refusal}",
        )
        for index, call in refused
    ]
    if empty:
        findings.append(
            Finding(
                check=HYPERCALLS,
                kind="zero-arguments",
                where="gpa 0x0",
                detail=f"{len(empty)} of {len(conversions)} calls name gpa 0 and no pages",
                remedy="class B15: the #VC handler may not copy RBX, RCX, RDX to the GHCB",
            )
        )
    return tuple(findings)


def check_after_reset(
    addresses: AddressMap, *, fresh: PageMap, before: PageMap, after: PageMap, kexec: bool = False
) -> tuple[Finding, ...]:
    """After a reset (M4) or a kexec (M5) the map is that of a fresh boot, without ranges of the old kernel.

    *fresh* is the map at the same point of a first boot, *before* that of the old kernel at its end.
    """
    kept = (after.shared - fresh.shared) & before.shared
    event, bug = ("kexec", "B4") if kexec else ("reset", "B3")
    remedy = f"class {bug}: the shared list outlived the kernel that made it"
    told = [
        (f"kept-over-{event}", kept, "shared before and after, not in a fresh boot", remedy),
        ("not-fresh", (after.shared - fresh.shared) - kept, "shared, though private in a fresh boot", ""),
        ("not-fresh", fresh.shared - after.shared, "private, though shared in a fresh boot", ""),
    ]
    return tuple(
        Finding(
            check=RESET,
            kind=kind,
            where=place(addresses, pages),
            detail=f"{_pages(pages)} {detail}",
            remedy=hint,
        )
        for kind, pages, detail, hint in told
        if pages
    )


def place(addresses: AddressMap, pages: PageSet) -> str:
    """RAM pages in words: gpa ranges, and ram_addr ranges of what has no gpa."""
    mapped, hidden = addresses.to_gfn(pages), pages & addresses.unmapped
    return ", ".join(filter(None, (_shown("gpa", mapped), _shown("unmapped ram_addr", hidden))))


def _shown(name: str, pages: PageSet) -> str:
    if not pages:
        return ""
    first = [str(GpaRange(start << 12, end << 12)) for start, end in islice(pages.ranges(), _SHOWN_RANGES)]
    more = f" and {pages.intervals - _SHOWN_RANGES} ranges more" if pages.intervals > _SHOWN_RANGES else ""
    return f"{name} {', '.join(first)}{more}"


def _too_few_witnesses(evidence: MapEvidence) -> tuple[Finding, ...]:
    silent = [view.witness for view in evidence.views if not view.known]
    if len(evidence.views) - len(silent) > 1:
        return ()
    heard = ", ".join(view.witness for view in evidence.views if view.witness not in silent) or "nobody"
    return (
        Finding(
            check="precondition",
            kind="too-few-witnesses",
            where="main memory",
            detail=f"a page map needs two witnesses that know something, heard: {heard}",
            verdict=Verdict.ERROR,
        ),
    )


def _disagreement(evidence: MapEvidence, said: Disagreement, cause: Cause) -> Finding:
    return Finding(
        check=VIEWS,
        kind=cause.kind,
        where=place(evidence.addresses, cause.pages),
        detail=f"{_pages(cause.pages)}: private says {', '.join(said.private)}; shared says {', '.join(said.shared)}",
        remedy=cause.remedy,
    )


def _pages(pages: PageSet) -> str:
    return f"{pages.pages} page{'' if pages.pages == 1 else 's'}"


def _list_finding(kind: str, start: int, end: int, detail: str, *, remedy: str = "") -> Finding:
    return Finding(check=LIST, kind=kind, where=f"gfn {start:#x}-{end:#x}", detail=detail, remedy=remedy)
