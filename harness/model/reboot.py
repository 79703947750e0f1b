"""What a reboot of a protected guest must come to, by technology: so that "unsupported" is never counted as a bug.

The table of the field's sources: Hygon's series for CSV, QEMU's confidential guest reset (11.0) for the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

NEW_CONTEXT_SINCE = (11, 0)
"""First QEMU that gives a guest whose CPUs cannot be reset a new VM descriptor, key and measurement."""


class RebootOutcome(StrEnum):
    """How a reboot ends when nothing is wrong."""

    PASSES = "passes"
    """The guest comes back."""
    PASSES_WITH_CALLS = "passes, with PRE and POST seen"
    """The same, and QEMU tells KVM around every reset: without it caches are not flushed (B22)."""
    NEW_CONTEXT = "passes in a new context"
    """The guest comes back under another key, handle and measurement (B46)."""
    NOT_RESETTABLE = "ends, not resettable"
    """QEMU ends the guest with a SHUTDOWN event instead of resetting it."""
    EITHER = "passes, or ends as not resettable"
    """As the host was asked to play it."""
    UNKNOWN = "not known"
    """No source says. Whatever ends cleanly is right."""
    NOT_APPLICABLE = "does not come about"
    """Such a guest cannot have been migrated in."""

    @property
    def needs_calls(self) -> bool:
        """Whether a reset without PRE and POST is a defect."""
        return self is RebootOutcome.PASSES_WITH_CALLS

    @property
    def may_come_back(self) -> bool:
        """Whether a guest that runs again is right."""
        return self not in {RebootOutcome.NOT_RESETTABLE, RebootOutcome.NOT_APPLICABLE}

    @property
    def may_end(self) -> bool:
        """Whether a guest that QEMU ended instead is right, and the reboot unsupported."""
        return self in {RebootOutcome.NOT_RESETTABLE, RebootOutcome.EITHER, RebootOutcome.UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootRow:
    """One technology."""

    fresh: RebootOutcome
    """Of a guest that was never migrated."""
    arrived: RebootOutcome
    """Of one that came in by a migration."""
    renewed: RebootOutcome | None = None
    """Of a fresh one since QEMU 11; None where nothing changed."""

    def words(self) -> str:
        """For people: ``fresh: passes; migrated in: ends, not resettable``."""
        newer = f" (since QEMU {NEW_CONTEXT_SINCE[0]}: {self.renewed})" if self.renewed else ""
        return f"fresh: {self.fresh}{newer}; migrated in: {self.arrived}"


_O = RebootOutcome

REBOOTS: Mapping[str, RebootRow] = MappingProxyType(
    {
        "none": RebootRow(fresh=_O.PASSES, arrived=_O.PASSES),
        "sev": RebootRow(fresh=_O.PASSES, arrived=_O.PASSES),
        "sev-es": RebootRow(fresh=_O.NOT_RESETTABLE, renewed=_O.NEW_CONTEXT, arrived=_O.NOT_APPLICABLE),
        "sev-snp": RebootRow(fresh=_O.NOT_RESETTABLE, renewed=_O.NEW_CONTEXT, arrived=_O.NOT_APPLICABLE),
        "csv": RebootRow(fresh=_O.PASSES_WITH_CALLS, arrived=_O.PASSES_WITH_CALLS),
        "csv2": RebootRow(fresh=_O.PASSES_WITH_CALLS, arrived=_O.NOT_RESETTABLE),
        "csv3": RebootRow(fresh=_O.NOT_RESETTABLE, arrived=_O.NOT_RESETTABLE),
        "tdx": RebootRow(fresh=_O.NOT_RESETTABLE, renewed=_O.NEW_CONTEXT, arrived=_O.UNKNOWN),
        "soft-sev": RebootRow(fresh=_O.PASSES, arrived=_O.PASSES),
        "soft-csv": RebootRow(fresh=_O.PASSES_WITH_CALLS, arrived=_O.PASSES_WITH_CALLS),
        "soft-csv2": RebootRow(fresh=_O.PASSES_WITH_CALLS, arrived=_O.EITHER),
    }
)
"""By name of the backend; hardware ones stand for a kernel and a QEMU with the series, where there is one."""


def expected_reboot(technology: str, *, has_arrived: bool, qemu: tuple[int, int]) -> RebootOutcome:
    """How a reboot of such a guest must end. *qemu* is (major, minor). KeyError for a technology without a row."""
    row = REBOOTS[technology]
    if has_arrived:
        return row.arrived
    return row.renewed if row.renewed and qemu >= NEW_CONTEXT_SINCE else row.fresh
