"""Records of the AMD/Hygon series in QEMU's stream: known flags, the right order, everything once, nothing missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from harness.checks.page_map import place
from harness.model.address_map import AddressMap
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet
from harness.model.protection import SealedRecords
from harness.model.verdict import Finding, Verdict

CHECK = "wire/records"
NOTHING = PageSet.empty()
WINDOW_PAGES = 4094
"""Most pages of one batch (QEMU of the Hygon series)."""

_RANKS = {"start": 0, "page": 0, "plain": 0, "list": 1, "cpu": 2, "end": 3}
_OTHER_TREES = {
    0x200: "MULTIFD_FLUSH of QEMU 8.0 and later, or CGS_EPOCH of the TDX trees",
    0x400: "ENCRYPTED_DATA with a subtype that the series does not have",
    0x800: "CGS_EPOCH of the later TDX tree",
    0x1000: "CGS_STATE_CANCEL of the later TDX tree, outside of the flags of a page",
}


def check_records(records: SealedRecords, *, sealed_pages: int) -> tuple[Finding, ...]:
    """The records of one attempt that completed.

    *sealed_pages* is how many data packets the source's processor made in it.
    """
    return (
        *_unknown_flags(records.unknown_flags),
        *_once(records),
        *_order(records.order),
        *_windows(records),
        *_lost(records, sealed_pages),
    )


def check_broken_off(records: SealedRecords, refused: Sequence[str] = ()) -> tuple[Finding, ...]:
    """The records of an attempt that broke off, also amid a window; *refused* is why an end closed, where no processor
    was asked.
    """
    told = [_finding("refused", "records", reason, "the end that reads them says why") for reason in refused]
    return (*_unknown_flags(records.unknown_flags), *told)


def check_coverage(
    records: SealedRecords, final: PageMap, addresses: AddressMap, *, in_flight: PageSet = NOTHING
) -> tuple[Finding, ...]:
    """Each page that is private in *final*, the host's list at STOP, travelled as a packet at least once.

    *in_flight* is what the guest was converting at that moment: it need not have been sent as the new kind.
    """
    if not records.packet_pages:
        return (
            Finding(
                check="precondition",
                kind="no-packets",
                where="wire",
                detail="no packet of a private page was seen, so nothing is known of those that are missing",
                verdict=Verdict.ERROR,
            ),
        )
    missing = (final.private & addresses.mapped) - records.packet_pages - in_flight
    if not missing:
        return ()
    detail = f"{missing.pages} of {final.private.pages} private pages never came as a packet"
    remedy = "class B33 when they lie at the end of batch windows; else their last record was of the other kind"
    where = place(addresses, missing)
    return (Finding(check=CHECK, kind="private-without-packet", where=where, detail=detail, remedy=remedy),)


def _unknown_flags(flags: Sequence[int]) -> Iterator[Finding]:
    for flag in sorted(set(flags)):
        known = _OTHER_TREES.get(flag, "no tree that is known here")
        detail = f"{flags.count(flag)} records with RAM flag {flag:#x}: {known}"
        yield _finding(
            "unknown-flag", f"flag {flag:#x}", detail, "class B32: source and destination of different trees"
        )


def _once(records: SealedRecords) -> Iterator[Finding]:
    if records.lists != 1:
        yield _finding("list-count", "shared list", f"sent {records.lists} times, expected once", "class B12")
    if records.pages and records.starts != 1:
        detail = f"{records.starts} records carry a session, expected the first of {records.pages} packets"
        yield _finding("session-count", "session", detail)


def _order(order: Sequence[str]) -> Iterator[Finding]:
    for before, after in pairwise(order):
        if _RANKS[after] < _RANKS[before]:
            detail = f"{after} comes behind {before}; remaining pages, list, CPU state and the end follow in this order"
            yield _finding("order", after, detail)
            return
    if "page" in order and "start" not in order[: order.index("page")]:
        yield _finding("order", "page", "a packet comes before any session")
    if order and order[-1] != "end":
        yield _finding("order", "end", f"the RAM section does not end: its last record is {order[-1]}")


def _windows(records: SealedRecords) -> Iterator[Finding]:
    for number, pages in enumerate(records.batches):
        if not 0 < pages <= WINDOW_PAGES:
            detail = f"{pages} pages in one window, 1 to {WINDOW_PAGES} fit"
            yield _finding("window", f"batch {number}", detail, "class B33")
    if records.unended_batches:
        detail = f"{records.unended_batches} of {len(records.batches)} batches lack the page that ends them"
        yield _finding("window-edge", "batches", detail, "class B33: the last page of a window was lost")


def _lost(records: SealedRecords, sealed_pages: int) -> Iterator[Finding]:
    if records.pages == sealed_pages:
        return
    kind = "lost" if records.pages < sealed_pages else "surplus"
    detail = f"the source's processor made {sealed_pages} packets, the wire carried {records.pages}"
    full = sum(pages >= WINDOW_PAGES - 1 for pages in records.batches)
    remedy = f"class B33: {full} windows were full or nearly so, their edge is the place to look" if full else ""
    yield _finding(kind, "packets", detail, remedy)


def _finding(kind: str, where: str, detail: str, remedy: str = "") -> Finding:
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=remedy)
