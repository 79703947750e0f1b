"""What this machine can do, up to a guest that has really run."""

from __future__ import annotations

from pathlib import Path

from harness.cases.binaries import locate_qemu
from harness.guest.accelerator import usable_kvm
from harness.guest.image import probe_image
from harness.hosts.capability import Capability
from harness.hosts.local import LocalHost
from harness.model.deadline import Deadline
from harness.model.errors import HarnessError
from harness.model.machine import Arch
from harness.vm.features import probe_binary
from harness.vm.keeper import Keeper

_LIMIT_S = 60.0


async def examine(qemu: Path | None, *, checkout: Path) -> tuple[Capability, ...]:
    """Everything that can be found out here; never raises for what is missing."""
    deadline = Deadline.after(_LIMIT_S)
    host = await LocalHost(checkout=checkout).capabilities()
    return (*host, *map(_image, Arch), *await _binary(qemu, deadline))


def _image(arch: Arch) -> Capability:
    name, needed = f"probe {arch}", "the probe guest, built from images/probe"
    try:
        path = probe_image(arch)
    except HarnessError as trouble:
        return Capability(name=name, present=False, found=str(trouble), needed=needed, remedy=trouble.hint)
    return Capability(name=name, present=True, found=str(path), needed=needed)


async def _binary(qemu: Path | None, deadline: Deadline) -> tuple[Capability, ...]:
    needed = "a QEMU system emulator that answers QMP"
    try:
        features = await probe_binary(locate_qemu(qemu), deadline=deadline)
        with Keeper() as keeper:
            kvm = await usable_kvm(features, keeper=keeper, deadline=deadline)
    except HarnessError as trouble:
        return (Capability(name="qemu", present=False, found=str(trouble), needed=needed, remedy=trouble.hint),)
    words = f"{features.path}: {features.version}, {len(features.machines)} machine types"
    return Capability(name="qemu", present=True, found=words, needed=needed), kvm
