"""Which QEMUs and which accelerator a case runs with, decided once per process and binary."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.cases.request import Request
from harness.cases.stage import Binaries
from harness.guest.accelerator import require_kvm, usable_kvm
from harness.model.deadline import Deadline
from harness.model.errors import SetupError, UnsupportedError
from harness.model.machine import Accel
from harness.vm.features import Features, probe_binary
from harness.vm.keeper import Keeper

DEFAULT_QEMU = "qemu-system-x86_64"


def as_named(path: Path | None) -> Path | None:
    """The file at *path* where there is one, else the name that PATH is searched for.

    A Path forgets the ``./`` that it was given with, and the binary of that name on PATH would be another.
    """
    return path.absolute() if path and path.exists() else path


def locate_qemu(path: Path | None) -> Path:
    """The binary that was asked for, or the one on PATH. SetupError when there is none."""
    path = as_named(path)
    found = shutil.which(str(path) if path else DEFAULT_QEMU)
    if found:
        return Path(found)
    if path and path.exists():
        raise SetupError(f"{path} is not executable", hint="give a QEMU system emulator with --qemu PATH")
    raise SetupError(
        f"no QEMU at {path}" if path else f"{DEFAULT_QEMU} is not on PATH",
        hint="install qemu-system-x86 or give a binary with --qemu PATH",
    )


async def find_binaries(request: Request, *, keeper: Keeper, deadline: Deadline) -> Binaries:
    """Probe both binaries and choose the accelerator.

    Raises SetupError for a binary that is missing or is no QEMU, UnsupportedError for a machine type that one of them
    does not know or an accelerator that was asked for and does not work.
    """
    source = await probe_binary(locate_qemu(request.qemu), deadline=deadline)
    destination = source
    if request.qemu_dst:
        destination = await probe_binary(locate_qemu(request.qemu_dst), deadline=deadline)
    for features in (source, destination):
        if request.settings.machine not in features.machines:
            raise UnsupportedError(
                f"QEMU {features.version} ({features.path}) has no machine type {request.settings.machine}",
                hint="see 'qemu-system-x86_64 -machine help' and set machine=...",
            )
    accel, reason = await _accelerator(request, source, keeper=keeper, deadline=deadline)
    return Binaries(source=source, destination=destination, accel=accel, accel_reason=reason)


async def _accelerator(
    request: Request, features: Features, *, keeper: Keeper, deadline: Deadline
) -> tuple[Accel, str]:
    if request.accel is Accel.TCG:
        return Accel.TCG, "as asked"
    if request.accel is Accel.KVM:
        return Accel.KVM, await require_kvm(features, keeper=keeper, deadline=deadline)
    kvm = await usable_kvm(features, keeper=keeper, deadline=deadline)
    if kvm.present:
        return Accel.KVM, kvm.found
    return Accel.TCG, f"no usable KVM: {kvm.found}"
