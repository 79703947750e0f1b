"""Whether an Arm host can migrate virtual LPIs (GICv4.1). Nothing in /sys tells it, so this is about where to look."""

from __future__ import annotations

import platform
from pathlib import Path

from harness.hosts.capability import Capability
from harness.hosts.sysfiles import read_text

_NEEDED = "an Arm host with GICv4.1 and kvm-arm.vgic_v4_enable=1"


def probe_gicv4_1(root: Path, machine: str = "") -> Capability:
    """On aarch64: whether the kernel was asked to use it. *machine* overrides the architecture of this host."""
    machine = machine or platform.machine()
    if machine != "aarch64":
        return Capability(name="gicv4.1", present=False, found=f"this is {machine}", needed=_NEEDED)
    asked = "kvm-arm.vgic_v4_enable=1" in (read_text(root, "proc/cmdline") or "").split()
    return Capability(
        name="gicv4.1",
        present=False,
        found="asked for on the kernel's command line; whether the hardware has it is not known"
        if asked
        else "not asked for on the kernel's command line",
        needed=_NEEDED,
        remedy="look for GICv4.1 in the kernel's log" if asked else "boot with kvm-arm.vgic_v4_enable=1",
    )
