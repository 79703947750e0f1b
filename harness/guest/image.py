"""Finds the probe's ELF file, and builds it where there is a source tree and none is built yet."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from harness.model.errors import SetupError
from harness.model.machine import Arch

OVERRIDE = "CVMIG_PROBE"
"""Environment variable: path of a probe to use instead; for other architectures their name is added, in capitals."""
BUILD_LIMIT_S = 120
_ROOT = Path(__file__).resolve().parents[2]


def probe_image(arch: Arch = Arch.X86_64) -> Path:
    """Path of the probe for *arch*, built if it is missing or older than its source. Raises SetupError."""
    variable = OVERRIDE if arch is Arch.X86_64 else f"{OVERRIDE}_{arch.upper()}"
    override = os.environ.get(variable)
    if override:
        return _given(Path(override), variable)
    image = _built(arch)
    if not image.is_file():
        raise SetupError(f"no probe for {arch.value} at {image}", hint=f"run ci/quickstart, or set {variable}")
    return image


@cache
def _built(arch: Arch) -> Path:
    """Looked at once: all VMs of a process get the same probe, whatever happens to its source meanwhile."""
    source, image = _ROOT / "images" / "probe", _ROOT / "build" / "probe" / arch.value / "probe.elf"
    if source.is_dir() and not _is_fresh(image, source):
        build_probe(source, image, arch)
    return image


def _given(image: Path, variable: str) -> Path:
    if not image.is_file():
        raise SetupError(
            f"{variable} names {image}, which is no file", hint=f"unset {variable} to use the built-in probe"
        )
    return image


def _is_fresh(image: Path, source: Path) -> bool:
    if not image.is_file():
        return False
    built_ns = image.stat().st_mtime_ns
    return all(
        path.stat().st_mtime_ns <= built_ns for path in source.rglob("*") if path.suffix in {".c", ".h", ".S", ".ld"}
    )


def compiler_for(arch: Arch) -> str:
    """The command that compiles the probe for *arch*: the host's own gcc, or a cross compiler."""
    return "gcc" if platform.machine() == arch or arch is Arch.X86_64 else f"{arch}-linux-gnu-gcc"


_PACKAGES = {"gcc": "gcc and make, or run ci/quickstart", "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu"}


def build_probe(source: Path, image: Path, arch: Arch) -> None:
    """Build the probe from *source*. Raises SetupError with the compiler's first words."""
    for tool in ("make", compiler_for(arch)):
        if shutil.which(tool) is None:
            raise SetupError(f"the probe needs {tool} to be built", hint=f"install {_PACKAGES.get(tool, tool)}")
    image.parent.mkdir(parents=True, exist_ok=True)
    with (image.parent / "lock").open("w") as lock:
        # Two runs that start at once must not write the same objects.
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-s", "-C", str(source), f"ARCH={arch.value}", f"OUT={image.parent}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT_S, check=False)
    if done.returncode:
        first = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[0]
        raise SetupError(f"the probe does not build: {first}", hint=f"try: make -C {source}")
