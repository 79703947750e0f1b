"""Geometry of the interrupt timeline: one lane per source, time from left to right, the standstill in the middle.

The standstill is drawn as wide as its columns need, whatever time it took: there every witness has a column of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.model.drawings import InterruptLane, InterruptTimeline, WitnessCell
from harness.report.axes import scale
from harness.report.plot import WIDTH

ROW_HEIGHT = 17
TOP = 40
_LABEL_WIDTH = 210
_COLUMN = 78
_NOTE_WIDTH = 110
_GAP = 26
_TICK = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What one witness saw."""

    x: float
    words: str
    tone: str
    """``held``, ``nothing``, or ``differs`` from what the witness before it saw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One source."""

    y: int
    label: str
    raised: str
    """Path: a tick per interrupt."""
    received: str
    boxes: tuple[Box, ...]
    note: str
    is_wrong: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupts:
    """One move."""

    title: str
    height: int
    bottom: int
    left: int
    still: tuple[float, float]
    """Where nothing runs."""
    columns: tuple[tuple[float, str], ...]
    ends: tuple[tuple[float, str, str], ...]
    """(x, anchor, words) below the lanes."""
    lanes: tuple[Lane, ...]
    left_out: int
    raised: int
    received: int


def draw_interrupts(timeline: InterruptTimeline) -> Interrupts:
    """The drawing of *timeline*."""
    columns = ("raised", *timeline.witnesses)
    still_width = _COLUMN * len(columns)
    right = WIDTH - _NOTE_WIDTH
    start = _LABEL_WIDTH + (right - _LABEL_WIDTH - still_width) / 2
    still = (start, start + still_width)
    first = min((time for lane in timeline.lanes for time in (*lane.before_s, *lane.taken_s)), default=-0.001)
    last = max((time for lane in timeline.lanes for time in (*lane.after_s, *lane.delivered_s)), default=0.001)
    earlier = scale(min(first, -1e-6), 0.0, _LABEL_WIDTH + 4, start - _GAP / 2)
    later = scale(timeline.running_s, max(last, timeline.running_s + 1e-6), still[1] + _GAP / 2, right)
    lanes = []
    for index, lane in enumerate(timeline.lanes):
        y = TOP + index * ROW_HEIGHT
        raised = [*map(earlier, lane.before_s), *map(later, lane.after_s)]
        received = [*map(earlier, lane.taken_s), *map(later, lane.delivered_s)]
        lanes.append(
            Lane(
                y=y,
                label=lane.label,
                raised=_ticks(raised, y - 1, -_TICK),
                received=_ticks(received, y + 1, _TICK),
                boxes=tuple(_boxes(lane, start)),
                note=_note(lane),
                is_wrong=lane.is_wrong,
            )
        )
    bottom = TOP + ROW_HEIGHT * len(lanes)
    return Interrupts(
        title=timeline.title,
        height=bottom + 24,
        bottom=bottom,
        left=_LABEL_WIDTH,
        still=still,
        columns=tuple((start + _COLUMN * (index + 0.5), words) for index, words in enumerate(columns)),
        ends=(
            (_LABEL_WIDTH + 4, "start", f"{-first * 1e3:.0f} ms before the stop"),
            ((still[0] + still[1]) / 2, "middle", f"{timeline.running_s * 1e3:.0f} ms at a standstill"),
            (right, "end", f"{max(0.0, last - timeline.running_s) * 1e3:.0f} ms after"),
        ),
        lanes=tuple(lanes),
        left_out=timeline.lanes_left_out,
        raised=timeline.raised,
        received=timeline.received,
    )


def _ticks(places: Sequence[float], y: int, length: int) -> str:
    return "".join(f"M{x} {y}v{length}" for x in sorted(set(places)))


def _boxes(lane: InterruptLane, start: float) -> Sequence[Box]:
    words = "in the device" if lane.is_queued else "while still" if lane.between_s else ""
    boxes = [Box(x=start, words=words, tone="held" if words else "nothing")]
    before: WitnessCell | None = None
    for index, cell in enumerate(lane.cells, start=1):
        # The first column is the monitor, which cannot see everything: only the others are compared here.
        differs = index > 2 and before is not None and before.held != cell.held
        tone = "differs" if differs else "held" if cell.held else "nothing"
        boxes.append(Box(x=start + _COLUMN * index, words=cell.held or ("gone" if differs else ""), tone=tone))
        before = cell
    return boxes


def _note(lane: InterruptLane) -> str:
    parts = ((lane.lost, "lost"), (lane.doubled, "doubled"), (lane.strays, "astray"))
    return ", ".join(f"{count} {words}" for count, words in parts if count)
