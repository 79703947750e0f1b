"""What a protected guest says of its protection, as plain values. The protocol behind it: images/probe/PROTOCOL.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from harness.model.memory import GpaRange
from harness.model.protection import ProtectionCounters


class Phase(IntEnum):
    """How far a protected guest has booted."""

    FIRMWARE = 1
    KERNEL = 2


class MigrationVariable(IntEnum):
    """The EFI variable SevLiveMigrationEnabled as the guest holds it."""

    UNSET = 0
    FALSE = 1
    TRUE = 2


class ConversionStep(IntEnum):
    """How far a vCPU has come with a conversion; until it is done the content of the range means nothing."""

    NONE = 0
    BEGUN = 1
    """Waits for the pages' locks, or changes its tables."""
    TABLES_CHANGED = 2
    HYPERCALL_DONE = 3
    """Of a conversion that tells the host first: the tables are not changed yet."""
    REWRITING = 4
    """Tables and host agree; the pattern is being written through the new view."""


class ConversionStatus(IntEnum):
    """How one conversion ended."""

    DONE = 0
    REFUSED = 1
    """By the host: what it had not converted is private or shared as before, and leaked."""
    LEAKED = 3
    """The range has pages that an earlier refusal leaked, and was left alone."""


class Shapes(IntFlag):
    """Which conversions the conversion workload draws."""

    PAGE = 1
    """One 4 KiB page."""
    LARGE = 2
    """An aligned 2 MiB."""
    ODD = 4
    """Up to 64 KiB from anywhere, not aligned to anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A conversion that a vCPU has begun and not finished."""

    vcpu: int
    range: GpaRange
    to_private: bool
    step: ConversionStep


@dataclass(frozen=True, slots=True, kw_only=True)
class CvmVcpu:
    """One vCPU's line of the cvm page."""

    vcpu: int
    ghcb_gpa: int
    """0 without GHCB."""
    hypercalls: int
    """Exchanges with the host that it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CvmGuest:
    """The cvm page: what the guest keeps of its protection, in its reply or as the host reads it in memory."""

    gpa: int
    phase: Phase
    root_gpa: int
    """The top page table."""
    cbit_mask: int
    kernel: int
    """0 in firmware, then 1, one more with each kexec."""
    features: int
    """Bits of KVM CPUID 0x40000001 EAX that the host said hello with."""
    variable: MigrationVariable
    is_es: bool
    ready: int
    """Last value written to MSR_KVM_MIGRATION_CONTROL."""
    decrypted: GpaRange
    """What the kernel shares for as long as it runs: heartbeat page, cvm page, GHCBs."""
    firmware_ghcb_gpa: int
    """0 without."""
    online_mask: int
    """vCPUs that this kernel runs on."""
    counters: ProtectionCounters
    leaks: int
    leaked: tuple[GpaRange, ...]
    """The first 16."""
    vcpus: tuple[CvmVcpu, ...]
    in_flight: tuple[InFlight, ...]
    """Conversions under way; none when all vCPUs are between two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReply:
    """Reply to CONVERT."""

    status: ConversionStatus
    result: int
    """RAX of the last hypercall, as a signed number: 0 or a negative errno."""
