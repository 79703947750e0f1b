"""The ways in which a guest can be made to boot anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from harness.model.machine import Arch


class RebootWay(StrEnum):
    """Who does it, and how."""

    HOST = "host"
    """The host: QMP's ``system_reset``."""
    RESET_PORT = "cf9"
    """Port 0xcf9 of a PC's south bridge."""
    KEYBOARD = "keyboard"
    """The keyboard controller pulses the reset line: 0xfe to port 0x64."""
    ACPI = "acpi"
    """RESET_REG of the FADT (ACPI 6.5, 4.8.3.6)."""
    TRIPLE_FAULT = "triple-fault"
    WATCHDOG = "watchdog"
    """An Intel 6300ESB that nobody feeds."""
    PANIC = "panic"
    """The guest tells its host by pvpanic that it is lost; the host's policy is to reset it."""
    PSCI = "psci"
    """SYSTEM_RESET of Arm's PSCI."""
    KEXEC = "kexec"
    """One kernel starts the next without any reset."""
    BARE = "bare"
    """A boot to the guest, and no reset of anything: nobody does so but a host that errs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayRow:
    """What is special about a way."""

    code: int
    """The guest's number for it (images/probe/PROTOCOL.md)."""
    arches: frozenset[Arch]
    device: str = ""
    """What ``-device`` it needs."""
    resets: bool = True
    """QEMU resets the machine."""
    pauses: bool = False
    """QEMU pauses the VM first, and whoever manages it resets it."""
    reasons: frozenset[str] = frozenset({"guest-reset"})
    """Of the RESET event (ShutdownCause in qapi/run-state.json)."""


_PC = frozenset({Arch.X86_64})
_ARM = frozenset({Arch.AARCH64})
_ALL = _PC | _ARM
_BY_HOST = frozenset({"host-qmp-system-reset"})

WAYS: Mapping[RebootWay, WayRow] = MappingProxyType(
    {
        RebootWay.HOST: WayRow(code=0, arches=_ALL, reasons=_BY_HOST),
        RebootWay.RESET_PORT: WayRow(code=1, arches=_PC),
        RebootWay.KEYBOARD: WayRow(code=2, arches=_PC),
        RebootWay.ACPI: WayRow(code=3, arches=_PC),
        RebootWay.TRIPLE_FAULT: WayRow(code=4, arches=_PC),
        RebootWay.WATCHDOG: WayRow(code=5, arches=_ALL, device="i6300esb,addr=0x2"),
        RebootWay.PANIC: WayRow(code=6, arches=_ALL, device="pvpanic-pci,addr=0x3", pauses=True, reasons=_BY_HOST),
        RebootWay.PSCI: WayRow(code=7, arches=_ARM),
        RebootWay.KEXEC: WayRow(code=8, arches=_PC, resets=False),
        RebootWay.BARE: WayRow(code=9, arches=_PC, resets=False),
    }
)


def ways_of(arch: Arch) -> tuple[RebootWay, ...]:
    """All that a machine of *arch* can be rebooted by, when nothing is wrong."""
    return tuple(way for way, row in WAYS.items() if arch in row.arches and way is not RebootWay.BARE)


def devices_of(ways: tuple[RebootWay, ...]) -> tuple[str, ...]:
    """What ``-device`` options *ways* need, each once."""
    return tuple(dict.fromkeys(row.device for row in map(WAYS.__getitem__, ways) if row.device))
