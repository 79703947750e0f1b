"""How a case ended, and the statements that led there.

A *Finding* is a defect of the product, stated with a place. A *Verdict* is what the case as a whole says; the worst
finding wins. Trouble of our own is an exception (:mod:`harness.model.errors`), and never a finding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The end of a case. Order of declaration is order of severity: later is worse."""

    PASS = "pass"
    UNSUPPORTED = "unsupported"
    """The host or the binary cannot do this; the reason says what is needed, found, and how to enable it."""
    BLOCKED = "blocked"
    """The product refuses, with its own reason (query-migrate ``blocked-reasons``, a policy)."""
    TOO_SLOW = "too-slow"
    """Everything was right, but the migration did not converge within its deadline."""
    FAIL = "fail"
    LOST = "lost"
    """A process that the case needs is gone: QEMU died, or was killed."""
    ERROR = "error"
    """Our own fault, or the precondition of the case did not come about. Says nothing about the product."""

    @property
    def severity(self) -> int:
        """Rank in the order above, 0 for a pass."""
        return list(Verdict).index(self)

    @property
    def is_bad(self) -> bool:
        """True where somebody has to look at the product: fail, too-slow, lost."""
        return self in {Verdict.FAIL, Verdict.TOO_SLOW, Verdict.LOST}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe verdict; pass when there is none."""
    return max(verdicts, key=lambda verdict: verdict.severity, default=Verdict.PASS)


def verdict_of(findings: Iterable[Finding]) -> Verdict:
    """What findings say together: the worst of them, except that an error never hides a defect of the product."""
    verdicts = [finding.verdict for finding in findings]
    return worst([verdict for verdict in verdicts if verdict.is_bad] or verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One statement of one check."""

    check: str
    """Name of the check that says so, e.g. ``memory/guest``."""
    kind: str
    """What is wrong, one word of the check's vocabulary, e.g. ``stale``."""
    where: str
    """The place: a gpa range, a register of a vCPU, a field of a device."""
    detail: str
    """One line for people: what was expected, what was found."""
    remedy: str = ""
    """Where to look next; empty when there is nothing better than *detail*."""
    verdict: Verdict = Verdict.FAIL


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """Exit status of ``cvmig run``.

    3 any error; else 1 any fail, too-slow or lost; else 4 when there was nothing but blocked and unsupported; else 0.
    A run with a finding and an error says 1: the finding is about the product and must not be hidden.
    """
    seen = set(verdicts)
    if any(verdict.is_bad for verdict in seen):
        return 1
    if Verdict.ERROR in seen:
        return 3
    if seen and seen <= {Verdict.BLOCKED, Verdict.UNSUPPORTED}:
        return 4
    return 0
