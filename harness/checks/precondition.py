"""No vacuous pass: what a case is about must have come about. Findings here are errors, never failures."""

from __future__ import annotations

from collections.abc import Sequence

from harness.model.evidence import Traffic
from harness.model.verdict import Finding, Verdict

CHECK = "precondition"


def check_redirtied(traffic: Traffic, *, passes: int) -> tuple[Finding, ...]:
    """Pages were sent, written again by the guest, and sent again: a live migration under load."""
    if passes <= 1:
        return ()
    missing = []
    if traffic.pages_resent == 0:
        missing.append(f"no page was sent twice ({traffic.pages_sent} sent of {traffic.pages_total})")
    if traffic.pages_written == 0:
        missing.append("the guest wrote nothing between migrate and STOP")
    if traffic.passes <= passes:
        missing.append(
            f"the dirty bitmap was read {traffic.passes} times, {passes} of them before the switch-over were due"
        )
    return tuple(_unmet("not-redirtied", what) for what in missing)


def check_fault_applied(name: str, times: int) -> tuple[Finding, ...]:
    """A fault that was asked for really happened, so that silence would mean something."""
    return () if times else (_unmet("fault-not-applied", f"the fault {name} never found its target"),)


def check_fault_seen(name: str, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """A fault that nobody counts was on, and something was found: silence would look as if it had been withstood."""
    if findings:
        return ()
    return (_unmet("fault-not-seen", f"the fault {name} left no trace: it has no target in this case, or no check"),)


def _unmet(kind: str, detail: str) -> Finding:
    return Finding(
        check=CHECK,
        kind=kind,
        where="migration",
        detail=detail,
        remedy="the case proves nothing this way; try another seed, more memory, or more passes",
        verdict=Verdict.ERROR,
    )
