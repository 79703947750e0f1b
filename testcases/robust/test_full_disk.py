"""A full disk takes artefacts, never the verdict, and what it took is told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cases.ask import Words, requests_of
from harness.cases.session import run_requests
from harness.model.verdict import Verdict
from harness.report.store import Run

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("clean")]


@pytest.fixture(params=["4k", "64k"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param},mode=700", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs: run as root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("fault", "verdict"), [("", Verdict.PASS), ("wire-zero-page", Verdict.FAIL)])
def test_the_verdict_stays_and_the_loss_is_told(small_disk: Path, fault: str, verdict: Verdict) -> None:
    words = Words(
        sets=("memory_mib=64", "record=true"), accel="tcg", seed="1", faults=(fault,) if fault else (), keep="always"
    )
    (result,) = run_requests(requests_of(["memory/precopy"], words), Run.create(small_disk))
    assert result.verdict is verdict, result.reason
    assert result.reason.count("artefacts incomplete") == 1
    for lost in ("events.jsonl", "src.qmp.jsonl", "stream.bin", "report.html", "result.json"):
        assert f"{lost}: " in result.reason
    assert "No space left on device" in result.reason
