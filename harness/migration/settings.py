"""How one migration is to be done: a plain value that cases fill and the driver obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20


class Transport(StrEnum):
    """What carries the main channel."""

    UNIX = "unix"
    TCP = "tcp"


class CancelAt(StrEnum):
    """Phases of the source in which an attempt can be cancelled (MigrationStatus in qapi/migration.json)."""

    SETUP = "setup"
    """As soon as the command was accepted; the source may be in ``setup`` or have just left it."""
    FIRST_PASS = "first-pass"
    """``active`` before the dirty bitmap was synchronised a second time."""
    LATER_PASS = "later-pass"
    """``active`` after pages were sent again."""
    PRE_SWITCHOVER = "pre-switchover"
    """Held by pause-before-switchover: the source is stopped and everything but the rest is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationSettings:
    """Units are in the names. ``max_bandwidth_mib_s`` 0 means as fast as it goes."""

    transport: Transport = Transport.UNIX
    max_bandwidth_mib_s: int = 0
    downtime_limit_ms: int = 300
    hold_passes: int = 2
    """Hold the migration in precopy until the guest's memory has been gone through this many times."""
    hold_bandwidth_mib_s: int = 0
    """Bandwidth while it is held, low enough that a pass takes more than 100 ms; 0 means ``max_bandwidth_mib_s``."""
    capabilities: Mapping[str, bool] = field(default_factory=dict)

    @property
    def max_bandwidth_bytes(self) -> int:
        """``max-bandwidth`` in bytes per second; QEMU reads 0 as unlimited."""
        return self.max_bandwidth_mib_s * MIB

    @property
    def hold_bandwidth_bytes(self) -> int:
        """``max-bandwidth`` while the migration is held, in bytes per second."""
        return (self.hold_bandwidth_mib_s or self.max_bandwidth_mib_s) * MIB
