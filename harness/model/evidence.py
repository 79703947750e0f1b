"""What was observed: immutable records that checks judge. The guest's own is in guest.py."""

from __future__ import annotations

from dataclasses import dataclass

from harness.model.guest import Heartbeat
from harness.model.memory import GpaRange, PageDamage


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockComparison:
    """One RAM block of the source against the same block of the destination, both stopped, destination not yet run."""

    block: str
    """RAMBlock idstr, e.g. ``pc.ram`` or ``/rom@etc/acpi/tables``."""
    source_bytes: int
    destination_bytes: int
    """0 where the side does not have the block."""
    pages_bad: int = 0
    ranges: tuple[GpaRange, ...] = ()
    """Where they differ: gpa for main memory, ram_addr for other blocks."""
    damages: tuple[PageDamage, ...] = ()
    """Diagnosed pages, bounded; ``pages_bad`` is the full count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEnd:
    """How one side of a migration ended."""

    role: str
    status: str
    """``query-migrate`` status, ``lost`` when the process is gone."""
    run_state: str
    """``query-status`` status: ``postmigrate``, ``paused``, ``running`` ..."""
    error: str = ""
    """QEMU's own words: error-desc, else the last line on stderr."""
    exit: str = ""
    """Exit status in words when the process is gone, else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationEnd:
    """Both ends of one hop, taken before the destination runs."""

    source: SideEnd
    destination: SideEnd
    return_path: bool
    """Whether the return path was open: only then does the source's ``completed`` imply the destination's SHUT 0."""
    shut_code: int | None = None
    """Payload of the return path's SHUT where a relay saw it (0 = loaded)."""
    stalled_s: float = 0.0
    """Seconds without a transferred byte at the end of a migration that was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the RAM phase of one hop sent, from ``query-migrate`` of the completed source."""

    pages_total: int
    """Pages of all migrated RAM blocks."""
    pages_sent: int
    """Page records of all kinds (``normal`` + ``duplicate``), re-sends included."""
    passes: int
    """Synchronisations of the dirty bitmap that were seen (MIGRATION_PASS, dirty-sync-count)."""
    pages_written: int
    """Pages that the guest wrote between ``migrate`` and STOP, by its own ledger (or heartbeat page)."""

    @property
    def pages_resent(self) -> int:
        """Lower bound of re-sent pages: every page goes once, the rest are repeats."""
        return max(0, self.pages_sent - self.pages_total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """Who was alive: heartbeat pages of both sides, before and after the destination was let go."""

    source_before: Heartbeat
    source_after: Heartbeat
    destination_before: Heartbeat
    destination_after: Heartbeat
    source_run_state: str
    destination_run_state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSpan:
    """A vCPU's clocks across a move, bracketed by the host's clock.

    ``host_s`` encloses both readings: it runs from before the first was asked for until after the second was
    answered, so a guest clock that advanced by more has jumped.
    """

    vcpu: int
    tsc_before: int
    tsc_after: int
    tsc_hz: float
    host_s: float
    backward_tsc: int
    """Largest step backwards between two readings in the guest itself, 0 when there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StayedAlive:
    """A source that must go on unharmed after a cancelled or failed attempt."""

    run_state: str
    before: Heartbeat
    after: Heartbeat
