"""What can be observed of a protected guest's migration: sessions, vCPU state, handshake, and what the guest says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from harness.model.memory import GpaRange
from harness.model.page_map import Conversion, PageMap
from harness.model.page_set import PageSet

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
    ram_page: int | None = None
    """Of a refused update-data, the page that it was for; None where nobody can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchIdentity:
    """What a guest's context is known by outside of the host: handle and measurement of its launch.

    QMP's ``query-sev`` and ``query-sev-launch-measure`` (qapi/misc-i386.json).
    """

    handle: int
    """Of the secure processor; 0 for no guest."""
    measurement: bytes
    """LAUNCH_MEASURE's; empty for a guest that was not launched here but came in."""

    def __str__(self) -> str:
        return f"handle {self.handle}, measurement {self.measurement[:8].hex() or 'none'}"


class AttemptEnd(StrEnum):
    """How an attempt to move a guest ended, by QEMU's ``query-migrate`` on the source."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEvidence:
    """One attempt to move a protected guest, as the traces of both processors show it."""

    end: AttemptEnd
    source: tuple[SessionCommand, ...]
    """Of the source from the begin of this attempt on, whatever came behind its end included."""
    destination: tuple[SessionCommand, ...]
    source_state: str = ""
    """Firmware state of the guest afterwards, by name; empty when it has none any more."""
    destination_state: str = ""
    es_vcpus: int = 0
    """vCPUs whose VMSA has to travel; 0 for a guest without encrypted vCPU state."""
    forbidden_by: str = ""
    """What in the guest's policy forbids to send it to this target, e.g. ``NOSEND``; empty when it may be sent."""


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
class GuestBoot:
    """How far a guest came, on a host that offers live migration or does not."""

    offers_migration: bool
    """KVM CPUID 0x40000001 EAX has bits 16 and 17 (Documentation/virt/kvm/x86/cpuid.rst)."""
    entered_kernel: bool
    last_words: str = ""
    """Of its console, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionSnapshot:
    """What one host holds of one VM at one moment."""

    page_map: PageMap
    """The host's list."""
    initial: PageMap
    """The host's list before the first of *conversions*: at launch, right behind a reset, or as a move brought it."""
    entries: tuple[tuple[int, int], ...]
    """The list itself: gfn ranges in its own order, unmerged where it does not merge."""
    conversions: tuple[Conversion, ...]
    """Every KVM_HC_MAP_GPA_RANGE that came in since launch, arrival or reset, raw; of one that was answered with RETRY
    only the part that was done."""
    vcpus: tuple[VcpuProtection, ...]
    commands: tuple[SessionCommand, ...]
    handshake: tuple[HandshakeEvent, ...]
    state: str
    """Firmware state of the guest by name, e.g. ``running``; empty when it has none."""
    pinned_pages: int = 0
    """Pages pinned for commands at this moment; 0 when none is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockKinds:
    """How the pages of a RAM block travelled, by the latest record of each."""

    block: str
    """RAMBlock idstr."""
    packet_pages: int
    plain_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRecords:
    """What an observer of the wire between two hosts counted."""

    starts: int = 0
    """Records that carried a session."""
    pages: int = 0
    """Packets of private pages, those of the firmware's block included."""
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
    clear_registers: tuple[str, ...] = ()
    """Fields of the cpu sections of a guest with encrypted vCPU state that carried a value, e.g. ``cpu/0 env.regs[3]``;
    bounded."""
    unended_batches: int = 0
    """Batch windows without a page that says that it is the last (subtype 5)."""
    packet_pages: PageSet = field(default_factory=PageSet.empty)
    """RAM pages that came as a packet at least once."""
    blocks: tuple[BlockKinds, ...] = ()
    """RAM blocks other than main memory that came."""

    @property
    def is_whole(self) -> bool:
        """Whether the end was seen: what is missing then was never sent."""
        return self.order[-1:] == ("end",)


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuErrands:
    """What one vCPU did at once after it ran again."""

    vcpu: int
    mmio_ok: int
    mmio_bad: int
    ipi_ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionCounters:
    """What the guest counted since it booted, in its own words."""

    to_shared: int = 0
    """Conversions that succeeded."""
    to_private: int = 0
    failed: int = 0
    retried: int = 0
    stale_backing: int = 0
    """Times that old content showed through after a conversion."""
    vc_entries: int = 0
    vc_nested: int = 0
    """Entries of the #VC handler while one was under way on the same vCPU."""
    vc_interrupts_on: int = 0
    """Times that the handler found interrupts enabled."""
    mmio_ok: int = 0
    mmio_bad: int = 0
    ghcb_errors: int = 0
    ipis_sent: int = 0
    ipis_got: int = 0

    def since(self, earlier: ProtectionCounters) -> ProtectionCounters:
        """What was added after *earlier*."""
        return ProtectionCounters(**{name: getattr(self, name) - getattr(earlier, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionsInMove:
    """Conversions between ``migrate`` and STOP."""

    to_shared: int
    to_private: int
    of_sent_pages: int
    """Pages converted after they had been sent at least once: they had to be sent again as the other kind."""
