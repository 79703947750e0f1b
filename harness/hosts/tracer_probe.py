"""Whether a process's system calls can be watched here."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.hosts.capability import Capability
from harness.hosts.sysfiles import read_text

_NEEDED = "strace, and the right to attach it: QEMU's ioctls at a reset have no other witness"
_CAP_SYS_PTRACE = 19
"""Linux include/uapi/linux/capability.h."""


def probe_strace(root: Path, strace: str | None = None) -> Capability:
    """Whether there is a strace and whether Yama lets it attach to a process that it did not start.

    *strace* overrides the executable on PATH.
    """
    path = shutil.which("strace") if strace is None else strace
    if not path:
        return _absent("no strace on PATH", "install the package strace")
    scope = read_text(root, "proc/sys/kernel/yama/ptrace_scope") or "0"
    if scope in {"0", "1", "2"} and (scope == "0" or _has_ptrace(root)):
        return Capability(name="strace", present=True, found=f"{path}, ptrace_scope {scope}", needed=_NEEDED)
    if scope in {"1", "2"}:
        return _absent(
            f"{path}, but kernel.yama.ptrace_scope is {scope}",
            "run as root or with CAP_SYS_PTRACE, or set kernel.yama.ptrace_scope to 0",
        )
    return _absent(f"{path}, but kernel.yama.ptrace_scope is {scope}", "boot anew: 3 cannot be lowered")


def _has_ptrace(root: Path) -> bool:
    status = read_text(root, "proc/self/status") or ""
    masks = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return any(int(mask, 16) >> _CAP_SYS_PTRACE & 1 for mask in masks)


def _absent(found: str, remedy: str) -> Capability:
    return Capability(name="strace", present=False, found=found, needed=_NEEDED, remedy=remedy)
