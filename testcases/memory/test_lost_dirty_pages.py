"""A real bug of QEMU, found by a real migration: before 9.0 dirty pages get lost under TCG.

QEMU commit 03bfc2188f06 "physmem: Fix migration dirty bitmap coherency with TCG memory access" is the fix. The settings
below take away what keeps the bug out of every other case (see TCG_TRIM_KIB): RAM of an odd size, and flushed TLBs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from testcases.conftest import Player, version_of

pytestmark = pytest.mark.vm


def _bare(play: Player, qemu: Path) -> CaseResult:
    if play.accel not in {"auto", "tcg"}:
        pytest.skip("needs TCG: the bug is in its TLB")
    # Each pass may lose some; a guest that a busy host hardly lets run may lose none in one.
    return play("memory/precopy", trim_kib=0, pages_per_flush=0, memory_mib=64, passes=6, qemu=qemu)


def test_qemu_7_2_loses_dirty_pages_and_is_caught(play: Player, usual_qemu: Path) -> None:
    if not (version := version_of(usual_qemu)).startswith("7.2"):
        pytest.skip(f"needs QEMU 7.2, which has the bug; {usual_qemu} is {version}")
    result = _bare(play, usual_qemu)
    if not result.versions["accel"].startswith("tcg"):
        pytest.skip("needs TCG: the bug is in its TLB")
    assert result.verdict is Verdict.FAIL, result.reason
    # A lost page may be of the guest's own stack. Then it does not live on, and the host has seen that page.
    died = [item for item in result.findings if (item.check, item.kind) == ("migration/one-side-runs", "vcpu-stopped")]
    checks = {finding.check for finding in result.findings if finding not in died}
    assert checks & ({"memory/host"} if died else {"memory/host", "memory/guest"})
    assert checks <= {"memory/host", "memory/guest", "memory/running-reads"}


def test_qemu_10_0_loses_none(play: Player, newer_qemu: Path) -> None:
    result = _bare(play, newer_qemu)
    assert result.verdict is Verdict.PASS, result.reason
