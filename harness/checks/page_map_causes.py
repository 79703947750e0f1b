"""Why page maps differ: known bug classes, each named only when the evidence is exactly what that bug leaves behind.

A cause is a hypothesis about one witness, computed from the hypercall log; it is accepted when that witness says what
the hypothesis predicts on *every* page where the prediction departs from the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from harness.model.live_page_map import replay
from harness.model.page_map import ENCRYPTED_BIT, PageMap, Witness
from harness.model.page_map_views import GUEST_SIDE, Disagreement, MapEvidence
from harness.model.page_set import PageSet

MAP_GPA_CHUNK_PAGES = 16384
"""QEMU answers one TDVMCALL MapGPA for at most 64 MiB and asks the guest to retry for the rest."""
WIDEST_FRAME_BITS, NARROWEST_FRAME_BITS = 32, 12
"""Widths at which a frame number may have been cut: the list of the series has 32 bits."""
_HOST_SIDE = (Witness.HOST_LIST, Witness.STREAM, Witness.DESTINATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Pages of a disagreement that one bug class explains."""

    kind: str
    pages: PageSet
    remedy: str


def causes_of(evidence: MapEvidence, said: Disagreement) -> tuple[Cause, ...]:
    """The causes that the evidence supports, and ``mismatch`` for the rest; each page under exactly one of them."""
    causes: list[Cause] = []
    rest = said.pages
    for explain in _EXPLANATIONS:
        if not rest:
            break
        found = explain(evidence, replace(said, pages=rest))
        if found and found.pages:
            causes.append(found)
            rest -= found.pages
    if rest:
        causes.append(Cause(kind="mismatch", pages=rest, remedy=""))
    return tuple(causes)


def _unmapped_lost(evidence: MapEvidence, said: Disagreement) -> Cause:
    pages = said.pages & evidence.addresses.unmapped
    return Cause(kind="unmapped-lost", pages=pages, remedy="class B13: the status of unplugged memory was not kept")


def _not_carried(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    source, destination = evidence.view(Witness.HOST_LIST), evidence.view(Witness.DESTINATION)
    if not source or not destination or destination.page_map.shared or not source.page_map.shared:
        return None
    if not _opposes(said, Witness.DESTINATION, Witness.HOST_LIST):
        return None
    remedy = "class B12: the destination has no shared page at all, the list was not carried or not loaded"
    return Cause(kind="not-carried", pages=said.pages, remedy=remedy)


def _appended(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    source, destination = evidence.view(Witness.HOST_LIST), evidence.view(Witness.DESTINATION)
    if not source or not destination or evidence.earlier_hop is None:
        return None
    extra = destination.page_map.shared - source.page_map.shared
    if not extra or not extra.issubset(evidence.earlier_hop.shared):
        return None
    remedy = "class B12: the list of an earlier hop is still there, the new one was appended to it"
    return Cause(kind="appended", pages=said.pages & extra, remedy=remedy)


def _failed_conversion(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    named = PageSet.empty()
    for call in evidence.conversions:
        if call.result and _guest_says(said, private=call.is_private):
            named |= evidence.addresses.to_ram(call.gfns)[0] & _log_opposes(evidence, private=call.is_private)
    remedy = "class B51: the guest changed its page tables though the hypercall failed"
    return Cause(kind="failed-conversion", pages=said.pages & named, remedy=remedy)


def _undercounted(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    """Guest tables are one page ahead of the calls: the page right after a call's last one."""
    private = _guest_says(said, private=True)
    if not private and not _guest_says(said, private=False):
        return None
    ends = [
        ((call.gpa >> 12) + call.pages, (call.gpa >> 12) + call.pages + 1)
        for call in evidence.conversions
        if call.took_effect and call.is_private == private
    ]
    if not ends:
        return None
    behind = evidence.addresses.to_ram(PageSet.from_ranges(ends))[0] & _log_opposes(evidence, private=private)
    remedy = "class B5: right after the last page of a call to the same status, as if its count were one too small"
    return Cause(kind="undercounted", pages=said.pages.narrow(1) & behind, remedy=remedy)


def _never_reported(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    if not evidence.conversions or not _guest_says(said, private=False):
        return None
    frames = PageSet.from_ranges(
        ((call.gpa >> 12), (call.gpa >> 12) + call.pages) for call in evidence.conversions if not call.refusal
    )
    remedy = (
        "no call ever named these pages: shared before the hypercall was there (class B14), or a call that was lost"
    )
    pages = (said.pages & _log_opposes(evidence, private=False)) - evidence.addresses.to_ram(frames)[0]
    return Cause(kind="never-reported", pages=pages, remedy=remedy)


def _page_size_misread(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    wrong = [replace(call, attributes=ENCRYPTED_BIT if call.attributes else 0) for call in evidence.conversions]
    remedy = "class B8: exactly what comes of reading every non-zero a2 as encrypted"
    return _hypothesis(evidence, said, "page-size-bits", replay(evidence.initial, wrong, evidence.addresses), remedy)


def _cut_at_chunk(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    wrong = [replace(call, pages=min(call.pages, MAP_GPA_CHUNK_PAGES)) for call in evidence.conversions]
    remedy = "class B20: the tail beyond 64 MiB of a call was not retried"
    return _hypothesis(evidence, said, "cut-at-64-mib", replay(evidence.initial, wrong, evidence.addresses), remedy)


def _offset_for_gpa(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    frames = evidence.addresses.to_gfn(_log_map(evidence).shared)
    looked_up = frames & PageSet.of((0, evidence.addresses.pages))
    wrong = PageMap(total_pages=evidence.addresses.pages, shared=looked_up)
    remedy = "class B10: exactly what comes of looking up a RAM block offset as if it were a gpa (3/4 GiB hole)"
    return _hypothesis(evidence, said, "offset-for-gpa", wrong, remedy)


def _narrow_frames(evidence: MapEvidence, said: Disagreement) -> Cause | None:
    log = _log_map(evidence)
    frames = evidence.addresses.to_gfn(log.shared)
    last = int(frames.edges[-1]) - 1 if frames else 0
    widths = [bits for bits in range(WIDEST_FRAME_BITS, NARROWEST_FRAME_BITS - 1, -1) if last >> bits]
    if not widths:
        return None
    cut = {bits: evidence.addresses.to_ram(_folded(frames, bits))[0] for bits in widths}
    # Several widths may explain a part of it: the one that fits a witness best is meant.
    distances = {width: _distance(evidence, pages) for width, pages in cut.items()}
    fitting = [width for width in widths if distances[width] == min(distances.values())]
    wrong = PageMap(total_pages=evidence.addresses.pages, shared=cut[fitting[0]])
    told = str(fitting[0]) if len(fitting) == 1 else f"{fitting[-1]} to {fitting[0]}"
    remedy = f"class B9: exactly what comes of frame numbers cut to {told} bits"
    return _hypothesis(evidence, said, "narrow-frames", wrong, remedy, log=log)


def _distance(evidence: MapEvidence, shared: PageSet) -> int:
    """Pages by which the host's witness that is nearest to *shared* departs from it."""
    views = [view for view in evidence.views if view.witness in _HOST_SIDE]
    return min((((view.page_map.shared ^ shared) & view.known).pages for view in views), default=0)


def _folded(frames: PageSet, bits: int) -> PageSet:
    """*frames* without what is above the lowest *bits* bits."""
    size = np.uint64(1 << bits)
    lengths = frames.edges[1::2] - frames.edges[::2]
    starts = frames.edges[::2] % size
    ends = starts + np.minimum(lengths, size)
    beyond = ends > size
    behind = PageSet.from_bounds(np.zeros(int(beyond.sum()), dtype=np.uint64), ends[beyond] - size)
    return PageSet.from_bounds(starts, np.minimum(ends, size)) | behind


_EXPLANATIONS: tuple[Callable[[MapEvidence, Disagreement], Cause | None], ...] = (
    _unmapped_lost,
    _not_carried,
    _appended,
    _page_size_misread,
    _narrow_frames,
    _offset_for_gpa,
    _cut_at_chunk,
    _failed_conversion,
    _undercounted,
    _never_reported,
)


def _hypothesis(
    evidence: MapEvidence, said: Disagreement, kind: str, wrong: PageMap, remedy: str, *, log: PageMap | None = None
) -> Cause | None:
    """*log* is what the calls add up to, where the caller has it at hand: it takes a while."""
    departs = wrong.difference(log or _log_map(evidence))
    if not departs & said.pages:
        return None
    for witness in _HOST_SIDE:
        view = evidence.view(witness)
        if view and departs & view.known and not view.page_map.difference(wrong) & departs & view.known:
            return Cause(kind=kind, pages=said.pages & departs & view.known, remedy=remedy)
    return None


def _log_map(evidence: MapEvidence) -> PageMap:
    return replay(evidence.initial, evidence.conversions, evidence.addresses)


def _log_opposes(evidence: MapEvidence, *, private: bool) -> PageSet:
    """Pages of which the calls say the opposite of *private*."""
    log = _log_map(evidence)
    return log.shared if private else log.private


def _guest_says(said: Disagreement, *, private: bool) -> bool:
    return bool({(witness, private) for witness in GUEST_SIDE} & said.pairs())


def _opposes(said: Disagreement, one: Witness, other: Witness) -> bool:
    pairs = said.pairs()
    return {(one, True), (other, False)} <= pairs or {(one, False), (other, True)} <= pairs
