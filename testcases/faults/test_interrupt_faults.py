"""Every fault of a PC's interrupt state is caught by its check; the same cases without it are silent."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.cases.faults import FAULTS
from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from testcases.conftest import Player

pytestmark = pytest.mark.vm

PENDING_LOST = ("irq/pending", "lost")
APPEARED = ("irq/pending", "appeared")
LOST = ("irq/exactly-once", "lost")
DOUBLED = ("irq/exactly-once", "doubled")
DEVICES = ("state/devices", "changed")


@dataclass(frozen=True, kw_only=True)
class Caught:
    """One fault on one case, whose seed makes the fault find its target."""

    fault: str
    case: str
    finds: frozenset[tuple[str, str]]
    seed: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.case}-{self.fault}"


def wire(fault: str, case: str, *pairs: tuple[str, str], seed: int = 1, **settings: Any) -> Caught:
    """A fault of the wire: the destination's second save differs too."""
    return Caught(fault=fault, case=case, finds=frozenset({DEVICES, *pairs}), seed=seed, settings=settings)


TABLE = (
    wire("irq-clear-pending", "msi-pending", PENDING_LOST, LOST),
    wire("irq-clear-pending", "storm", PENDING_LOST, LOST),
    wire("irq-clear-pending", "ipi-pending", PENDING_LOST, LOST, vcpus=2),
    wire("irq-set-pending", "msi-pending", APPEARED, ("irq/delivery", "spurious")),
    wire("irq-wrong-vcpu", "msi-pending", PENDING_LOST, APPEARED, ("irq/delivery", "wrong-vcpu"), vcpus=4),
    wire("irq-drop-in-service", "msi-pending", PENDING_LOST),
    wire("irq-drop-msix-pending", "msix-mask", PENDING_LOST, LOST),
    wire("irq-drop-line", "ioapic", PENDING_LOST, LOST, seed=2),
    wire("irq-clear-pic", "legacy", PENDING_LOST, LOST),
    wire("irq-set-pic", "legacy", APPEARED, DOUBLED, seed=7),
    wire("irq-drop-nmi", "ipi-pending", PENDING_LOST, LOST, vcpus=2),
    wire("irq-disarm-timer", "timer", PENDING_LOST, ("migration/one-side-runs", "vcpu-stopped")),
    wire("irq-wake-halted", "hlt-wake", PENDING_LOST),
    Caught(
        fault="irq-late-controller",
        case="ioapic",
        finds=frozenset({("irq/handler-order", "loaded-before-controller")}),
    ),
    Caught(fault="irq-device-loses", case="msi-pending", finds=frozenset({LOST})),
    Caught(fault="irq-device-doubles", case="msi-pending", finds=frozenset({DOUBLED})),
    Caught(
        fault="irq-device-stops-late",
        case="msi-pending",
        finds=frozenset({LOST, ("irq/handler-order", "raised-after-save")}),
    ),
)


def played(play: Player, caught: Caught, *faults: str) -> CaseResult:
    return play(f"irq/{caught.case}", *faults, seed=caught.seed, **caught.settings)


@pytest.mark.parametrize("caught", TABLE, ids=str)
def test_each_fault_is_caught_with_the_right_diagnosis(play: Player, caught: Caught) -> None:
    result = played(play, caught, caught.fault)
    assert result.verdict is Verdict.FAIL, result.reason
    assert {(finding.check, finding.kind) for finding in result.findings} == caught.finds


SIBLINGS = {(caught.case, caught.seed, str(caught.settings)): caught for caught in TABLE}


@pytest.mark.parametrize("caught", SIBLINGS.values(), ids=str)
def test_the_same_case_without_a_fault_is_silent(play: Player, caught: Caught) -> None:
    result = played(play, caught)
    assert result.verdict is Verdict.PASS, result.reason
    assert result.findings == ()


def test_a_fault_that_finds_no_interrupt_is_an_error_and_no_pass(play: Player) -> None:
    result = play("irq/msi-pending", "irq-drop-nmi")
    assert result.verdict is Verdict.ERROR
    assert [(finding.check, finding.kind) for finding in result.findings] == [("precondition", "fault-not-applied")]


def test_the_tables_cover_the_catalogue() -> None:
    tables = [TABLE]
    if importlib.util.find_spec("testcases.faults.test_gic_faults"):
        tables.append(importlib.import_module("testcases.faults.test_gic_faults").TABLE)
    tried = {caught.fault.partition(":")[0] for table in tables for caught in table}
    assert tried == {name for name in FAULTS if name.startswith("irq-")}
