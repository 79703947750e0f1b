"""What /dev/kvm says. That a 64-bit guest really runs under it is another question, asked with a guest."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from harness.hosts.capability import Capability
from harness.hosts.sysfiles import is_device, modules

_KVM_GET_API_VERSION = 0xAE00
"""_IO(KVMIO, 0x00), Linux include/uapi/linux/kvm.h."""

_API_VERSION = 12
"""The only one there has been since Linux 2.6.22."""

_NEEDED = "/dev/kvm that opens and answers API version 12"

Opener = Callable[[Path], int]


def open_and_ask(device: Path) -> int:
    """API version of a KVM device; OSError when it cannot be asked."""
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    finally:
        os.close(fd)


def probe_kvm(root: Path, ask: Opener = open_and_ask) -> Capability:
    """Whether the device is there, may be opened, and answers; names the module behind it."""
    if not is_device(root, "dev/kvm"):
        return _absent(
            f"no /dev/kvm; {_modules(root)}", "enable virtualisation in the firmware, load kvm_intel or kvm_amd"
        )
    try:
        version = ask(root / "dev/kvm")
    except OSError as problem:
        return _absent(f"/dev/kvm: {problem.strerror}; {_modules(root)}", _remedy(problem.errno))
    if version != _API_VERSION:
        return _absent(f"/dev/kvm answers API version {version}; {_modules(root)}", "boot a kernel from this century")
    found = f"/dev/kvm opens, API version {version}; {_modules(root)}"
    return Capability(name="kvm", present=True, found=found, needed=_NEEDED)


def _absent(found: str, remedy: str) -> Capability:
    return Capability(name="kvm", present=False, found=found, needed=_NEEDED, remedy=remedy)


def _modules(root: Path) -> str:
    loaded = [name for name in modules(root, "kvm") if name != "kvm"]
    return f"module {', '.join(loaded)}" if loaded else "no kvm_intel, no kvm_amd"


def _remedy(number: int | None) -> str:
    if number in {errno.EACCES, errno.EPERM}:
        return "add the user to the group of /dev/kvm (usually kvm) and log in again"
    if number == errno.EBUSY:
        return "another hypervisor holds the processor's virtualisation: end it"
    return "look for kvm in the kernel's log"
