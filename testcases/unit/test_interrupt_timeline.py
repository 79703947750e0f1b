"""The drawing of interrupts: made from the story, stored and read back, and bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.model.drawings import InterruptTimeline
from harness.model.interrupt_timeline import LANES, MARKS, timeline_of_story
from harness.model.interrupts import (
    At,
    Held,
    InterruptStory,
    Moment,
    Raised,
    Received,
    Sighting,
    Source,
    SourceKind,
)
from harness.model.result import CaseResult
from harness.model.seed import Seed
from harness.model.verdict import Verdict
from harness.report.document import dump, parse
from harness.report.html import render_case
from harness.report.interrupts import draw_interrupts

MSI = Source(id=1, kind=SourceKind.DOORBELL, line=1, number=0x41)
LATE = Source(id=2, kind=SourceKind.DOORBELL, vcpu=1, line=2, number=0x42)
HERE = frozenset({Held(0, 1, At.PENDING)})


def got(order: int, source: Source, number: int = 1, vcpu: int | None = None) -> Received:
    where = source.vcpu if vcpu is None else vcpu
    return Received(order=order, ticks=order, id=source.id, number=number, vcpu=where, vector=source.number, delivery=1)


STORY = InterruptStory(
    sources=(LATE, MSI),
    raised=(
        Raised(id=1, number=1, moment=Moment.BEFORE, at_s=99.9),
        Raised(id=2, number=1, moment=Moment.LOADED, at_s=100.2),
        Raised(id=2, number=2, moment=Moment.RUNNING, at_s=100.4),
    ),
    received=(got(1, MSI), got(2, LATE), got(3, LATE, 2)),
    order_at_stop=0,
    planned=HERE,
    sightings=tuple(
        Sighting(witness=name, held=HERE, sees=frozenset(At)) for name in ("source", "wire", "destination")
    ),
    moments={"stopped": 100.0, "loaded": 100.1, "running": 100.3},
)


def made(story: InterruptStory) -> InterruptTimeline:
    return timeline_of_story(story, time_of=lambda record: 100.3 + record.order / 1000)


def test_times_count_from_the_stop() -> None:
    timeline = made(STORY)
    first, second = timeline.lanes
    assert first.label == MSI.label
    assert first.before_s == (-0.1,)
    assert first.delivered_s == (0.301,)
    assert [cell.held for cell in first.cells] == ["pending"] * 3
    assert second.between_s == (0.2,)
    assert second.after_s == (0.4,)
    assert not first.is_wrong
    assert not second.is_wrong
    assert (timeline.running_s, timeline.raised, timeline.received) == (pytest.approx(0.3), 3, 3)


@pytest.mark.parametrize(
    ("story", "note"),
    [
        (replace(STORY, received=STORY.received[1:]), "1 lost"),
        (replace(STORY, received=(*STORY.received, got(4, MSI))), "1 doubled"),
        (replace(STORY, received=(got(1, MSI, vcpu=1), *STORY.received[1:])), "1 astray"),
    ],
)
def test_what_is_wrong_comes_first(story: InterruptStory, note: str) -> None:
    drawing = draw_interrupts(made(story))
    assert drawing.lanes[0].is_wrong
    assert drawing.lanes[0].note == note


def test_a_witness_that_differs_stands_out() -> None:
    *before, last = STORY.sightings
    moved = replace(last, held=frozenset({Held(1, 1, At.PENDING)}))
    lane = draw_interrupts(made(replace(STORY, sightings=(*before, moved)))).lanes[0]
    assert [box.tone for box in lane.boxes] == ["nothing", "held", "held", "differs"]
    assert lane.boxes[-1].words == "vCPU 1: pending"


def test_a_storm_is_bounded() -> None:
    sources = tuple(replace(MSI, id=number, line=number, number=0x30 + number) for number in range(60))
    raised = tuple(Raised(id=0, number=n, moment=Moment.BEFORE, at_s=90 + n / 1000) for n in range(1, 5000))
    timeline = made(replace(STORY, sources=sources, raised=raised, received=()))
    assert len(timeline.lanes) == LANES
    assert timeline.lanes_left_out == 60 - LANES
    assert max(len(lane.before_s) for lane in timeline.lanes) <= MARKS


def test_it_is_stored_read_back_and_on_the_page(tmp_path: Path) -> None:
    result = CaseResult(
        case="irq/msi-pending", verdict=Verdict.PASS, reason="x", seed=Seed(1), run_dir="x", interrupts=(made(STORY),)
    )
    again, _ = parse(dump(result), run_dir="x", source="x")
    assert again == result
    page = render_case(again, tmp_path)
    assert "3 raised, 3 received" in page
    assert MSI.label.replace(">", "&gt;") in page
    assert 'class="irq"' in page


def test_nothing_at_all_can_be_drawn() -> None:
    empty = InterruptStory(sources=(), raised=(), received=())
    assert draw_interrupts(timeline_of_story(empty, time_of=lambda _: 0.0)).lanes == ()
