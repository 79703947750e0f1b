"""Every interrupt arrives exactly once, where it belongs and in order, and is seen under way by every witness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from harness.checks.precondition import CHECK as PRECONDITION
from harness.model.interrupts import (
    At,
    Held,
    InterruptStory,
    Moment,
    Received,
    Sighting,
    Source,
    SourceFlag,
    SourceKind,
)
from harness.model.verdict import Finding, Verdict

EXACTLY_ONCE = "irq/exactly-once"
DELIVERY = "irq/delivery"
PENDING = "irq/pending"

_LOST_REMEDY = "a device waits for it for ever: compare the pending bits of the three witnesses in the timeline"
_MONITOR = "source"


def check_exactly_once(story: InterruptStory) -> tuple[Finding, ...]:
    """Each number of each source was received as often as it had to be, and none that nobody had raised."""
    got = Counter((record.id, record.number) for record in story.received if not record.is_spurious)
    due = {
        (one.id, one.number): source
        for one in story.raised
        if (source := story.source(one.id)) and not source.is_periodic
    }
    findings = [*_counted(story, got, due), *_unasked(story, got, due), *_silent(story)]
    if story.left_pending:
        detail = f"{story.left_pending} sources are still pending at the end, with nothing that holds them back"
        findings.append(_finding(EXACTLY_ONCE, "stuck", "controllers", detail, remedy=_LOST_REMEDY))
    return tuple(findings)


def _counted(
    story: InterruptStory, got: Counter[tuple[int, int]], due: dict[tuple[int, int], Source]
) -> Iterator[Finding]:
    moments = {(one.id, one.number): one.moment for one in story.raised}
    for (source_id, number), source in due.items():
        times = got[source_id, number]
        where = f"{source.label}, number {number}"
        if times < source.deliveries:
            detail = f"raised {_when(moments[source_id, number])}, received {times} of {source.deliveries} times"
            yield _finding(EXACTLY_ONCE, "lost", where, detail, remedy=_LOST_REMEDY)
        if times > source.deliveries:
            detail = (
                f"raised {_when(moments[source_id, number])}, received {times} times instead of {source.deliveries}"
            )
            yield _finding(EXACTLY_ONCE, "doubled", where, detail)


def _silent(story: InterruptStory) -> Iterator[Finding]:
    came = {record.id for record in story.received if record.order > story.order_at_stop}
    for source_id in sorted(story.after_move - came):
        source = story.source(source_id)
        label = source.label if source else f"source {source_id}"
        yield _finding(EXACTLY_ONCE, "lost", label, "it comes periodically, and never came again after the move")


def _unasked(
    story: InterruptStory, got: Counter[tuple[int, int]], due: dict[tuple[int, int], Source]
) -> Iterator[Finding]:
    for (source_id, number), times in sorted(got.items()):
        source = story.source(source_id)
        if (source_id, number) in due or (source and source.is_periodic):
            continue
        label = source.label if source else f"source {source_id}"
        detail = f"received {times} times, and nobody had raised it"
        yield _finding(EXACTLY_ONCE, "doubled", f"{label}, number {number}", detail)


def check_delivery(story: InterruptStory) -> tuple[Finding, ...]:
    """By the right vCPU, none spurious, not before its time, in its source's order and in the controller's."""
    findings = [finding for record in story.received for finding in _misplaced(story, record)]
    return (*findings, *_early(story), *_overtaken(story), *_disordered(story))


def _misplaced(story: InterruptStory, record: Received) -> Iterator[Finding]:
    if record.is_spurious:
        detail = f"vector {record.vector:#x}, which no source has, {_side(story, record)}"
        yield _finding(DELIVERY, "spurious", f"vCPU {record.vcpu}", detail)
        return
    source = story.source(record.id)
    if source and record.vcpu != source.vcpu:
        detail = f"vCPU {record.vcpu} received it {_side(story, record)}"
        yield _finding(DELIVERY, "wrong-vcpu", f"{source.label}, number {record.number}", detail)


def _early(story: InterruptStory) -> Iterator[Finding]:
    """A timer that was armed fires when its time is over, in the guest's own clock, and not before."""
    for source in story.sources:
        if source.kind is not SourceKind.TIMER or source.is_periodic or not story.ticks_per_s:
            continue
        armed = next((one.at_ticks for one in story.raised if one.id == source.id and one.at_ticks), 0)
        fired = next((record.ticks for record in story.received if record.id == source.id), 0)
        least = source.argument * story.ticks_per_s / 1e9 * _TIMER_SLACK
        if armed and fired and fired - armed < least:
            took_ms = (fired - armed) / story.ticks_per_s * 1e3
            detail = f"fired {took_ms:.1f} ms after it was armed, for {source.argument / 1e6:.1f} ms"
            yield _finding(DELIVERY, "early", source.label, detail)


_TIMER_SLACK = 0.9
"""The guest measures its clock against its timer, to a few percent on a busy host."""


def _overtaken(story: InterruptStory) -> Iterator[Finding]:
    """The next one of a source is raised when the last one was logged, so numbers only grow."""
    latest: dict[int, int] = {}
    for record in sorted(story.received, key=lambda record: record.order):
        before = latest.get(record.id, 0)
        if record.number < before:
            source = story.source(record.id)
            detail = f"number {record.number} was received after number {before}"
            yield _finding(DELIVERY, "overtaken", source.label if source else f"source {record.id}", detail)
        latest[record.id] = max(before, record.number)


def _disordered(story: InterruptStory) -> Iterator[Finding]:
    """Interrupts that were pending together on one vCPU when it was let go are served by priority."""
    if not (story.descending or story.by_priority):
        return
    together = {held.id for held in story.planned if held.at is At.PENDING and not _is_masked(story, held)}
    for vcpu in sorted({source.vcpu for source in story.sources}):
        served = [
            record
            for record in sorted(story.received, key=lambda record: record.order)
            if record.vcpu == vcpu
            and record.order > story.order_at_stop
            and record.id in together
            and record.delivery == 1
            and not _is_legacy(story, record)
        ]
        for before, after in pairwise(served):
            if _rank(story, after) < _rank(story, before):
                detail = f"{after.vector:#x} was served after {before.vector:#x}, and both were pending"
                yield _finding(DELIVERY, "order", f"vCPU {vcpu}", detail)


def _is_masked(story: InterruptStory, held: Held) -> bool:
    """Masked ones are let go one by one."""
    source = story.source(held.id)
    return story.by_priority and source is not None and SourceFlag.MASKED in source.flags


def _rank(story: InterruptStory, record: Received) -> int:
    """Who has less of it is served first."""
    source = story.source(record.id)
    return source.priority if story.by_priority and source else -record.vector


def _is_legacy(story: InterruptStory, record: Received) -> bool:
    source = story.source(record.id)
    return source is not None and source.kind is SourceKind.LEGACY


def check_sightings(story: InterruptStory) -> tuple[Finding, ...]:
    """What was under way when the source stopped is what went over the wire, and what the destination has loaded."""
    findings: list[Finding] = []
    for before, after in pairwise(story.sightings):
        common = before.sees & after.sees
        findings += _difference(story, before, after, common)
    return tuple(findings)


def _difference(story: InterruptStory, before: Sighting, after: Sighting, common: frozenset[At]) -> Iterator[Finding]:
    left, right = ({held for held in one.held if held.at in common} for one in (before, after))
    for held in sorted(left - right):
        detail = f"{held.at} in the eyes of the {before.witness}, not in those of the {after.witness}"
        yield _finding(PENDING, "lost", _place(story, held), detail, remedy=_LOST_REMEDY)
    for held in sorted(right - left):
        detail = f"{held.at} in the eyes of the {after.witness}, not in those of the {before.witness}"
        yield _finding(PENDING, "appeared", _place(story, held), detail)


def check_planned(story: InterruptStory) -> tuple[Finding, ...]:
    """The case is about interrupts that are under way at the switch-over: they were, for the host and on the wire."""
    findings = []
    for sighting in story.sightings[:2]:
        visible = {held for held in story.planned if held.at in sighting.sees}
        missing = sorted(visible - sighting.held)
        if missing:
            names = "; ".join(f"{_place(story, held)} {held.at}" for held in missing[:4])
            findings.append(
                _unmet(f"{len(missing)} of {len(visible)} are not there for the {sighting.witness}: {names}")
            )
    unseen = sorted(held for held in story.planned if not any(held.at in one.sees for one in story.sightings))
    if unseen:
        findings.append(_unmet(f"{len(unseen)} cannot be seen by anybody: {_place(story, unseen[0])} {unseen[0].at}"))
    if not story.planned and not story.queued:
        findings.append(_unmet("no interrupt was under way when the source had stopped"))
    return tuple(findings)


def _place(story: InterruptStory, held: Held) -> str:
    source = story.source(held.id)
    return f"{source.label if source else f'vector {held.id:#x}'} on vCPU {held.vcpu}"


def _side(story: InterruptStory, record: Received) -> str:
    return "at the destination" if record.order > story.order_at_stop else "at the source"


def _when(moment: Moment) -> str:
    return {
        Moment.BEFORE: "while the source ran",
        Moment.STOPPED: "when the source had stopped",
        Moment.SAVED: "after the source's devices were saved",
        Moment.LOADED: "when the destination had loaded",
        Moment.RUNNING: "while the destination ran",
    }[moment]


def _unmet(detail: str) -> Finding:
    return Finding(
        check=PRECONDITION,
        kind="nothing-pending",
        where="interrupts",
        detail=detail,
        remedy="the case proves nothing this way: see the interrupt timeline for where they went",
        verdict=Verdict.ERROR,
    )


def _finding(check: str, kind: str, where: str, detail: str, *, remedy: str = "") -> Finding:
    return Finding(check=check, kind=kind, where=where, detail=detail, remedy=remedy)
