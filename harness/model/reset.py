"""What a host shows of a machine's reset: ioctls that QEMU issued, its own events, lines of the kernel's log.

All times are seconds since 1970 on the host's clock, which QEMU's event stamps and strace share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_KVMIO = 0xAE
"""Linux include/uapi/linux/kvm.h."""

PRE_SYSTEM_RESET = _KVMIO << 8 | 0xE8
"""KVM_CONTROL_VCPU_PRE_SYSTEM_RESET, _IO(KVMIO, 0xe8) on the VM's descriptor, of "Add support for CSV2 reboot" (QEMU).

Not in mainline Linux, which may give these numbers to something else one day.
"""

POST_SYSTEM_RESET = _KVMIO << 8 | 0xE9
"""KVM_CONTROL_VCPU_POST_SYSTEM_RESET, _IO(KVMIO, 0xe9), behind the reset and before the vCPUs run."""

RESET_IOCTLS: Mapping[int, str] = {PRE_SYSTEM_RESET: "PRE_SYSTEM_RESET", POST_SYSTEM_RESET: "POST_SYSTEM_RESET"}


@dataclass(frozen=True, slots=True, kw_only=True)
class IoctlCall:
    """One ioctl that a process issued."""

    at_s: float
    """When it was entered."""
    thread: int
    """Thread id."""
    fd: int
    request: int
    result: int | None
    """What it returned, -1 for an error; None when its thread did not live to see the result."""
    error: str = ""
    """Name of the errno, e.g. ``ENOTTY``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IoctlTrace:
    """What was seen of one process's ioctls."""

    pid: int
    started_s: float
    """From here on every wanted ioctl was seen."""
    ended_s: float
    """Until here."""
    calls: tuple[IoctlCall, ...]
    """The wanted ones, in the order in which they were entered."""
    others: int = 0
    """ioctls with other numbers: a trace that saw none at all of a running KVM guest has seen nothing."""
    end: str = ""
    """Why it ended: ``asked``, ``deadline``, or how the process ended."""
    unread: int = 0
    """Lines of the tracer that nobody understood; what they hid is not in *calls*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineEvent:
    """QEMU's RESET or SHUTDOWN event (qapi/run-state.json)."""

    name: str
    reason: str
    """ShutdownCause, e.g. ``guest-reset`` or ``host-qmp-system-reset``; empty for a QEMU that tells none."""
    by_guest: bool
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLogDifference:
    """What the kernel logged meanwhile."""

    lines: tuple[str, ...] = ()
    """Oldest first, with the level in front: ``<4>[12.345678] text``; bounded."""
    lost: int = 0
    """Times that lines were overwritten before they were read, or left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetEvidence:
    """What a host showed of a span in which a machine was reset any number of times."""

    events: tuple[MachineEvent, ...]
    """RESET and SHUTDOWN events of the span, in order."""
    trace: IoctlTrace | None = None
    """None where nobody could trace."""
    kernel_log: KernelLogDifference = field(default_factory=KernelLogDifference)

    @property
    def resets(self) -> tuple[MachineEvent, ...]:
        """The machine was reset this often: more often than it was asked to, where firmware resets it again itself.

        SeaBIOS does so on a warm start (seen with QEMU 7.2 under TCG and KVM): ``guest-reset``, once or more.
        """
        return tuple(event for event in self.events if event.name == "RESET")


Registers = Mapping[str, int]
"""Of one vCPU: names of 64-bit mode in lower case, ``cs`` is a selector and ``cs.base`` its base."""

POWER_ON: Registers = MappingProxyType(
    {
        **dict.fromkeys(("rax", "rbx", "rcx", "rsi", "rdi", "rbp", "rsp", "cr2", "cr3", "cr4", "efer"), 0),
        "rip": 0xFFF0,
        "rflags": 0x2,
        "cr0": 0x60000010,
        "cs": 0xF000,
        "cs.base": 0xFFFF0000,
    }
)
"""Of an x86 vCPU behind RESET (Intel SDM vol. 3, table 10-1). RDX tells the processor's model, so it is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuAtReset:
    """What KVM holds of a vCPU with encrypted state behind POST_SYSTEM_RESET, before it runs again."""

    vcpu: int
    ghcb: int
    """MSR 0xC0010130, which a reset sets to 0."""
    is_ghcb_mapped: bool
    has_first_sipi: bool
    """received_first_sipi (linux arch/x86/kvm/svm/svm.h): a vCPU that has been reset waits for its first."""
    took_registers: bool
    """KVM took what QEMU wrote of its registers during the reset: guest_state_protected was clear."""
    is_state_protected: bool
    """guest_state_protected is set again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootEnd:
    """What became of a guest that was told, or decided, to reboot."""

    came_back: bool
    """It said so itself, with another boot id."""
    shutdown: MachineEvent | None = None
    """QEMU's SHUTDOWN event since the reboot was asked for."""
    exit: str = ""
    """Exit status in words when QEMU is gone, e.g. ``exited with status 0``; else empty."""
    last_words: str = ""
    """QEMU's last line on stderr."""
    waited_s: float = 0.0
    """How long was waited for either."""

    @property
    def ended_cleanly(self) -> bool:
        """QEMU ended the guest itself and said so, for the reason that was asked for."""
        has_said = self.shutdown is not None and "reset" in self.shutdown.reason
        return has_said and self.exit in {"", "exited with status 0"}
