"""Handle and launch measurement over a reset (B46): whoever attests the guest must hold those of its present context.

A reset in the same VM keeps the context. QEMU 11's confidential guest reset closes it and launches another one: what
was read before is then about a guest that is gone, and attestation against it fails, or vouches for the wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.model.protection import LaunchIdentity
from harness.model.verdict import Finding

CHECK = "reset/measurement"

_REREAD = "class B46: read query-sev and query-sev-launch-measure again after each reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextsOverReset:
    """Of one guest and one reboot."""

    before: LaunchIdentity
    """What the firmware answered before the reboot."""
    now: LaunchIdentity
    """What it answers when the guest is back."""
    held: LaunchIdentity
    """What the management of the host will attest the guest with from now on."""
    is_renewed: bool
    """The host gives the guest a new context at this reset."""


def check_contexts(contexts: ContextsOverReset) -> tuple[Finding, ...]:
    """The context is another one exactly where it is to be, and who attests the guest knows the one that it has."""
    before, now, held = contexts.before, contexts.now, contexts.held
    findings = []
    if contexts.is_renewed:
        kept = [name for name in _NAMES if getattr(now, name) == getattr(before, name)]
        if kept:
            detail = f"a new context was due, and its {' and '.join(kept)} are those of the one before: {now}"
            findings.append(_finding("same-context", "firmware", detail, "a reset that renews launches the guest anew"))
    elif now != before:
        detail = f"{before} before the reboot, {now} after it"
        findings.append(_finding("other-context", "firmware", detail, "a reset in the same VM keeps the context"))
    if held != now:
        detail = f"{held} is held for attestation, but the guest has {now}"
        findings.append(_finding("stale", "management", detail, _REREAD))
    return tuple(findings)


_NAMES = ("handle", "measurement")


def _finding(kind: str, where: str, detail: str, remedy: str) -> Finding:
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=remedy)
