"""No vacuous pass of a case about protected memory: what it is about must have come about. Findings here are errors."""

from __future__ import annotations

from collections.abc import Sequence

from harness.checks.wire_records import WINDOW_PAGES
from harness.model.address_map import AddressMap
from harness.model.memory import PAGE_SHIFT, GpaRange
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet
from harness.model.protection import ConversionsInMove, SealedRecords, VcpuProtection
from harness.model.verdict import Finding, Verdict

CHECK = "precondition"


def check_converted(move: ConversionsInMove, *, at_least: int = 1) -> tuple[Finding, ...]:
    """Memory was converted in both directions while it was moved, and pages that had been sent already too."""
    missing = []
    if move.to_shared < at_least or move.to_private < at_least:
        missing.append(
            f"{move.to_shared} conversions to shared and {move.to_private} to private between migrate and STOP, "
            f"{at_least} of each were due"
        )
    if not move.of_sent_pages:
        missing.append("no page was converted after it had been sent")
    return tuple(_unmet("not-converted", "migration", what) for what in missing)


def check_both_kinds(records: SealedRecords, *, packets: int = 1, plain_pages: int = 1) -> tuple[Finding, ...]:
    """Private pages travelled as packets and shared ones in the clear, at least as many as given of each."""
    told = (("packets", records.pages, packets), ("plain records", records.plain_pages, plain_pages))
    return tuple(
        _unmet("one-kind", "wire", f"{seen} {what} were seen, at least {due} were due")
        for what, seen, due in told
        if seen < due
    )


def check_around_hole(page_map: PageMap, addresses: AddressMap) -> tuple[Finding, ...]:
    """Main memory has a hole, and shared pages lie in every part around it: else a gpa is as good as a RAM offset."""
    if len(addresses.windows) < 2:
        return (_unmet("no-hole", "main memory", "it is one piece, so a RAM offset and a gpa are the same"),)
    findings = []
    for window in addresses.windows:
        inside = PageSet.of((window.ram_page, window.ram_page + window.pages))
        if not page_map.shared & inside:
            place = GpaRange(window.gfn << PAGE_SHIFT, (window.gfn + window.pages) << PAGE_SHIFT)
            findings.append(_unmet("no-shared-page", f"gpa {place}", "no page of this part of memory is shared"))
    return tuple(findings)


def check_full_window(records: SealedRecords, *, pages: int = WINDOW_PAGES) -> tuple[Finding, ...]:
    """A batch of *pages* travelled, so that the edge of a window was met."""
    longest = max(records.batches, default=0)
    if longest >= pages:
        return ()
    detail = f"the longest of {len(records.batches)} batches has {longest} pages, one of {pages} was due"
    return (_unmet("no-full-window", "wire", detail),)


def check_waiting_vcpu(vcpus: Sequence[VcpuProtection]) -> tuple[Finding, ...]:
    """A vCPU had not had its first SIPI when the guest was stopped: moving it is what the case is about.

    The boot CPU (0) never gets one.
    """
    others = [vcpu for vcpu in vcpus if vcpu.vcpu]
    if any(not vcpu.has_first_sipi for vcpu in others):
        return ()
    return (_unmet("nobody-waits", "vCPUs", f"all {len(others)} APs had their first SIPI before the guest was moved"),)


def check_session_was_open(packets: int) -> tuple[Finding, ...]:
    """An attempt that was to be cancelled had made *packets* packets by then: there was a session to cancel."""
    if packets:
        return ()
    return (_unmet("no-session", "source", "the attempt ended before its first packet, so no session was open"),)


def check_lines_at_risk(lines: int, *, resets: int) -> tuple[Finding, ...]:
    """Caches held dirty *lines* of another view at some of the *resets*: their flush was put to the test."""
    if lines or not resets:
        return ()
    detail = f"no line was dirty in another view at any of {resets} resets: without a flush nothing would have shown"
    return (_unmet("nothing-at-risk", "caches", detail),)


def _unmet(kind: str, where: str, detail: str) -> Finding:
    return Finding(
        check=CHECK,
        kind=kind,
        where=where,
        detail=detail,
        remedy="the case proves nothing this way; try another seed, more memory, or more passes",
        verdict=Verdict.ERROR,
    )
