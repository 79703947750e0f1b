"""Faults as words: what the command line takes, and what ``cvmig list faults`` shows of them."""

from __future__ import annotations

import re

import pytest

from harness.cases.faults import FAULTS, HostFault, plan_faults
from harness.cli.list_ import fault_pages
from harness.model.errors import UsageError
from harness.model.soft_fault import SOFT_FAULTS, Owner, SoftFault
from harness.model.wire import WireFaultName


def test_a_plan_sorts_faults_by_who_plays_them() -> None:
    plan = plan_faults(["wire-drop-page:count=3", "guest-crash", "qemu-list-not-merged", "guest-retry-ignored"])
    assert [(fault.name, fault.count) for fault in plan.wire] == [(WireFaultName.DROP_PAGE, 3)]
    assert plan.host == {HostFault.CRASH_GUEST}
    assert plan.soft == {SoftFault.LIST_NOT_MERGED, SoftFault.RETRY_IGNORED}


@pytest.mark.parametrize("name", SoftFault)
def test_every_fault_of_the_platform_is_planned_by_its_name(name: SoftFault) -> None:
    assert plan_faults([name.value]).soft == {name}
    assert FAULTS[name.value].needs_platform


def test_a_fault_of_the_platform_takes_no_parameters() -> None:
    with pytest.raises(UsageError, match="psp-slow takes no parameters") as refusal:
        plan_faults(["psp-slow:count=2"])
    assert refusal.value.hint == "write --fault psp-slow"


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    with pytest.raises(UsageError) as refusal:
        plan_faults(["kvm-ghcb-lots"])
    assert refusal.value.hint == "did you mean kvm-ghcb-lost?"


def test_the_catalogue_names_each_fault_once_and_completely() -> None:
    assert set(SOFT_FAULTS) == set(SoftFault)
    names = [fault.name for fault in FAULTS.values()]
    assert len(names) == len(set(names)) == len(SoftFault) + len(WireFaultName) + len(HostFault)
    for entry in SOFT_FAULTS.values():
        assert entry.does
        assert entry.caught_by
        assert re.fullmatch(r"B\d+|", entry.bug_class)
    assert {entry.owner for entry in SOFT_FAULTS.values()} == set(Owner)


CLASSES = (*range(2, 13), *range(14, 19), 20, 21, 23, *range(26, 35), 37, 44, 45, 48, 51)


def test_the_catalogue_has_every_class_that_was_asked_for() -> None:
    assert {f"B{number}" for number in CLASSES} <= {entry.bug_class for entry in SOFT_FAULTS.values()}


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_terminal_shows_all_of_it_within_its_width(columns: int) -> None:
    text = fault_pages(FAULTS.values(), columns=columns)
    assert max(len(line) for line in text.splitlines()) <= max(columns, 90)
    words = text.replace("\n", " ").split()
    assert set(FAULTS) <= set(words)
    assert {owner.value for owner in Owner} <= set(text.splitlines())
    assert "wire-tear-page *" not in text
    assert "psp-slow *" in " ".join(words)


def test_what_a_fault_does_is_not_cut() -> None:
    told = " ".join(fault_pages([FAULTS["qemu-list-loses-neighbour"]], columns=300).split())
    assert "B6 removing a range loses the entry behind it page-map/views" in told
