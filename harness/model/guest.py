"""What the probe guest says of itself, as plain values. The protocol behind it: images/probe/PROTOCOL.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from harness.model.machine import Arch
from harness.model.memory import PAGE_SIZE, Damage, GpaRange, PageDamage

FOUR_GIB = 1 << 32
VIRT_RAM_GPA = 1 << 30
"""Where RAM of Arm's virt machine begins (QEMU hw/arm/virt.c, VIRT_MEM)."""


class Workload(StrEnum):
    """What a vCPU does between commands. All writers keep the pattern and the ledger."""

    IDLE = "idle"
    """Sleeps between timer interrupts."""
    SEQUENTIAL = "sequential"
    """Writes its share page after page."""
    RANDOM = "random"
    """Writes pages of its share in pseudo-random order."""
    HOT_SET = "hot-set"
    """15 of 16 writes go to the first sixteenth of its share."""
    FULL = "full"
    """Sequential without any throttle."""
    READ_MOSTLY = "read-mostly"
    """Verifies random pages of its share and writes one in 16; damage is recorded while it runs."""
    SHARED = "shared"
    """All vCPUs write the same pages, one lock per page."""


class CrashKind(IntEnum):
    """Ways to crash the guest on purpose."""

    UNDEFINED = 0
    PAGE_FAULT = 1
    DIVIDE = 2
    HANG = 3
    """vCPU 0 loops with interrupts off; there is no FAULT event."""
    TRIPLE_FAULT = 4
    """The machine resets, or QEMU ends under ``-no-reboot``; there is no FAULT event."""


class HaltMode(IntEnum):
    """Ways to stop the guest."""

    STOP = 0
    """All vCPUs halt with interrupts off; QEMU goes on."""
    POWER_OFF = 1
    RESET = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RamLayout:
    """Where main memory (one RAMBlock) lies in guest physical space.

    q35 (pc_q35_init in QEMU hw/i386/pc_q35.c): with 2816 MiB or more, 2 GiB lie below 4 GiB and the rest starts at
    4 GiB; ``max-ram-below-4g`` lowers what lies below.
    virt (base_memmap in QEMU hw/arm/virt.c): one piece from 1 GiB on, without a hole.
    """

    below_4g_bytes: int
    """Size of the first piece; the rest, if any, starts at 4 GiB."""
    total_bytes: int
    low_gpa: int = 0
    """Where the first piece starts."""

    @property
    def arch(self) -> Arch:
        """Whose layout it is: only virt's RAM does not begin at 0."""
        return Arch.AARCH64 if self.low_gpa else Arch.X86_64

    @classmethod
    def q35(cls, total_bytes: int, *, below_4g_mib: int = 0) -> RamLayout:
        """The layout of q35; *below_4g_mib* is ``max-ram-below-4g``, 0 where it is not given."""
        most = 0x80000000 if total_bytes >= 0xB0000000 else 0xB0000000
        most = min(most, below_4g_mib << 20) if below_4g_mib else most
        return cls(below_4g_bytes=min(most, total_bytes), total_bytes=total_bytes)

    @classmethod
    def virt(cls, total_bytes: int) -> RamLayout:
        """The layout of Arm's virt machine."""
        return cls(below_4g_bytes=total_bytes, total_bytes=total_bytes, low_gpa=VIRT_RAM_GPA)

    @classmethod
    def of(cls, arch: Arch, total_bytes: int, *, below_4g_mib: int = 0) -> RamLayout:
        """The layout of the machine that the harness builds for *arch*; *below_4g_mib* is a PC's alone."""
        return cls.virt(total_bytes) if arch is Arch.AARCH64 else cls.q35(total_bytes, below_4g_mib=below_4g_mib)

    def gpa_to_ram(self, gpa: int) -> int:
        """The ram_addr of *gpa*. Raises ValueError where there is no RAM."""
        if self.low_gpa <= gpa < self.low_gpa + self.below_4g_bytes:
            return gpa - self.low_gpa
        ram_addr = gpa - FOUR_GIB + self.below_4g_bytes
        if gpa >= FOUR_GIB and ram_addr < self.total_bytes:
            return ram_addr
        raise ValueError(f"no RAM at gpa {gpa:#x}")

    def ram_to_gpa(self, ram_addr: int) -> int:
        """The gpa of *ram_addr*. Raises ValueError beyond the end."""
        if not 0 <= ram_addr < self.total_bytes:
            raise ValueError(f"ram_addr {ram_addr:#x} is beyond {self.total_bytes:#x} bytes of RAM")
        if ram_addr < self.below_4g_bytes:
            return self.low_gpa + ram_addr
        return ram_addr - self.below_4g_bytes + FOUR_GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestDescription:
    """Reply to DESCRIBE."""

    protocol_version: int
    probe_version: int
    arch: str
    vcpus: int
    boot_id: int
    """Differs from boot to boot."""
    boot_count: int
    """1 after power-on; a reset that keeps RAM counts on."""
    tsc: int
    heartbeat_gpa: int
    ledger_gpa: int
    """One little-endian u32 per managed page, in the order of *managed*; bit 31 is the page's lock."""
    ram: tuple[GpaRange, ...]
    managed: tuple[GpaRange, ...]
    """What carries the pattern once filled."""

    @property
    def managed_pages(self) -> int:
        """Pages under the pattern."""
        return sum(span.pages for span in self.managed)

    def page_gpa(self, index: int) -> int:
        """The gpa of managed page *index*, the ledger's order."""
        for span in self.managed:
            if index < span.pages:
                return span.start + index * PAGE_SIZE
            index -= span.pages
        raise IndexError("beyond the managed pages")


@dataclass(frozen=True, slots=True, kw_only=True)
class FillReport:
    """Reply to FILL."""

    pages: int
    ticks: int
    """What it took, in the guest's own clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestMemory:
    """Reply to VERIFY: what the guest itself says of its memory."""

    pages_checked: int
    pages_bad: int
    by_kind: Mapping[Damage, int] = field(default_factory=dict)
    """Only kinds that were seen."""
    damages: tuple[PageDamage, ...] = ()
    """The first ones in ascending gpa, bounded by the request."""
    ledger_sum: int = 0
    """Sum of the generations in the ledger."""
    written_sum: int = 0
    """Sum of the page writes of all vCPUs since FILL, FILL included. Unequal to *ledger_sum*: the ledger is damaged."""
    ticks: int = 0

    @property
    def is_clean(self) -> bool:
        """Pages were checked, none is wrong, and ledger and writers agree."""
        return self.pages_checked > 0 and self.pages_bad == 0 and self.ledger_sum == self.written_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuWork:
    """What one vCPU has done since START."""

    vcpu: int
    pages_written: int
    pages_verified: int
    pages_bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkReport:
    """Reply to STOP."""

    vcpus: tuple[VcpuWork, ...]
    damages_seen: int = 0
    """Pages that READ_MOSTLY found wrong while it ran."""
    first_damage: PageDamage | None = None

    @property
    def pages_written(self) -> int:
        """Sum over all vCPUs."""
        return sum(vcpu.pages_written for vcpu in self.vcpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuBeat:
    """One vCPU's line of the heartbeat page."""

    vcpu: int
    beats: int
    """Timer interrupts since boot, about 100 a second."""
    tsc: int
    """The clock at the last beat."""
    pages_written: int
    """Since FILL, FILL included."""
    writing_gpa: int
    """The page that is being written at this moment, 0 for none."""
    backward_tsc: int
    """Largest step backwards between two beats since the last reset of the figures."""
    gap_tsc: int
    """Largest step forwards between two beats."""
    gap_at_tsc: int
    """The clock right after that gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Reply to HEARTBEAT, or the heartbeat page as the host sees it."""

    boot_id: int
    vcpus: tuple[VcpuBeat, ...]
    tsc: int = 0
    """The clock at the reply; 0 when read from the page."""
    seed: int = 0
    """Seed of the last FILL; only when read from the page."""
    ledger_gpa: int = 0
    managed_pages: int = 0
    boot_count: int = 0

    @property
    def pages_written(self) -> int:
        """Sum over all vCPUs."""
        return sum(vcpu.pages_written for vcpu in self.vcpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterMismatch:
    """A canary that is no longer what it was."""

    vcpu: int
    register: str
    expected: bytes
    """Little endian, as wide as the register."""
    found: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReport:
    """Reply to CANARY_CHECK."""

    checks: tuple[int, ...]
    """Per vCPU, how often the registers were compared since they were armed; 0 means never armed."""
    mismatch_counts: tuple[int, ...]
    """Per vCPU; the list is bounded, these are not."""
    mismatches: tuple[RegisterMismatch, ...] = ()

    @property
    def is_clean(self) -> bool:
        """At least one vCPU was compared, and nothing differed."""
        return any(self.checks) and not any(self.mismatch_counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestClock:
    """Reply to CLOCK."""

    tsc_hz: int
    """Measured against the timer for some milliseconds; a busy host makes it too large, never too small."""
    tsc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """Reply to BENCH: a plain loop over managed pages on vCPU 0."""

    pages: int
    ticks: int


class KvmCall(IntEnum):
    """How a guest calls the KVM that it runs on, by its own CPUID (PROTOCOL.md, HYPERCALL)."""

    NONE = 0
    """No KVM: nothing was called."""
    VMCALL = 1
    VMMCALL = 2


KVM_ENOSYS = 1000
"""KVM's answer to a hypercall that it does not have, as -KVM_ENOSYS in RAX (linux: include/uapi/linux/kvm_para.h)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvmAnswer:
    """One hypercall of the guest's own, and what answered."""

    call: KvmCall
    features: int
    """EAX of KVM CPUID leaf 0x40000001: bit 16 is KVM_HC_MAP_GPA_RANGE, bit 17 MSR_KVM_MIGRATION_CONTROL."""
    result: int
    """RAX, signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternCheck:
    """What the host itself finds when it compares a guest's memory with the pattern and the guest's ledger."""

    pages_checked: int
    pages_bad: int
    by_kind: Mapping[Damage, int] = field(default_factory=dict)
    damages: tuple[PageDamage, ...] = ()
    """The first ones in ascending gpa, bounded by the request."""
    pages_in_flight: int = 0
    """Pages whose write a stopped vCPU has begun and not finished; both generations are right there."""
    ledger_sum: int = 0
