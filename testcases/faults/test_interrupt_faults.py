"""Every fault of a PC's interrupt state is caught by its check; the same cases without it are silent."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cases.faults import FAULTS
from harness.model.verdict import Verdict
from testcases.conftest import Player
from testcases.faults.caught_interrupt import (
    APPEARED,
    DEVICES,
    DOUBLED,
    LOST,
    PENDING_LOST,
    WRONG_VCPU,
    Caught,
    caught,
    played,
    siblings,
)
from testcases.faults.test_gic_faults import TABLE as OF_ARM

pytestmark = pytest.mark.vm


def wire(fault: str, case: str, *pairs: tuple[str, str], seed: int = 1, **settings: Any) -> Caught:
    """A fault of the wire: the destination's second save differs too."""
    return caught(fault, case, DEVICES, *pairs, seed=seed, **settings)


TABLE = (
    wire("irq-clear-pending", "msi-pending", PENDING_LOST, LOST),
    wire("irq-clear-pending", "storm", PENDING_LOST, LOST),
    wire("irq-clear-pending", "ipi-pending", PENDING_LOST, LOST, vcpus=2),
    wire("irq-set-pending", "msi-pending", APPEARED, ("irq/delivery", "spurious")),
    wire("irq-wrong-vcpu", "msi-pending", PENDING_LOST, APPEARED, WRONG_VCPU, vcpus=4),
    wire("irq-drop-in-service", "msi-pending", PENDING_LOST),
    wire("irq-drop-msix-pending", "msix-mask", PENDING_LOST, LOST),
    wire("irq-drop-line", "ioapic", PENDING_LOST, LOST, seed=2),
    wire("irq-clear-pic", "legacy", PENDING_LOST, LOST),
    wire("irq-set-pic", "legacy", APPEARED, DOUBLED, seed=7),
    wire("irq-drop-nmi", "ipi-pending", PENDING_LOST, LOST, vcpus=2),
    wire("irq-disarm-timer", "timer", PENDING_LOST, ("migration/one-side-runs", "vcpu-stopped")),
    wire("irq-wake-halted", "hlt-wake", PENDING_LOST),
    caught("irq-late-controller", "ioapic", ("irq/handler-order", "loaded-before-controller")),
    caught("irq-device-loses", "msi-pending", LOST),
    caught("irq-device-doubles", "msi-pending", DOUBLED),
    caught("irq-device-stops-late", "msi-pending", LOST, ("irq/handler-order", "raised-after-save")),
)


@pytest.mark.parametrize("one", TABLE, ids=str)
def test_each_fault_is_caught_with_the_right_diagnosis(play: Player, one: Caught) -> None:
    result = played(play, one, one.fault)
    assert result.verdict is Verdict.FAIL, result.reason
    assert {(finding.check, finding.kind) for finding in result.findings} == one.finds


@pytest.mark.parametrize("one", siblings(TABLE), ids=str)
def test_the_same_case_without_a_fault_is_silent(play: Player, one: Caught) -> None:
    result = played(play, one)
    assert result.verdict is Verdict.PASS, result.reason
    assert result.findings == ()


def test_a_fault_that_finds_no_interrupt_is_an_error_and_no_pass(play: Player) -> None:
    result = play("irq/msi-pending", "irq-drop-nmi")
    assert result.verdict is Verdict.ERROR
    assert [(finding.check, finding.kind) for finding in result.findings] == [("precondition", "fault-not-applied")]


def test_the_tables_cover_the_catalogue() -> None:
    tried = {one.fault.partition(":")[0] for one in (*TABLE, *OF_ARM)}
    assert tried == {name for name in FAULTS if name.startswith("irq-")}
