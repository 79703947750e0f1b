"""What can be observed of a protected guest's migration: sessions, vCPU state, handshake, and what the guest says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from harness.model.memory import GpaRange
from harness.model.page_map import Conversion, PageMap

GHCB_PAGE_MAPPED = 1 << 63
"""Hygon's migratable GHCB value: the page is mapped by the host (KVM_CAP_SEV_ES_GHCB series)."""
FIRST_SIPI_RECEIVED = 1 << 62
"""Hygon's migratable GHCB value: the vCPU has had its first SIPI."""
MIGRATION_READY = 1
"""Bit 0 of MSR_KVM_MIGRATION_CONTROL (arch/x86/include/uapi/asm/kvm_para.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCommand:
    """One command to a secure processor, as a trace of it shows; runs of update-data commands are one entry."""

    name: str
    """In the processor's words, e.g. ``send-start``, ``receive-update-data``."""
    status: int = 0
    """Firmware status, 0 success (linux include/linux/psp-sev.h)."""
    count: int = 1
    vcpu: int | None = None
    detail: str = ""
    """The processor's reason for a refusal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuProtection:
    """What KVM keeps of a vCPU outside the VMSA, and the VMSA as a digest."""

    vcpu: int
    ghcb: int
    """MSR 0xC0010130: a gpa in page protocol, else the value of the MSR protocol. Without the two flag bits."""
    is_ghcb_mapped: bool = False
    has_first_sipi: bool = False
    aux: Mapping[str, int] = field(default_factory=dict)
    """apic_base, cr0, cr4, cr8, efer, as far as they were seen."""
    vmsa_sha256: str = ""
    """Of the register page; empty when there was none."""


class HandshakeKind(StrEnum):
    """What happens between boot and the first migration."""

    LAUNCHED = "launched"
    FIRST_RUN = "first-run"
    READY_WRITTEN = "ready-written"
    """The guest wrote the MSR with READY."""
    READY_REVOKED = "ready-revoked"
    """The guest wrote it without."""
    RESET = "reset"
    ASKED = "asked"
    """Somebody asked whether the guest may migrate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeEvent:
    """One of these, and what the host said right behind it."""

    kind: HandshakeKind
    msr: int
    """MSR_KVM_MIGRATION_CONTROL as the host holds it."""
    blocked_reasons: tuple[str, ...]
    """As ``query-migrate`` lists them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionSnapshot:
    """What one host holds of one VM at one moment."""

    page_map: PageMap
    """The host's list."""
    entries: tuple[tuple[int, int], ...]
    """The list itself: gfn ranges in its own order, unmerged where it does not merge."""
    conversions: tuple[Conversion, ...]
    """Every KVM_HC_MAP_GPA_RANGE that came in, raw."""
    vcpus: tuple[VcpuProtection, ...]
    commands: tuple[SessionCommand, ...]
    handshake: tuple[HandshakeEvent, ...]
    state: str
    """Firmware state of the guest by name, e.g. ``running``; empty when it has none."""
    pinned_pages: int = 0
    """Pages pinned for commands at this moment; 0 when none is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRecords:
    """What an observer of the wire between two hosts counted."""

    starts: int = 0
    """Records that carried a session."""
    pages: int = 0
    """Packets of private pages."""
    plain_pages: int = 0
    """Plain records of main memory."""
    batches: tuple[int, ...] = ()
    """Pages of each batch window, in order; empty when there were none."""
    lists: int = 0
    vcpu_packets: tuple[int, ...] = ()
    """cpu_index of each VMSA packet, in order."""
    order: tuple[str, ...] = ()
    """``start``, ``page``, ``plain``, ``list``, ``cpu``, ``end``; repetitions are one entry."""
    unknown_flags: tuple[int, ...] = ()
    """RAM flags that the series does not have, as they came."""
    clear_private_pages: int = 0
    """Plain records with a line that the guest wrote through a private mapping."""
    clear_private_ranges: tuple[GpaRange, ...] = ()
    """Where, bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuErrands:
    """What one vCPU did at once after it ran again."""

    vcpu: int
    mmio_ok: int
    mmio_bad: int
    ipi_ok: bool
