"""Handshake and blocker: silent over a right sequence, and each wrong answer of the host is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks.handshake import check_boot, check_handshake
from harness.model.protection import GuestBoot, HandshakeEvent, HandshakeKind
from harness.model.verdict import Finding, Verdict

KIND = HandshakeKind
REASON = "SEV: the guest is not ready to migrate"


def event(kind: HandshakeKind, *, msr: int = 0, reasons: Sequence[str] = (REASON,)) -> HandshakeEvent:
    return HandshakeEvent(kind=kind, msr=msr, blocked_reasons=tuple(reasons))


def free(kind: HandshakeKind) -> HandshakeEvent:
    return event(kind, msr=1, reasons=())


def honest(kinds: Sequence[HandshakeKind]) -> list[HandshakeEvent]:
    """What a right host says of these events."""
    is_ready, events = False, []
    for kind in kinds:
        is_ready = kind is KIND.READY_WRITTEN or (is_ready and kind in {KIND.FIRST_RUN, KIND.ASKED})
        events.append(free(kind) if is_ready else event(kind))
    return events


LIFE = (KIND.LAUNCHED, KIND.FIRST_RUN, KIND.READY_WRITTEN, KIND.ASKED, KIND.RESET, KIND.ASKED, KIND.READY_WRITTEN)


def kinds(findings: Sequence[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


@given(st.lists(st.sampled_from(HandshakeKind), min_size=1))
@settings(deadline=None, derandomize=True)
def test_a_right_host_is_never_accused(life: list[HandshakeKind]) -> None:
    assert check_handshake(honest(life)) == ()


PLANTED = {
    "twice": (1, lambda it: replace(it, blocked_reasons=(REASON, REASON)), "blocker-twice", "B44"),
    "late": (0, lambda it: replace(it, blocked_reasons=()), "blocker-late", "B44"),
    "not lifted": (2, lambda it: replace(it, blocked_reasons=(REASON,)), "not-lifted", ""),
    "ready lost": (2, lambda it: replace(it, msr=0), "ready-lost", "B18"),
    "kept over reset": (4, lambda it: free(it.kind), "ready-kept", "B18"),
    "msr kept": (4, lambda it: replace(it, msr=1), "ready-kept", "B18"),
    "freed later": (5, lambda it: replace(it, blocked_reasons=()), "ready-kept", "B18"),
    "ready unasked": (1, lambda it: replace(it, msr=1), "ready-unasked", ""),
}


@pytest.mark.parametrize(("index", "wrong", "kind", "bug"), PLANTED.values(), ids=PLANTED)
def test_each_wrong_answer_is_named_where_it_first_shows(
    index: int, wrong: Callable[[HandshakeEvent], HandshakeEvent], kind: str, bug: str
) -> None:
    events = honest(LIFE)
    events[index] = wrong(events[index])
    (found,) = check_handshake(events)
    assert (found.check, found.kind) == ("handshake/blocker", kind)
    assert found.where == f"event {index}, {LIFE[index]}"
    assert bug in found.remedy


def test_b18_a_vcpu_that_goes_offline_takes_ready_with_it() -> None:
    life = honest((KIND.LAUNCHED, KIND.READY_WRITTEN, KIND.READY_REVOKED))
    assert check_handshake(life) == ()
    assert kinds(check_handshake([*life[:2], free(KIND.READY_REVOKED)])) == ["ready-kept"]


def test_another_reason_beside_the_blocker_is_no_finding() -> None:
    both = event(KIND.LAUNCHED, reasons=(REASON, "a device cannot migrate"))
    assert check_handshake([both]) == ()
    (found,) = check_handshake([event(KIND.LAUNCHED, reasons=(REASON, REASON, "a device cannot migrate"))])
    assert found.detail == f"listed more than once: {REASON}"


def test_what_stays_wrong_is_told_once() -> None:
    stuck = [event(KIND.LAUNCHED), free(KIND.READY_WRITTEN), free(KIND.RESET), free(KIND.ASKED), free(KIND.ASKED)]
    (found,) = check_handshake(stuck)
    assert found.where == "event 2, reset"


def test_a_guest_that_came_by_migration_was_ready_before() -> None:
    assert check_handshake([free(KIND.ASKED)], is_ready=True) == ()
    assert kinds(check_handshake([free(KIND.ASKED)])) == ["blocker-late"]
    assert kinds(check_handshake([free(KIND.RESET)], is_ready=True)) == ["ready-kept"]


def test_nobody_asked_proves_nothing() -> None:
    (found,) = check_handshake([])
    assert found.verdict is Verdict.ERROR


def test_b16_a_guest_boots_without_the_feature_too() -> None:
    boot = GuestBoot(offers_migration=False, entered_kernel=True)
    assert check_boot(boot) == ()
    (found,) = check_boot(replace(boot, entered_kernel=False, last_words="ASSERT"))
    assert (found.check, found.kind) == ("handshake/blocker", "assert-without-feature")
    assert found.detail.endswith("its last words: ASSERT")
    assert "B16" in found.remedy
    assert kinds(check_boot(replace(boot, entered_kernel=False, offers_migration=True))) == ["no-boot"]
