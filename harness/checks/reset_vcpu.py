"""Protected vCPU state around a reset: what KVM takes, keeps and protects (B24, and what Hygon's POST does).

Judged behind POST_SYSTEM_RESET and before the vCPUs run: what is wrong here ends the guest later, or starts no AP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.model.reset import POWER_ON, Registers, VcpuAtReset
from harness.model.verdict import Finding

CHECK = "reset/vcpu"

_Wrong = Callable[[VcpuAtReset], str]

_RULES: tuple[tuple[str, _Wrong, str], ...] = (
    (
        "registers-refused",
        lambda vcpu: "" if vcpu.took_registers else "KVM took no register that QEMU wrote: its state stayed protected",
        "class B24: PRE_SYSTEM_RESET clears guest_state_protected of every vCPU; else VMRUN fails with old registers",
    ),
    (
        "unprotected",
        lambda vcpu: "" if vcpu.is_state_protected else "guest_state_protected is clear behind POST_SYSTEM_RESET",
        "class B24: POST_SYSTEM_RESET sets it again; else registers of the next boot are handed out in clear",
    ),
    (
        "ghcb-kept",
        lambda vcpu: (
            f"the GHCB MSR is {vcpu.ghcb:#x}, and 0 behind a reset" if vcpu.ghcb or vcpu.is_ghcb_mapped else ""
        ),
        "class B24: the host would go on to write into a page that belongs to the next boot",
    ),
    (
        "sipi-flag-kept",
        lambda vcpu: "it still counts as started: its first SIPI will be lost" if vcpu.has_first_sipi else "",
        "class B24: POST_SYSTEM_RESET clears received_first_sipi",
    ),
)


def check_reset_vcpus(vcpus: Sequence[VcpuAtReset]) -> tuple[Finding, ...]:
    """Of one reset; one finding for each rule that any vCPU breaks."""
    found = []
    for kind, wrong, remedy in _RULES:
        broken = [(vcpu.vcpu, words) for vcpu in vcpus if (words := wrong(vcpu))]
        if broken:
            where = ", ".join(f"vCPU {number}" for number, _ in broken)
            found.append(Finding(check=CHECK, kind=kind, where=where, detail=broken[0][1], remedy=remedy))
    return tuple(found)


_VMSA = "class B24: POST_SYSTEM_RESET copies back the VMSA that LAUNCH_UPDATE_VMSA measured, of each vCPU"
_CONTROL = ("cr0", "cr4", "efer")
_SHOWN = 4


def check_reset_registers(vcpus: Sequence[Registers]) -> tuple[Finding, ...]:
    """Behind a reset the registers of each vCPU, by number, are those of one that was just switched on."""
    found = []
    for number, registers in enumerate(vcpus):
        wrong = [name for name, value in POWER_ON.items() if registers.get(name) != value]
        if not wrong:
            continue
        has_old_vmsa = "rip" in wrong or "rsp" in wrong
        told = ", ".join(f"{name} is {registers.get(name, 0):#x}" for name in _first(wrong)[:_SHOWN])
        found.append(
            Finding(
                check=CHECK,
                kind="old-vmsa" if has_old_vmsa else "old-control-registers",
                where=f"vCPU {number}",
                detail=f"{len(wrong)} registers are not those of a reset vCPU: {told}",
                remedy=_VMSA if has_old_vmsa else _RULES[0][2],
            )
        )
    return tuple(found)


def _first(names: Sequence[str]) -> Sequence[str]:
    """What says most, first."""
    return [name for name in ("rip", *_CONTROL) if name in names] or names
