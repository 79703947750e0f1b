"""Reading a host's /proc and /sys below a given root. What is missing or unreadable says "no", never an error."""

from __future__ import annotations

import stat
from pathlib import Path

_MOST_BYTES = 1 << 20


def read_text(root: Path, path: str) -> str | None:
    """Content of the file, stripped; None when there is none to read."""
    try:
        with (root / path).open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace").strip("\0\n\t ")
    except OSError:
        return None


def module_flag(root: Path, module: str, parameter: str) -> bool | None:
    """A kernel module's boolean parameter: ``Y`` and ``1`` are on. None when the module or the parameter is missing."""
    text = read_text(root, f"sys/module/{module}/parameters/{parameter}")
    return None if text is None else text in {"Y", "y", "1"}


def modules(root: Path, prefix: str) -> tuple[str, ...]:
    """Names of the kernel modules, loaded or built in with parameters, that begin with *prefix*."""
    try:
        return tuple(sorted(path.name for path in (root / "sys/module").iterdir() if path.name.startswith(prefix)))
    except OSError:
        return ()


def is_device(root: Path, path: str) -> bool:
    """Whether there is a character device; below a root that is not / a plain file stands for one."""
    try:
        mode = (root / path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or (root != Path("/") and stat.S_ISREG(mode))


def cpu_info(root: Path) -> dict[str, str]:
    """Members of the first processor in /proc/cpuinfo."""
    text = read_text(root, "proc/cpuinfo") or ""
    first = text.split("\n\n", maxsplit=1)[0]
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
