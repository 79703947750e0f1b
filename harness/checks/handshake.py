"""When a protected guest may be migrated: blocked from launch until the guest says READY, and again after a reset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.model.protection import MIGRATION_READY, GuestBoot, HandshakeEvent, HandshakeKind
from harness.model.verdict import Finding, Verdict

CHECK = "handshake/blocker"

_KEPT = "class B18: MSR_KVM_MIGRATION_CONTROL and the blocker start anew with every kernel"


def check_handshake(events: Sequence[HandshakeEvent], *, is_ready: bool = False) -> tuple[Finding, ...]:
    """What the host said behind each event is what the guest had asked for by then.

    *is_ready* is the state before the first event: false for a guest that was launched here. Each kind of finding is
    told once, where it first shows. Whether the guest may be migrated in the end is no defect either way, see
    :func:`harness.checks.refusals.check_ready`.
    """
    if not events:
        detail = "nobody looked whether the guest may be migrated"
        return (_finding("not-asked", "migration blocker", detail, check="precondition", verdict=Verdict.ERROR),)
    found: dict[str, Finding] = {}
    was_ready = is_ready
    for number, event in enumerate(events):
        is_ready = _ready_after(event.kind, is_ready=is_ready)
        where = f"event {number}, {event.kind}"
        for finding in _judge(event, where, is_ready=is_ready, was_ready=was_ready):
            found.setdefault(finding.kind, finding)
        was_ready |= is_ready
    return tuple(found.values())


def check_boot(boot: GuestBoot) -> tuple[Finding, ...]:
    """A guest boots on a host that does not offer live migration as well; only migration is blocked then (B16)."""
    if boot.entered_kernel:
        return ()
    words = f"; its last words: {boot.last_words}" if boot.last_words else ""
    if boot.offers_migration:
        return (_finding("no-boot", "firmware", f"it never entered the kernel{words}"),)
    detail = f"it never entered the kernel on a host that does not offer live migration{words}"
    remedy = "class B16: an ASSERT on UNSUPPORTED; firmware has to go on without the hypercall"
    return (_finding("assert-without-feature", "firmware", detail, remedy),)


def _ready_after(kind: HandshakeKind, *, is_ready: bool) -> bool:
    if kind is HandshakeKind.READY_WRITTEN:
        return True
    if kind in {HandshakeKind.READY_REVOKED, HandshakeKind.RESET, HandshakeKind.LAUNCHED}:
        return False
    return is_ready


def _judge(event: HandshakeEvent, where: str, *, is_ready: bool, was_ready: bool) -> Iterator[Finding]:
    reasons = event.blocked_reasons
    if len(set(reasons)) < len(reasons):
        twice = sorted({reason for reason in reasons if reasons.count(reason) > 1})
        detail = f"listed more than once: {'; '.join(twice)}"
        yield _finding("blocker-twice", where, detail, "class B44: it is added again at each launch, and removed once")
    says_ready = bool(event.msr & MIGRATION_READY)
    if is_ready:
        if reasons:
            yield _finding("not-lifted", where, f"blocked though the guest said READY: {'; '.join(reasons)}")
        if not says_ready:
            yield _finding("ready-lost", where, f"the MSR is {event.msr:#x} though the guest said READY", _KEPT)
        return
    if was_ready and (says_ready or not reasons):
        free = "may be migrated" if not reasons else "is blocked"
        detail = f"the MSR is {event.msr:#x} and the guest {free}, as if it still said READY"
        yield _finding("ready-kept", where, detail, _KEPT)
    elif not reasons:
        detail = "the guest may be migrated before it has said READY: its map is not valid yet"
        yield _finding("blocker-late", where, detail, "class B44: the blocker has to be there before the first run")
    elif says_ready:
        yield _finding("ready-unasked", where, f"the MSR is {event.msr:#x}, and the guest never said READY")


def _finding(
    kind: str, where: str, detail: str, remedy: str = "", *, check: str = CHECK, verdict: Verdict = Verdict.FAIL
) -> Finding:
    return Finding(check=check, kind=kind, where=where, detail=detail, remedy=remedy, verdict=verdict)
