"""What the earliest code of a boot found of the boot before it: its memory, and interrupts that nobody may have kept.

That code runs before anything of the new boot's is written but its image. What firmware writes meanwhile it does not
judge: the first MiB, and what the firmware's memory map keeps back at the top of low memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from harness.model.memory import Damage, PageDamage


class EarlyState(IntEnum):
    """Whether there was something to judge."""

    NOTHING = 0
    """No boot before this one, or one that had not filled its memory."""
    LOOKED = 1
    SPOILED = 2
    """The page that tells the next boot what to expect is not as it was left."""


class InterruptState(IntEnum):
    """Of one interrupt, as the interrupt controller tells."""

    PENDING = 0
    ACTIVE = 1
    """In service; of an I/O APIC's pin: remote IRR."""
    ENABLED = 2
    """Let through; of an I/O APIC's pin: not masked."""


ROUTER = 0xFF
"""In place of a vCPU: the I/O APIC's pins, the distributor's SPIs."""


@dataclass(frozen=True, slots=True, order=True)
class EarlyInterrupt:
    """One interrupt that is in a state in which it is not behind a reset."""

    state: InterruptState
    vcpu: int
    number: int
    """Vector of a local APIC, pin of the I/O APIC, INTID of a GIC."""

    def __str__(self) -> str:
        where = "router" if self.vcpu == ROUTER else f"vCPU {self.vcpu}"
        return f"{self.number:#x} {self.state.name.lower()} at {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyReport:
    """Of one boot."""

    state: EarlyState
    is_kexec: bool
    """Another kernel started this one; no reset did."""
    boot_id: int
    """Of the boot before, as it had written it down."""
    boot_count: int
    pages_checked: int
    pages_locked: int
    """Left out: they were being written when the boot before ended."""
    pages_spared: int
    """Left out: firmware works there while it boots."""
    pages_bad: int
    ticks: int
    """How long the look took, on the guest's clock."""
    by_kind: Mapping[Damage, int]
    damages: tuple[PageDamage, ...]
    """The first 32."""
    interrupts: tuple[EarlyInterrupt, ...]
    interrupt_count: int
    """More than those listed, where there are very many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongLine:
    """A line of 64 bytes that is not what the boot before had written there."""

    gpa: int
    ram_addr: int
    expected: bytes
    found: bytes
    is_shared: bool
    """It was last written through the shared view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyEvidence:
    """One reboot, as the guest tells it on its other side."""

    report: EarlyReport
    boot_id_before: int
    boot_count_before: int
    boot_id: int
    boot_count: int
    is_reset: bool
    """The machine was reset; else one kernel started another."""
    way: str
    is_renewed: bool = False
    """The reset gave the guest another key: nothing private of the boot before can be read any more."""
    lines: tuple[WrongLine, ...] = ()
    """Of the damages, where somebody looked."""
    pended: tuple[EarlyInterrupt, ...] = field(default=())
    """What was pending just before the reboot, where that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPhase:
    """Where a migration stood while its guest was rebooted."""

    at: str
    statuses: tuple[str, str]
    """MigrationStatus of the source before and after the reboot."""
