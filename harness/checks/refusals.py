"""What a refusal says of the product: the table of expected verdicts, as far as something is refused or does not end.

A policy that forbids sending, a blocker and a secure processor that is too slow are no defects: blocked, or too-slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.confidential.soft.processor.status import FirmwareStatus, status_words
from harness.model.protection import MIGRATION_READY, HandshakeEvent, SessionCommand
from harness.model.verdict import Finding, Verdict

CHECK = "migration/refusal"

_OF_POLICY = frozenset(
    {FirmwareStatus.POLICY_FAILURE, FirmwareStatus.INVALID_CERTIFICATE, FirmwareStatus.BAD_SIGNATURE}
)
"""How firmware may word that a policy does not let a guest go: DOMAIN and SEV are about certificates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a migration that did not end could have been, against what the guest asked of it."""

    private_pages_dirtied_per_s: float
    processor_pages_per_s: float
    moved_pages: int
    """Packets that were made all the same."""


def verdict_of_refusal(command: SessionCommand, *, forbidden_by: str) -> Verdict:
    """Blocked where the guest's policy forbids this target (*forbidden_by* says what), else a defect.

    Pass for a command that was not refused.
    """
    if command.status == 0:
        return Verdict.PASS
    return Verdict.BLOCKED if forbidden_by and command.status in _OF_POLICY else Verdict.FAIL


def verdict_of_blockers(reasons: Sequence[str], *, msr: int) -> Verdict:
    """Of ``blocked-reasons``: a guest that has not said READY must be blocked; one that has, must not."""
    if not reasons:
        return Verdict.PASS if msr & MIGRATION_READY else Verdict.FAIL
    return Verdict.FAIL if msr & MIGRATION_READY else Verdict.BLOCKED


def verdict_of_capability(*, is_refused: bool) -> Verdict:
    """Of a capability that cannot carry private memory (postcopy, multifd, xbzrle): accepting it is the defect."""
    return Verdict.BLOCKED if is_refused else Verdict.FAIL


def verdict_of_pace(pace: Pace) -> Verdict:
    """Of a migration that reached its deadline: too slow when packets were made, a defect when none was."""
    return Verdict.TOO_SLOW if pace.moved_pages else Verdict.FAIL


def check_ready(handshake: Sequence[HandshakeEvent]) -> tuple[Finding, ...]:
    """Whether the guest may be migrated now, by the last that the host said. Blocked is no defect (B17)."""
    if not handshake:
        return ()
    last = handshake[-1]
    verdict = verdict_of_blockers(last.blocked_reasons, msr=last.msr)
    if verdict is not Verdict.BLOCKED:
        return ()
    return (
        Finding(
            check=CHECK,
            kind="not-ready",
            where="MSR_KVM_MIGRATION_CONTROL",
            detail=f"{last.msr:#x} after {last.kind}: {'; '.join(last.blocked_reasons)}",
            remedy="class B17: firmware sets SevLiveMigrationEnabled, the kernel reads it and writes READY",
            verdict=verdict,
        ),
    )


def check_pace(pace: Pace) -> tuple[Finding, ...]:
    """A migration of a protected guest that was given up at its deadline (B34)."""
    if verdict_of_pace(pace) is Verdict.FAIL:
        detail = "not one packet was made before the deadline"
        return (Finding(check=CHECK, kind="stalled", where="secure processor", detail=detail),)
    return (
        Finding(
            check=CHECK,
            kind="too-slow",
            where="secure processor",
            detail=f"{pace.processor_pages_per_s:.0f} pages a second, the guest writes "
            f"{pace.private_pages_dirtied_per_s:.0f} private pages a second; {pace.moved_pages} packets were made",
            remedy="class B34: batches of many pages with each command, a longer downtime limit, or a calmer guest",
            verdict=Verdict.TOO_SLOW,
        ),
    )


def words_of(command: SessionCommand) -> str:
    """A command and its answer: ``send-start: POLICY_FAILURE (0x07): guest 1 may not be sent``."""
    answer = f"{command.name}: {status_words(command.status)}"
    return f"{answer}: {command.detail}" if command.detail else answer
