"""Arm guests move like PCs: memory, registers, clocks and devices, on both QEMUs; few cases each, short ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cases.binaries import locate_qemu
from harness.model.machine import Arch
from harness.model.verdict import Verdict
from testcases.conftest import NEWER_ARM_QEMU, Player, version_of

pytestmark = pytest.mark.vm
Migrate = Callable[..., Any]


@pytest.fixture(params=["usual", "newer"])
def qemu(request: pytest.FixtureRequest) -> Path | None:
    """The one on PATH, and QEMU 10.0."""
    if request.param == "newer" and not NEWER_ARM_QEMU.exists():
        pytest.skip("needs QEMU 10.0 beside the checkout: run ci/setup")
    return NEWER_ARM_QEMU if request.param == "newer" else None


@pytest.fixture
def usual_arm_qemu() -> Path:
    """QEMU 7.2 on PATH, with 10.0 beside it."""
    qemu = locate_qemu(None, Arch.AARCH64)
    if not version_of(qemu).startswith("7.2") or not NEWER_ARM_QEMU.exists():
        pytest.skip("needs QEMU 7.2 on PATH, and 10.0 beside the checkout")
    return qemu


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("memory/precopy", {}),
        ("memory/multi-vcpu", {"vcpus": 4}),
        ("memory/ping-pong", {"hops": 2, "workload": "read-mostly"}),
        ("memory/precopy-cancel-retry", {"cancel_at": ["first-pass"]}),
        ("cpu/state", {"vcpus": 4}),
        ("state/round-trip", {"vcpus": 2}),
    ],
)
def test_guests_survive(migrate_case: Migrate, qemu: Path | None, case: str, settings: dict[str, Any]) -> None:
    result = migrate_case(case, arch="aarch64", qemu=qemu, memory_mib=64, **settings)
    assert result.versions["machine"] == "virt-7.2"
    assert {"memory/host", "state/devices", "cpu/clock"} <= set(result.checks)


@pytest.mark.nightly
@pytest.mark.large
def test_memory_beyond_4_gib(migrate_case: Migrate, qemu: Path | None) -> None:
    migrate_case("memory/large", arch="aarch64", qemu=qemu)


REGISTERS = {
    "cpu/1 *zregs[[]9[]]*": "v9",
    "cpu/1 cpreg.s3_0_c13_c0_4": "tpidr_el1",
    "cpu/1 cpreg.s3_0_c10_c2_0": "mair_el1",
    "cpu/1 cpreg.s3_0_c6_c0_0": "far_el1",
    "cpu/1 cpreg.s2_0_c0_c0_4": "dbgbvr0_el1",
    "cpu/1 cpreg.s3_3_c9_c13_0": "pmccntr_el0",
    "arm_gicv3/0 *cpu[[]1[]].icc_bpr*": "icc_bpr1_el1",
}
"""Device and field on the wire -> the probe's name of the register.

No interrupt handler borrows any of these: a vCPU that stops within its timer handler has its own values in x0-x30.
"""


@pytest.mark.parametrize("place", REGISTERS)
def test_a_register_that_changes_on_the_wire_is_named(play: Player, place: str) -> None:
    device, field = place.split(" ")
    fault = f"wire-corrupt-device:device={device},field={field}"
    result = play("cpu/state", fault, arch="aarch64", memory_mib=64, seed=7)
    assert result.verdict is Verdict.FAIL, result.reason
    assert {finding.check for finding in result.findings} == {"state/devices", "cpu/registers"}
    assert f"vcpu 1 {REGISTERS[place]}" in {finding.where for finding in result.findings}


def test_an_interrupt_controller_that_changes_on_the_wire_is_found(play: Player) -> None:
    fault = "wire-corrupt-device:device=arm_gicv3/0,field=gicd_ctlr"
    result = play("state/round-trip", fault, arch="aarch64", memory_mib=64)
    assert result.verdict is Verdict.FAIL, result.reason
    assert "arm_gicv3/0 gicd_ctlr" in {finding.where for finding in result.findings}


def test_a_damaged_page_is_found_by_both_witnesses(play: Player) -> None:
    result = play("memory/precopy", "wire-flip-bit:count=4", arch="aarch64", memory_mib=64, working_set_mib=16)
    found = {(finding.check, finding.kind) for finding in result.findings}
    assert found == {("memory/host", "bit"), ("memory/guest", "bit")}


def test_a_crash_is_told_with_its_exception_class(play: Player) -> None:
    result = play("memory/precopy", "guest-crash", arch="aarch64", memory_mib=64)
    assert result.verdict is Verdict.FAIL
    assert "the guest crashed: vector 0, error 0x2000000, rip 0x402" in result.reason


def test_the_dirty_pages_that_7_2_loses_under_tcg_are_missed_here_too(play: Player, usual_arm_qemu: Path) -> None:
    """See testcases/memory/test_lost_dirty_pages.py."""
    # Each pass may lose some; a guest that a busy host hardly lets run may lose none in one.
    settings = {"trim_kib": 0, "pages_per_flush": 0, "memory_mib": 64, "passes": 6}
    result = play("memory/precopy", arch="aarch64", qemu=usual_arm_qemu, **settings)
    assert result.verdict is Verdict.FAIL, result.reason
    assert {finding.check for finding in result.findings} & {"memory/host", "memory/guest"}


@pytest.mark.parametrize("is_forward", [True, False], ids=["7.2-to-10.0", "10.0-to-7.2"])
def test_no_model_of_processor_moves_between_7_2_and_10_0(play: Player, usual_arm_qemu: Path, is_forward: bool) -> None:
    """A known defect of QEMU: the machine type is the same, and yet the vCPUs' lists of registers are not."""
    source, destination = (usual_arm_qemu, NEWER_ARM_QEMU) if is_forward else (NEWER_ARM_QEMU, usual_arm_qemu)
    result = play("state/round-trip", arch="aarch64", qemu=source, qemu_dst=destination, memory_mib=64)
    assert result.verdict is Verdict.FAIL, result.reason
    assert {(finding.check, finding.kind) for finding in result.findings} == {("migration/ends", "not-loaded")}
    assert "error while loading state for instance 0x0 of device 'cpu'" in result.reason
