"""Pages that the host pins for commands to the secure processor: none stays when no command is under way."""

from __future__ import annotations

from harness.model.protection import ProtectionSnapshot
from harness.model.verdict import Finding

CHECK = "host/pins"


def check_pins(snapshot: ProtectionSnapshot, *, role: str) -> tuple[Finding, ...]:
    """No page of *role*'s guest is pinned after an attempt has ended (B33)."""
    if not snapshot.pinned_pages:
        return ()
    return (
        Finding(
            check=CHECK,
            kind="leaked",
            where=role,
            detail=f"{snapshot.pinned_pages} pages stay pinned though no command is under way",
            remedy="class B33: a batch that was refused or cancelled half way keeps what it had pinned (VmPin, VmLck)",
        ),
    )
