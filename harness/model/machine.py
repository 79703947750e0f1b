"""The machine that a VM is: what its QEMU command line is made from. Both sides of a migration get the same one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from harness.model.errors import UsageError

MAX_VCPUS = 255
"""q35 without an interrupt remapper (QEMU hw/i386/pc_q35.c allows more only with x2APIC and an IOMMU)."""

_VERSIONED = re.compile(r"[a-z0-9][a-z0-9.-]*-\d+\.\d+(\.\d+)?")


class Arch(StrEnum):
    """Guest architecture, as QEMU spells it in the name of the emulator."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


DEFAULT_MACHINES = {Arch.X86_64: "pc-q35-7.2", Arch.AARCH64: "virt-7.2"}
"""The machine type of each architecture when nobody says."""

RAM_IDS = {Arch.X86_64: "pc.ram", Arch.AARCH64: "mach-virt.ram"}
"""Name of main memory's RAMBlock: what QEMU itself calls it (default_ram_id in hw/i386/pc.c and hw/arm/virt.c)."""

MAIN_RAM_IDS = frozenset(RAM_IDS.values())


class Accel(StrEnum):
    """What runs the guest's instructions."""

    TCG = "tcg"
    KVM = "kvm"


X86_64_CPU = (
    "qemu64,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+movbe,+aes,+pclmulqdq,+xsave,+xsaveopt,+avx,+avx2,+fma,+f16c"
    ",+bmi1,+bmi2,+adx,+rdrand,+rdtscp,+pdpe1gb,+fsgsbase,+smep,+smap,+erms,+clflushopt,+clwb"
)
"""Named features only, so that both sides agree: each of them is there under TCG of QEMU 7.2 and of 10.0.

``max`` means another CPU in every version. ``x2apic`` came to TCG after 7.2, ``rdseed`` and ``pcid`` are not in 7.2.
"""


AARCH64_CPU = "neoverse-n1"
"""A named model of Armv8.2 that QEMU 7.2 and 10.0 have; ``max`` means another CPU in every version.

No model moves between the two under TCG: 7.2 sends a register that 10.0 has not (AArch32 PAR, non-secure), 10.0 sends
more than 7.2 has, and ID_DFR0_EL1 differs (seen with cortex-a35, a53, a57, a72, a76, neoverse-n1 and max).
"""

KVM_CPU = "host,-kvmclock,-kvmclock-stable-bit"
"""Whatever the host is. Firmware that registers a kvmclock page leaves KVM with a page that it updates when the clock
is set on load, so a destination that has not run would differ from its source in it (seen with SeaBIOS under KVM).
"""

CHANGE_VMFD = "x-change-vmfd-on-reset"
"""Machine property of QEMU 11.0 (hw/core/machine.c), for tests: a reset makes another VM descriptor of KVM."""

TCG_TRIM_KIB = 64
"""Makes RAM no multiple of 256 KiB, so that QEMU reads its dirty bitmap page by page.

Otherwise QEMU before 9.0 loses dirty pages under TCG: the path for whole words of the bitmap clears bits and leaves the
TLB as it is, so a vCPU's next stores to a hot page are not noticed (cpu_physical_memory_sync_dirty_bitmap in
include/exec/ram_addr.h; fixed by QEMU commit 03bfc2188f06 "physmem: Fix migration dirty bitmap coherency with TCG
memory access"). This harness finds it at once: ``cvmig run memory/precopy --set trim_kib=0`` with such a QEMU.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """One virtual machine, in QEMU's terms."""

    machine: str = "pc-q35-7.2"
    """Versioned machine type. An alias such as ``q35`` is another machine in every binary, and the stream names it."""
    accel: Accel = Accel.TCG
    arch: Arch = Arch.X86_64
    cpu: str = ""
    """Value of ``-cpu``; empty is the architecture's model under TCG and ``host`` under KVM."""
    gic_version: int = 3
    """Of virt's interrupt controller; 4 needs *has_el2*."""
    has_el2: bool = False
    """Whether virt's vCPUs have EL2 (``virtualization=on``), and boot there."""
    vcpus: int = 1
    memory_mib: int = 128
    trim_kib: int = 0
    """Taken off the end of memory; see :data:`TCG_TRIM_KIB`."""
    kernel: str = ""
    """Path of the payload for ``-kernel``; empty boots the firmware alone."""
    append: str = ""
    """The payload's command line."""
    below_4g_mib: int = 0
    """Memory below 4 GiB (``max-ram-below-4g``); the rest begins at 4 GiB. 0 leaves it to the machine type."""
    hypercall_port: bool = False
    """A third serial port on which a protected guest calls its host."""
    interrupt_vectors: int = 0
    """MSI-X vectors of a device that the harness plays (ivshmem-doorbell); 0: the machine has none."""
    traces: tuple[str, ...] = ()
    """Trace events that QEMU writes down (its log backend)."""
    firmware: str = ""
    """Value of ``-bios``; empty is the machine type's own. ``qboot.rom`` is 25 ms faster than SeaBIOS."""
    uuid: str = ""
    reboots: bool = False
    """True lets a guest that resets itself boot again; otherwise it stays stopped for a post-mortem."""
    changes_vmfd: bool = False
    """Give the guest a new VM descriptor of KVM at every reset (:data:`CHANGE_VMFD`), as QEMU does for guests whose
    vCPUs cannot be reset."""
    devices: tuple[str, ...] = ()
    """Values of further ``-device`` options, the same on both sides."""
    extra_args: tuple[str, ...] = ()
    """Further words at the end of the command line: tracing, plugins. Nothing that is part of the guest's state."""

    def __post_init__(self) -> None:
        if not _VERSIONED.fullmatch(self.machine):
            raise UsageError(
                f"machine type {self.machine!r} has no version", hint="name it in full, e.g. pc-q35-7.2: aliases move"
            )
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise UsageError(f"{self.vcpus} vCPUs: between 1 and {MAX_VCPUS} are possible")
        if self.trim_kib % 8 or self.trim_kib < 0:
            raise UsageError(f"trim_kib is {self.trim_kib}", hint="QEMU's memory comes in multiples of 8 KiB")
        if self.gic_version not in {3, 4} or (self.gic_version == 4 and not self.has_el2):
            raise UsageError(f"gic_version is {self.gic_version}", hint="it is 3, or 4 with has_el2")
        if self.below_4g_mib < 0:
            raise UsageError(f"below_4g_mib is {self.below_4g_mib}", hint="0 leaves it to the machine type")
        if self.arch is Arch.AARCH64 and (self.below_4g_mib or self.hypercall_port):
            raise UsageError(
                "virt has neither a hole below 4 GiB nor a port for hypercalls", hint="use x86_64 for these"
            )
        if self.memory_mib < 1 or self.memory_bytes <= 0:
            raise UsageError(f"{self.memory_mib} MiB of memory: at least 1 is needed")

    @property
    def cpu_model(self) -> str:
        """What ``-cpu`` gets: under KVM no list of ours would fit every host."""
        if self.cpu:
            return self.cpu
        if self.arch is Arch.AARCH64:
            return AARCH64_CPU if self.accel is Accel.TCG else "host"
        return X86_64_CPU if self.accel is Accel.TCG else KVM_CPU

    @property
    def ram_id(self) -> str:
        """Name of main memory's RAMBlock."""
        return RAM_IDS[self.arch]

    @property
    def memory_bytes(self) -> int:
        """Size of main memory."""
        return (self.memory_mib << 20) - (self.trim_kib << 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class FdPlan:
    """Descriptor numbers that QEMU inherits. They are the same in every process, so command lines can be compared."""

    ram: int = 3
    """A memfd that holds main memory; the harness maps it too."""
    qmp: int = 4
    console: int = 5
    """Socket of COM1, or of virt's PL011: lines for people."""
    channel: int = 6
    """Socket of COM2, or of virt's pci-serial: the guest's command protocol."""
    hypercalls: int = 7
    """Socket of COM3: what a protected guest asks its host. Only where the machine has that port."""
    interrupts: int = 8
    """Socket of the ivshmem server. Only where the machine has that device."""
    trace: int = 9
    """A memfd for trace events. Only where some are traced."""
