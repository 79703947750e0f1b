"""A reboot ends as it must for this technology: the guest comes back, or QEMU ends it and says why (B24, B25)."""

from __future__ import annotations

from harness.model.reboot import RebootOutcome
from harness.model.reset import RebootEnd
from harness.model.verdict import Finding, Verdict

CHECK = "reset/end"

_CRASHES = "class B24, B25: vCPU state that KVM does not let QEMU set must not be run again"


def check_reboot_end(end: RebootEnd, *, expected: RebootOutcome) -> tuple[Finding, ...]:
    """Of one reboot. Unsupported where the guest was ended as it must be; a hang or a crash is never right."""
    if end.exit and not end.ended_cleanly:
        words = end.last_words or "(none)"
        return (_finding("process-lost", f"QEMU {end.exit}; its last words: {words}", _CRASHES, Verdict.LOST),)
    if end.came_back:
        return () if expected.may_come_back else (_came_back(expected),)
    if not end.ended_cleanly:
        said = f"SHUTDOWN {end.shutdown.reason!r}" if end.shutdown else "no SHUTDOWN event"
        detail = f"neither a new boot nor a clean end within {end.waited_s:.1f} s: {said}"
        return (_finding("hangs", detail, "class B25: a guest that is not resettable must be ended, not kept"),)
    reason = end.shutdown.reason if end.shutdown else ""
    detail = f"QEMU ended the guest instead of resetting it (SHUTDOWN {reason}): {end.last_words or 'no word why'}"
    if expected.may_end:
        return (_finding("not-resettable", detail, "this technology cannot do it here", Verdict.UNSUPPORTED),)
    return (_finding("ended", detail, f"expected: {expected}"),)


def _came_back(expected: RebootOutcome) -> Finding:
    detail = f"the guest runs again; expected: {expected}"
    return _finding("came-back", detail, "class B25: its protected vCPU state cannot have been set anew")


def _finding(kind: str, detail: str, remedy: str, verdict: Verdict = Verdict.FAIL) -> Finding:
    return Finding(check=CHECK, kind=kind, where="guest", detail=detail, remedy=remedy, verdict=verdict)
