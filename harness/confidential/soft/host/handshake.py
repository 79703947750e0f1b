"""MSR_KVM_MIGRATION_CONTROL and the migration blocker: who may migrate between boot and READY.

The blocker is added at LAUNCH_FINISH and lifted when the guest writes READY (AMD/Hygon series). Unlike that series ours
comes back when READY is taken back or the machine is reset: as published it is never added again.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from harness.model.protection import MIGRATION_READY, HandshakeEvent, HandshakeKind
from harness.model.soft_fault import SoftFault

REASON = "SEV: Migration is not implemented"
"""QEMU target/i386/sev.c; the series lifts the same blocker."""


class MigrationControl:
    """Of one VM. Not thread-safe: its owner locks."""

    def __init__(self, faults: AbstractSet[SoftFault] = frozenset()) -> None:
        self.msr = 0
        self._faults = faults
        self._has_run = False
        self._reasons: list[str] = []
        self._events: list[HandshakeEvent] = []

    @property
    def blocked_reasons(self) -> tuple[str, ...]:
        """As ``query-migrate`` lists them."""
        return tuple(self._reasons)

    @property
    def events(self) -> tuple[HandshakeEvent, ...]:
        """Everything that happened, in order."""
        return tuple(self._events)

    def launched(self) -> None:
        """LAUNCH_FINISH."""
        if SoftFault.BLOCKER_LATE not in self._faults:
            self._block()
        self._note(HandshakeKind.LAUNCHED)

    def arrived(self) -> None:
        """RECEIVE_FINISH: whoever was sent had said READY; the wire of the series does not carry the MSR."""
        self.msr, self._has_run = MIGRATION_READY, True

    def runs(self) -> None:
        """The vCPUs run; only the first time is an event."""
        if self._has_run:
            return
        self._has_run = True
        if SoftFault.BLOCKER_LATE in self._faults:
            self._block()
        self._note(HandshakeKind.FIRST_RUN)

    def write(self, value: int) -> None:
        """The guest wrote the MSR."""
        if value & MIGRATION_READY:
            self.msr = value
            self._reasons.clear()
            self._note(HandshakeKind.READY_WRITTEN)
            return
        if SoftFault.READY_KEPT not in self._faults:
            self.msr = value
            self._block()
        self._note(HandshakeKind.READY_REVOKED)

    def reset(self) -> None:
        """The machine was reset."""
        if SoftFault.READY_KEPT not in self._faults:
            self.msr = 0
            self._block()
        self._note(HandshakeKind.RESET)

    def ask(self) -> tuple[str, ...]:
        """Somebody wants to migrate: the reasons against it."""
        self._note(HandshakeKind.ASKED)
        return self.blocked_reasons

    def _block(self) -> None:
        times = 2 if SoftFault.BLOCKER_TWICE in self._faults else 1
        if not self._reasons:
            self._reasons += [REASON] * times

    def _note(self, kind: HandshakeKind) -> None:
        self._events.append(HandshakeEvent(kind=kind, msr=self.msr, blocked_reasons=self.blocked_reasons))
