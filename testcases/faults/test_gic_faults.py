"""Every fault of an Arm machine's interrupt state is caught by its check; the same cases without it are silent."""

from __future__ import annotations

import pytest

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

pytestmark = pytest.mark.vm

MEMORY = ("memory/host", "changed")

TABLE = (
    caught("irq-clear-pending", "gic-lines", DEVICES, PENDING_LOST, LOST),
    caught("irq-set-pending", "gic-lines", DEVICES, APPEARED, DOUBLED, seed=6),
    caught("irq-wrong-vcpu", "gic-lines", DEVICES, PENDING_LOST, APPEARED, LOST),
    caught("irq-drop-in-service", "gic-lines", DEVICES, PENDING_LOST),
    caught("irq-lpi-clear-pending", "lpi-pending", MEMORY, PENDING_LOST, LOST),
    caught("irq-lpi-clear-pending", "vlpi-pending", MEMORY, PENDING_LOST, LOST),
    caught("irq-lpi-wrong-vcpu", "lpi-pending", MEMORY, PENDING_LOST, APPEARED, WRONG_VCPU),
    caught("irq-lpi-stale", "gic-reset", MEMORY, APPEARED, DOUBLED),
    caught("irq-its-wrong-collection", "lpi-pending", MEMORY, ("irq/its-tables", "changed"), WRONG_VCPU, seed=4),
    caught("irq-device-loses", "lpi-pending", LOST),
    caught("irq-device-doubles", "lpi-pending", DOUBLED),
    caught("irq-device-stops-late", "lpi-pending", LOST, ("irq/handler-order", "raised-after-save")),
    caught("irq-forwarding-lost", "vlpi-forwarding", ("irq/forwarding", "dropped"), LOST),
    caught(
        "irq-tables-early",
        "vlpi-forwarding",
        ("irq/forwarding", "order"),
        LOST,
        ("precondition", "nothing-pending"),
    ),
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


def test_a_fault_that_finds_no_table_is_an_error_and_no_pass(play: Player) -> None:
    result = play("irq/gic-lines", "irq-lpi-clear-pending")
    assert result.verdict is Verdict.ERROR
    assert [(finding.check, finding.kind) for finding in result.findings] == [("precondition", "fault-not-applied")]
