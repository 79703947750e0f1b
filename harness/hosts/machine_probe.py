"""Plain facts of a host: architecture, cores, memory, compiler, emulators."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from harness.hosts.capability import Capability
from harness.hosts.huge_file import open_huge_file
from harness.hosts.sysfiles import cpu_info, read_text

_GUESTS = ("x86_64", "aarch64")
_LEAST_MIB = 1024
_SHMEM_HUGE = "sys/kernel/mm/transparent_hugepage/shmem_enabled"
_LEAST_CORES = 2


def probe_architecture(root: Path) -> Capability:
    """Instruction set and processor."""
    info = cpu_info(root)
    model = info.get("model name") or info.get("vendor_id") or "processor unknown"
    return Capability(name="architecture", present=True, found=f"{platform.machine()}, {model}")


def probe_cores() -> Capability:
    """Processors that this process may use."""
    count = len(os.sched_getaffinity(0))
    return Capability(
        name="cores",
        present=count >= _LEAST_CORES,
        found=f"{count}",
        needed=f"{_LEAST_CORES}: source, destination and harness run at once",
        remedy="" if count >= _LEAST_CORES else "expect migrations to be slow",
    )


def probe_memory(root: Path) -> Capability:
    """Memory that can still be used, from /proc/meminfo."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", read_text(root, "proc/meminfo") or "", re.MULTILINE)
    if match is None:
        return Capability(name="memory", present=False, found="/proc/meminfo tells nothing", needed=f"{_LEAST_MIB} MiB")
    mib = int(match[1]) >> 10
    present = mib >= _LEAST_MIB
    remedy = "" if present else "lower --set memory_mib, or end something else"
    return Capability(
        name="memory", present=present, found=f"{mib} MiB available", needed=f"{_LEAST_MIB} MiB", remedy=remedy
    )


def probe_huge_pages(root: Path) -> Capability:
    """Whether guest memory comes in huge pages (Documentation/admin-guide/mm/transhuge.rst)."""
    match = re.search(r"\[(\w+)\]", read_text(root, _SHMEM_HUGE) or "")
    setting = match[1] if match else ""
    own = bool(setting) and setting != "deny" and _has_huge_files()
    present = own or setting not in {"", "never", "deny"}
    found = f"shmem_enabled is {setting}" if match else "the kernel has none for shared memory"
    return Capability(
        name="huge pages",
        present=present,
        found="in a tmpfs of our own" if own else found,
        needed="nothing; with them guest memory is there sooner, and hops are faster",
        remedy="" if present else f"run as root, or as root: echo advise > /{_SHMEM_HUGE}",
    )


def _has_huge_files() -> bool:
    try:
        os.close(open_huge_file())
    except OSError:
        return False
    return True


def probe_compiler() -> Capability:
    """gcc, for the probe guest."""
    gcc = shutil.which("gcc")
    return Capability(
        name="gcc",
        present=gcc is not None,
        found=gcc or "no gcc on PATH",
        needed="gcc, to build the probe guest",
        remedy="" if gcc else "install gcc",
    )


def probe_emulators(checkout: Path | None) -> tuple[Capability, ...]:
    """QEMU system emulators on PATH and beside the checkout (``.cache/qemu-*/bin``)."""
    return tuple(_emulator(arch, checkout) for arch in _GUESTS)


def find_emulators(arch: str, checkout: Path | None) -> tuple[Path, ...]:
    """Executables for guests of *arch*, the one on PATH first."""
    name = f"qemu-system-{arch}"
    on_path = shutil.which(name)
    beside = sorted((checkout / ".cache").glob(f"qemu-*/bin/{name}")) if checkout else []
    found = [Path(on_path)] if on_path else []
    return (*found, *(path for path in beside if os.access(path, os.X_OK)))


def _emulator(arch: str, checkout: Path | None) -> Capability:
    paths = find_emulators(arch, checkout)
    return Capability(
        name=f"qemu-system-{arch}",
        present=bool(paths),
        found=", ".join(map(str, paths)) or "none on PATH, none in .cache",
        needed=f"qemu-system-{arch} for guests of that architecture",
        remedy="" if paths else f"install the package with qemu-system-{arch}",
    )
