"""Which QEMUs and which accelerator a case runs with, decided once per process and binary."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.cases.request import Request
from harness.cases.stage import Binaries
from harness.guest.accelerator import require_kvm, usable_kvm
from harness.model.deadline import Deadline
from harness.model.errors import SetupError, UnsupportedError, UsageError
from harness.model.machine import Accel, Arch
from harness.vm.features import Features, probe_binary
from harness.vm.keeper import Keeper


def as_named(path: Path | None) -> Path | None:
    """The file at *path* where there is one, else the name that PATH is searched for.

    A Path forgets the ``./`` that it was given with, and the binary of that name on PATH would be another.
    """
    return path.absolute() if path and path.exists() else path


def locate_qemu(path: Path | None, arch: Arch = Arch.X86_64) -> Path:
    """The binary that was asked for, or the one on PATH for guests of *arch*. SetupError when there is none."""
    path = as_named(path)
    default = f"qemu-system-{arch}"
    found = shutil.which(str(path) if path else default)
    if found:
        return Path(found)
    if path and path.exists():
        raise SetupError(f"{path} is not executable", hint="give a QEMU system emulator with --qemu PATH")
    raise SetupError(
        f"no QEMU at {path}" if path else f"{default} is not on PATH",
        hint=f"install {_PACKAGES[arch]} or give a binary with --qemu PATH",
    )


async def find_binaries(request: Request, *, keeper: Keeper, deadline: Deadline) -> Binaries:
    """Probe both binaries and choose the accelerator.

    Raises SetupError for a binary that is missing or is no QEMU, UsageError for one that runs other guests,
    UnsupportedError for an architecture that the case is not about, a machine type that one of them does not know, or
    an accelerator that was asked for and does not work.
    """
    if request.arch not in request.case.arches:
        raise UnsupportedError(
            f"{request.case.id} is not about guests of {request.arch}",
            hint=f"leave out --arch, or give {' or '.join(request.case.arches)}",
        )
    source = await probe_binary(locate_qemu(request.qemu, request.arch), deadline=deadline)
    destination = source
    if request.qemu_dst:
        destination = await probe_binary(locate_qemu(request.qemu_dst, request.arch), deadline=deadline)
    for features in (source, destination):
        _require_target(features, request.arch)
        if request.settings.machine not in features.machines:
            raise UnsupportedError(
                f"QEMU {features.version} ({features.path}) has no machine type {request.settings.machine}",
                hint=f"see 'qemu-system-{request.arch} -machine help' and set machine=...",
            )
    accel, reason = await _accelerator(request, source, keeper=keeper, deadline=deadline)
    return Binaries(source=source, destination=destination, accel=accel, accel_reason=reason)


def _require_target(features: Features, arch: Arch) -> None:
    if features.target != arch:
        raise UsageError(
            f"{features.path} runs guests of {features.target}, asked for is {arch}",
            hint=f"give --arch {features.target}, or a qemu-system-{arch} with --qemu and --qemu-dst",
        )


_PACKAGES = {Arch.X86_64: "qemu-system-x86", Arch.AARCH64: "qemu-system-arm"}


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
