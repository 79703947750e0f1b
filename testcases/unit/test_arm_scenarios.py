"""Scenarios of Arm drawn from many seeds: each is possible, about something, and says what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from harness.cases.interrupts import arm_scenarios as scenarios
from harness.cases.interrupts.known_defects import RESIDENT_VLPI, SPI_OF_ANOTHER, with_explanation
from harness.cases.interrupts.scenario import Scenario
from harness.model.interrupts import VPE, At, Hold, Moment, SourceFlag, SourceKind
from harness.model.verdict import Finding

SEEDS = range(200)
DRAWN = (
    scenarios.lpis,
    scenarios.moved_lpis,
    scenarios.lines,
    scenarios.routed_spis,
    scenarios.resident_vlpis,
    scenarios.vlpis,
    scenarios.forwarded_lpis,
    scenarios.reset_lpis,
)
OWN_PRIORITY = 0x20
"""Of the probe's heartbeat, channel and kick."""


@pytest.mark.parametrize("vcpus", [1, 2, 4])
@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_every_seed_is_possible(draw: Callable[[Random, int], Scenario], vcpus: int) -> None:
    if draw is scenarios.routed_spis and vcpus == 1:
        pytest.skip("about other vCPUs")
    for seed in SEEDS:
        scenario = draw(Random(seed), vcpus)
        ids = [source.id for source in scenario.sources]
        assert len(set(ids)) == len(ids)
        known = set(ids)
        named = {one for some in scenario.raised.values() for one in some}
        assert named | set(scenario.late) | {held.id for held in scenario.planned} | set(scenario.taken) <= known
        assert scenario.planned or scenario.raised[Moment.STOPPED]
        assert all(source.vcpu in {*range(vcpus), VPE} and source.sender < vcpus for source in scenario.sources)
        masked = {source.id for source in scenario.sources if source.flags & SourceFlag.MASKED}
        assert masked == set(scenario.unmask)


@pytest.mark.parametrize("draw", [scenarios.lpis, scenarios.moved_lpis, scenarios.reset_lpis])
def test_what_is_planned_to_pend_is_held_by_something(draw: Callable[[Random, int], Scenario]) -> None:
    for seed in SEEDS:
        scenario = draw(Random(seed), 4)
        held = sum(hold.vcpu_mask for hold in scenario.holds)
        sources = {source.id: source for source in scenario.sources}
        for one in scenario.planned:
            vcpus = {one.vcpu, scenario.moved.get(one.id, one.vcpu)}
            masked = sources[one.id].flags & SourceFlag.MASKED
            assert masked or one.at is At.QUEUED or all(held >> vcpu & 1 for vcpu in vcpus)


def test_all_ways_to_hold_come_up_and_every_vcpu_has_something_pending() -> None:
    ways: set[object] = set()
    for seed in SEEDS:
        scenario = scenarios.lpis(Random(seed), 4)
        ways |= {hold.kind for hold in scenario.holds} | ({"configuration"} if scenario.unmask else set())
        assert {held.vcpu for held in scenario.planned} == {0, 1, 2, 3}
        assert {source.kind for source in scenario.sources} == {SourceKind.DOORBELL, SourceKind.ITS_LPI}
    assert ways == {Hold.OFF, Hold.PRIORITY, "configuration"}


def test_nothing_but_the_urgent_goes_before_the_probe_s_own() -> None:
    for seed in SEEDS:
        for draw in (scenarios.lpis, scenarios.lines, scenarios.vlpis, scenarios.forwarded_lpis):
            assert all(source.priority > OWN_PRIORITY for source in draw(Random(seed), 4).sources)


def test_vcpu_0_is_never_free_to_take_what_is_others() -> None:
    for seed in SEEDS:
        scenario = scenarios.lines(Random(seed), 4)
        held = any(hold.vcpu_mask & 1 for hold in scenario.holds)
        assert held or any(one.vcpu == 0 and one.at is At.IN_SERVICE for one in scenario.planned)


def test_a_known_defect_is_told_for_its_versions_only() -> None:
    finding = Finding(check="irq/delivery", kind="wrong-vcpu", where="software 64", detail="")
    for version, is_known in (("7.2.22", True), ("10.0.2", True), ("10.01.0", False), ("11.0.0", False)):
        (told,) = with_explanation([finding], (RESIDENT_VLPI, SPI_OF_ANOTHER), version)
        assert ("arm_gicv3_post_load" in told.remedy) == is_known
    (other,) = with_explanation([finding], (RESIDENT_VLPI,), "7.2.22")
    assert other == finding
