"""How a reboot of this case's guest must end: the table of outcomes, and what its host was asked to play."""

from __future__ import annotations

from harness.cases.protection_settings import ProtectionSettings
from harness.confidential.soft.flavour import FLAVOURS
from harness.model.reboot import RebootOutcome, expected_reboot


def outcome_of(
    technology: str, protection: ProtectionSettings, *, has_arrived: bool, qemu: tuple[int, int]
) -> RebootOutcome:
    """Of a guest that *has_arrived* by a migration, or was never moved. *qemu* is (major, minor)."""
    outcome = expected_reboot(technology, has_arrived=has_arrived, qemu=qemu)
    if outcome is RebootOutcome.EITHER:
        outcome = RebootOutcome.PASSES_WITH_CALLS if protection.resets_arrived else RebootOutcome.NOT_RESETTABLE
    is_played = technology in FLAVOURS and outcome.may_come_back
    return RebootOutcome.NEW_CONTEXT if is_played and protection.renews else outcome
