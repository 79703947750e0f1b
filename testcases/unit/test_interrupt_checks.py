"""Checks of interrupts speak on what is wrong, and are silent on what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.checks.handler_order import check_load_order, check_save_order
from harness.checks.interrupts import check_delivery, check_exactly_once, check_planned, check_sightings
from harness.model.handler_trace import TraceEvent
from harness.model.interrupts import (
    SPURIOUS_ID,
    At,
    Held,
    InterruptStory,
    Moment,
    Raised,
    Received,
    Sighting,
    Source,
    SourceFlag,
    SourceKind,
)
from harness.model.verdict import Finding, Verdict
from harness.vm.trace import parse_trace

MSI = Source(id=1, kind=SourceKind.DOORBELL, vcpu=0, line=1, number=0x41)
HIGH = Source(id=2, kind=SourceKind.DOORBELL, vcpu=0, line=2, number=0x91)
LEVEL = Source(id=70, kind=SourceKind.LEVEL, vcpu=1, line=4, number=0x55, argument=3)
TICK = Source(id=71, kind=SourceKind.TIMER, vcpu=1, number=0x61, flags=SourceFlag.PERIODIC)
SHOT = Source(id=72, kind=SourceKind.TIMER, vcpu=0, number=0x62, argument=10_000_000)
ALL = frozenset(At)
AT_ALL_THREE = frozenset({Held(0, 1, At.PENDING), Held(0, 2, At.PENDING)})


def got(order: int, source: Source, number: int = 1, **more: Any) -> Received:
    values = {"ticks": order, "vcpu": source.vcpu, "vector": source.number, "delivery": 1, **more}
    return Received(order=order, id=source.id, number=number, **values)


def raised(source: Source, number: int = 1, moment: Moment = Moment.BEFORE, **more: Any) -> Raised:
    return Raised(id=source.id, number=number, moment=moment, **more)


def sightings(*held: frozenset[Held]) -> tuple[Sighting, ...]:
    names = ("source", "wire", "destination")
    return tuple(Sighting(witness=name, held=one, sees=ALL) for name, one in zip(names, held, strict=True))


STORY = InterruptStory(
    sources=(MSI, HIGH, LEVEL, TICK, SHOT),
    raised=(raised(MSI), raised(HIGH), raised(LEVEL), raised(TICK), raised(SHOT, at_ticks=0)),
    received=(
        got(1, TICK),
        got(2, TICK, delivery=2),
        got(3, HIGH),
        got(4, MSI),
        *(got(5 + index, LEVEL, delivery=1 + index) for index in range(3)),
        got(8, SHOT, ticks=20_000_000),
    ),
    order_at_stop=1,
    planned=AT_ALL_THREE,
    sightings=sightings(AT_ALL_THREE, AT_ALL_THREE, AT_ALL_THREE),
    after_move=frozenset({TICK.id}),
    ticks_per_s=1e9,
    descending=True,
)


def findings(story: InterruptStory) -> tuple[Finding, ...]:
    checks = (check_exactly_once, check_delivery, check_sightings, check_planned)
    return tuple(finding for check in checks for finding in check(story))


def said(story: InterruptStory) -> set[tuple[str, str]]:
    return {(finding.check, finding.kind) for finding in findings(story)}


def without(source: Source, *, keep: int = 0) -> InterruptStory:
    others = [record for record in STORY.received if record.id != source.id]
    mine = [record for record in STORY.received if record.id == source.id]
    return replace(STORY, received=(*others, *mine[:keep]))


def more(*records: Received) -> InterruptStory:
    return replace(STORY, received=(*STORY.received, *records))


def test_a_story_in_order_is_silent() -> None:
    assert findings(STORY) == ()


@pytest.mark.parametrize(
    ("story", "finds"),
    [
        pytest.param(without(MSI), {("irq/exactly-once", "lost")}, id="lost"),
        pytest.param(without(LEVEL, keep=2), {("irq/exactly-once", "lost")}, id="level not delivered again"),
        pytest.param(without(TICK, keep=1), {("irq/exactly-once", "lost")}, id="timer stopped ticking"),
        pytest.param(more(got(9, MSI)), {("irq/exactly-once", "doubled")}, id="doubled"),
        pytest.param(more(got(9, MSI, number=2)), {("irq/exactly-once", "doubled")}, id="nobody raised it"),
        pytest.param(more(got(9, LEVEL, delivery=4)), {("irq/exactly-once", "doubled")}, id="level once too often"),
        pytest.param(replace(STORY, left_pending=1), {("irq/exactly-once", "stuck")}, id="stuck"),
        pytest.param(
            more(
                Received(order=9, ticks=9, id=SPURIOUS_ID, number=0, vcpu=0, vector=0x77, delivery=0, is_spurious=True)
            ),
            {("irq/delivery", "spurious")},
            id="spurious",
        ),
        pytest.param(
            replace(STORY, received=(*without(MSI).received, got(4, MSI, vcpu=1))),
            {("irq/delivery", "wrong-vcpu")},
            id="wrong vCPU",
        ),
        pytest.param(
            replace(
                STORY,
                received=(*without(SHOT).received, got(8, SHOT, ticks=5_000_000)),
                raised=(*STORY.raised[:-1], raised(SHOT, at_ticks=1)),
            ),
            {("irq/delivery", "early")},
            id="timer too early",
        ),
        pytest.param(
            replace(
                STORY, received=(*(one for one in STORY.received if one.id not in {1, 2}), got(3, MSI), got(4, HIGH))
            ),
            {("irq/delivery", "order")},
            id="lower priority first",
        ),
        pytest.param(
            replace(
                STORY,
                raised=(*STORY.raised, raised(MSI, 2)),
                received=(*without(MSI).received, got(4, MSI, 2), got(9, MSI, 1)),
            ),
            {("irq/delivery", "overtaken")},
            id="numbers out of order",
        ),
        pytest.param(
            replace(STORY, sightings=sightings(AT_ALL_THREE, AT_ALL_THREE, AT_ALL_THREE - {Held(0, 1, At.PENDING)})),
            {("irq/pending", "lost")},
            id="the destination has not loaded it",
        ),
        pytest.param(
            replace(STORY, sightings=sightings(AT_ALL_THREE, AT_ALL_THREE, AT_ALL_THREE | {Held(1, 0x99, At.PENDING)})),
            {("irq/pending", "appeared")},
            id="the destination has more",
        ),
    ],
)
def test_what_is_wrong_is_said(story: InterruptStory, finds: set[tuple[str, str]]) -> None:
    assert said(story) == finds
    assert all(finding.verdict is Verdict.FAIL for finding in findings(story))


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(replace(STORY, planned=frozenset(), queued=()), id="nothing under way"),
        pytest.param(replace(STORY, planned=frozenset({Held(0, 1, At.IN_SERVICE)})), id="not where it should be"),
        pytest.param(replace(STORY, sightings=()), id="nobody looked"),
    ],
)
def test_a_case_about_nothing_is_an_error(story: InterruptStory) -> None:
    found = check_planned(story)
    assert found
    assert {(finding.check, finding.kind) for finding in found} == {("precondition", "nothing-pending")}
    assert all(finding.verdict is Verdict.ERROR for finding in found)


def test_what_a_witness_cannot_see_is_not_held_against_it() -> None:
    in_device = Held(0, 1, At.DEVICE)
    blind = Sighting(witness="source", held=frozenset(), sees=frozenset({At.PENDING}))
    others = [Sighting(witness=name, held=frozenset({in_device}), sees=ALL) for name in ("wire", "destination")]
    story = replace(STORY, planned=frozenset({in_device}), sightings=(blind, *others))
    assert check_sightings(story) == ()
    assert check_planned(story) == ()


SAVE = """vm_state_notify running 1 reason 9 (running)
apic_deliver_irq dest 0 dest_mode 0 delivery_mode 0 vector 56 trigger_mode 0
savevm_section_start ram, section_id 2
vm_state_notify running 0 reason 7 (finish-migrate)
savevm_section_start cpu_common, section_id 4
savevm_section_start apic, section_id 7
savevm_section_start ioapic, section_id 17
savevm_section_start serial, section_id 36
"""
LOAD = """qemu_loadvm_state_section_startfull 4(cpu_common) 0 1
qemu_loadvm_state_section_startfull 7(apic) 0 3
qemu_loadvm_state_section_startfull 17(ioapic) 0 3
qemu_loadvm_state_section_startfull 36(serial) 0 3
pic_set_irq master 1 irq 3 level 1
qemu_loadvm_state_section_startfull 38(0000:00:10.0/ivshmem-doorbell) 0 0
vm_state_notify running 1 reason 9 (running)
"""


def events(text: str) -> tuple[TraceEvent, ...]:
    return parse_trace(text)


def kinds(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.kind) for finding in found]


def test_handlers_in_order_are_silent() -> None:
    assert check_save_order(events(SAVE)) == ()
    assert check_load_order(events(LOAD)) == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (SAVE.replace("vm_state_notify running 0 reason 7 (finish-migrate)\n", ""), "saved-while-running"),
        (SAVE + "apic_deliver_irq dest 0 dest_mode 0 delivery_mode 0 vector 57 trigger_mode 0\n", "raised-after-save"),
        (SAVE + "ioapic_set_irq vector: 4 level: 1\n", "raised-after-save"),
    ],
)
def test_a_source_that_saves_too_early_is_found(text: str, kind: str) -> None:
    assert kinds(check_save_order(events(text))) == [("irq/handler-order", kind)]


def test_a_line_that_goes_down_late_is_nothing() -> None:
    assert check_save_order(events(SAVE + "ioapic_set_irq vector: 4 level: 0\n")) == ()


def test_a_device_that_loads_before_its_controller_is_found() -> None:
    *head, ioapic, serial, line, device, runs = LOAD.splitlines(keepends=True)
    late = "".join([*head, serial, line, ioapic, device, runs])
    assert kinds(check_load_order(events(late))) == [
        ("irq/handler-order", "loaded-before-controller"),
        ("irq/handler-order", "raised-before-load"),
    ]


def test_a_trace_without_controllers_proves_nothing() -> None:
    assert kinds(check_save_order(events("migrate_set_state x\n"))) == [("precondition", "not-traced")]
    assert kinds(check_load_order(())) == [("precondition", "not-traced")]


def test_lines_with_time_stamps_and_lines_that_are_none() -> None:
    text = "4711@1790.25:vm_state_notify running 0 reason 7 (finish-migrate)\nqemu: warning: x\nsavevm_section_start ap"
    assert parse_trace(text) == (TraceEvent(name="vm_state_notify", words="running 0 reason 7 (finish-migrate)"),)
