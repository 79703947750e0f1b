"""Every interrupt of an Arm machine that is under way while it moves arrives once, where it is due; on both QEMUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from testcases.conftest import NEWER_ARM_QEMU, Player

pytestmark = pytest.mark.vm

CASES = ("lpi-pending", "lpi-moved", "gic-lines", "vlpi-pending", "gic-reset", "vlpi-forwarding")
SHARED = ("storm", "hlt-wake")
CHECKS = {"irq/its-tables", "irq/pending", "irq/exactly-once", "irq/delivery", "irq/handler-order", "precondition"}


@pytest.fixture(params=["usual", "newer"])
def qemu(request: pytest.FixtureRequest) -> Path | None:
    """The one on PATH, and QEMU 10.0."""
    if request.param == "newer" and not NEWER_ARM_QEMU.exists():
        pytest.skip("needs QEMU 10.0 beside the checkout: run ci/setup")
    return NEWER_ARM_QEMU if request.param == "newer" else None


@pytest.mark.parametrize("vcpus", [1, 4])
@pytest.mark.parametrize("name", [*CASES, *SHARED])
def test_each_arrives_once(migrate_case: Callable[..., Any], qemu: Path | None, name: str, vcpus: int) -> None:
    result = migrate_case(f"irq/{name}", arch="aarch64", qemu=qemu, vcpus=vcpus)
    assert set(result.checks) >= CHECKS


def test_the_case_knows_its_architecture(play: Player) -> None:
    assert play("irq/lpi-pending", vcpus=1).versions["machine"].startswith("virt-")
    result = play("irq/lpi-pending", arch="x86_64")
    assert (result.verdict, "aarch64" in result.reason) == (Verdict.UNSUPPORTED, False)


def test_qemu_gives_vcpu_0_the_spis_of_others(play: Player, qemu: Path | None) -> None:
    """A defect of QEMU 7.2 and 10.0, in arm_gicv3_post_load: when this passes, known_defects.py has to learn of it."""
    result = play("irq/spi-routed", qemu=qemu)
    assert found(result) == {("irq/delivery", "wrong-vcpu")}
    assert all("known in this version" in finding.remedy for finding in result.findings)
    assert all("vCPU 0 received it at the destination" in finding.detail for finding in result.findings)


def test_qemu_loses_virtual_lpis_of_a_resident_vpe(play: Player, qemu: Path | None) -> None:
    """Another one of the same function."""
    result = play("irq/vlpi-resident", qemu=qemu)
    assert found(result) == {("irq/exactly-once", "lost"), ("irq/exactly-once", "stuck")}
    assert all("known in this version" in finding.remedy for finding in result.findings)


def found(result: CaseResult) -> set[tuple[str, str]]:
    assert result.verdict is Verdict.FAIL, result.reason
    return {(finding.check, finding.kind) for finding in result.findings}


@pytest.mark.nightly
@pytest.mark.parametrize("name", [*CASES, *SHARED])
def test_many_seeds(play: Player, qemu: Path | None, name: str) -> None:
    for seed in range(50):
        result = play(f"irq/{name}", arch="aarch64", qemu=qemu, seed=seed)
        assert result.verdict is Verdict.PASS, f"seed {seed}: {result.reason}"
