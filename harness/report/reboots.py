"""Geometry of the reboots of a case: a lane per way, a bar per reboot in their order, as high as it took long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.model.drawings import RebootMark
from harness.report.plot import WIDTH

LEFT, RIGHT = 118, WIDTH - 110
_LANE, _BAR, _TOP = 34, 24, 6
_WIDEST = 14.0
_LEAST = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One reboot."""

    x: float
    y: float
    width: float
    height: float
    is_wrong: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RebootLane:
    """One way to reboot."""

    label: str
    y: int
    """Of the line that its bars stand on."""
    bars: tuple[Bar, ...]
    note: str
    """How long it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reboots:
    """All reboots of a case."""

    left: int
    right: int
    """Where the lines begin and end."""
    height: int
    lanes: tuple[RebootLane, ...]
    count: int
    wrong: int


def draw_reboots(marks: Sequence[RebootMark]) -> Reboots | None:
    """None where nothing was rebooted."""
    if not marks:
        return None
    pitch = (RIGHT - LEFT) / len(marks)
    slowest_s = max(mark.duration_s for mark in marks) or 1.0
    ways = dict.fromkeys(mark.way for mark in marks)
    lanes = []
    for index, way in enumerate(ways):
        y = _TOP + index * _LANE + _BAR
        bars = [
            _bar(mark, LEFT + place * pitch, y, pitch, slowest_s) for place, mark in enumerate(marks) if mark.way == way
        ]
        middle_s = median(mark.duration_s for mark in marks if mark.way == way)
        note = f"{len(bars)} x {middle_s:.3f} s"
        lanes.append(RebootLane(label=way, y=y, bars=tuple(bars), note=note))
    return Reboots(
        left=LEFT,
        right=RIGHT,
        height=_TOP + len(lanes) * _LANE,
        lanes=tuple(lanes),
        count=len(marks),
        wrong=sum(map(_is_wrong, marks)),
    )


def _bar(mark: RebootMark, x: float, y: int, pitch: float, slowest_s: float) -> Bar:
    height = max(_LEAST, mark.duration_s / slowest_s * _BAR)
    width = min(_WIDEST, max(1.0, pitch - 1.0))
    return Bar(
        x=round(x, 1),
        y=round(y - height, 1),
        width=round(width, 1),
        height=round(height, 1),
        is_wrong=_is_wrong(mark),
        words=_words(mark),
    )


def _is_wrong(mark: RebootMark) -> bool:
    return bool(mark.findings) or not mark.came_back


def _words(mark: RebootMark) -> str:
    end = f"back after {mark.duration_s:.3f} s" if mark.came_back else f"not back within {mark.duration_s:.1f} s"
    found = f", {mark.findings} finding{'' if mark.findings == 1 else 's'}" if mark.findings else ""
    return f"reboot {mark.number} by {mark.way}: {end}{found}"
