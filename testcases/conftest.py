"""What tests of whole cases share: the QEMUs of this machine, and a player whose artefacts stay out of the checkout."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from harness.cases.ask import Words, requests_of
from harness.cases.binaries import locate_qemu
from harness.cases.session import run_requests
from harness.model.result import CaseResult
from harness.report.store import Run

CHECKOUT = Path(__file__).parents[1]
NEWER_QEMU = CHECKOUT / ".cache" / "qemu-10.0" / "bin" / "qemu-system-x86_64"
NEWER_ARM_QEMU = NEWER_QEMU.with_name("qemu-system-aarch64")
SEED = 0x5EED_0001


@cache
def version_of(qemu: Path) -> str:
    """What the binary says of itself: ``7.2.22``."""
    words = subprocess.run([qemu, "--version"], check=True, capture_output=True, text=True).stdout
    return words.split("version ")[1].split()[0]


@dataclass(frozen=True, kw_only=True)
class Player:
    """Plays one case per call, in a run of its test's own."""

    run: Run
    accel: str
    qemu: Path | None

    def __call__(self, case: str, *faults: str, seed: int = SEED, **more: Any) -> CaseResult:
        named = ("qemu", "qemu_dst", "keep", "backend", "arch")
        words = {name: more.pop(name) for name in named if name in more}
        asked = Words(
            sets=tuple(f"{name}={json.dumps(value)}" for name, value in more.items()),
            accel=self.accel,
            seed=hex(seed),
            faults=faults,
            **{"qemu": self.qemu, "keep": "never", **words},
        )
        (result,) = run_requests(requests_of([case], asked), self.run)
        return result


@pytest.fixture
def play(tmp_path: Path, request: pytest.FixtureRequest) -> Player:
    """``play("memory/precopy", "wire-cut", memory_mib=64)`` -> CaseResult."""
    option: Callable[[str], Any] = request.config.getoption
    return Player(run=Run.create(tmp_path / "runs"), accel=option("--accel"), qemu=option("--qemu"))


@pytest.fixture(scope="session")
def cvmig_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """As the plugin's, but out of the checkout unless ``--runs`` says where."""
    asked: Path = request.config.getoption("--runs")
    return Run.create(tmp_path_factory.mktemp("runs") if asked == Path("runs") else asked)


@pytest.fixture(scope="session")
def usual_qemu(request: pytest.FixtureRequest) -> Path:
    """The QEMU that cases take when nobody names one."""
    return locate_qemu(request.config.getoption("--qemu"))


@pytest.fixture(scope="session")
def newer_qemu() -> Path:
    """QEMU 10.0 beside the distribution's, put there by the set-up."""
    if not NEWER_QEMU.exists():
        pytest.skip(f"needs QEMU 10.0 at {NEWER_QEMU.relative_to(CHECKOUT)}: run ci/setup")
    return NEWER_QEMU
