"""Geometry of the timeline plot: three small charts over one time axis, phases as bands per side, marks as lines.

Pure arithmetic from a Timeline to coordinates; the template only writes them down. One unit is one CSS pixel at the
plot's natural width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.model.timeline import Mark, Sample, Timeline
from harness.report.axes import binary_unit, nice_ceiling, scale, thin
from harness.report.figures import number

WIDTH = 1080
LEFT = 78
RIGHT = WIDTH - 26
_PANEL_HEIGHT = 76
_PANEL_GAP = 26
_BAND_HEIGHT = 17
_LANE_HEIGHT = 13
_LANES_MAX = 6
_CHAR_WIDTH = 6.4
# What is beyond these is no observation (nor is NaN, which compares false), and would push everything else to an edge.
_LONGEST_S = 1e7
_LARGEST = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One line of an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One series over time."""

    name: str
    title: str
    top: float
    bottom: float
    line: str
    """SVG path data."""
    area: str
    dots: tuple[tuple[float, float], ...]
    """Single samples, where there are few enough to tell them apart."""
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A phase of one side."""

    x: float
    width: float
    label: str
    """Empty where it does not fit."""
    title: str
    tone: str
    """The phase's class of colour: ``moving``, ``switch``, ``done``, ``bad``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The phases of one side."""

    side: str
    y: float
    bands: tuple[Band, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A mark: a vertical line and its label."""

    x: float
    label_x: float
    label_y: float
    anchor: str
    label: str
    side: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Everything that the template needs for one hop."""

    height: float
    top: float
    bottom: float
    panels: tuple[Panel, ...]
    lanes: tuple[Lane, ...]
    flags: tuple[Flag, ...]
    unlabelled: int
    """Marks whose label found no room; their lines and hover texts are there."""
    ticks: tuple[Tick, ...]
    downtime: tuple[float, float] | None
    """x from STOP on the source to RESUME on the destination."""
    first_s: float
    last_s: float
    hover: tuple[tuple[float, str, int, int, int, float, int], ...]
    """t_s, status, remaining and transferred bytes, dirty pages/s, Mbit/s, dirty syncs of the samples to show."""


def downtime_s(timeline: Timeline) -> tuple[float, float] | None:
    """From the last STOP of the source to the first RESUME of the destination after it, when both were seen."""
    stops = [mark.t_s for mark in timeline.marks if mark.label == "STOP" and mark.side == "src"]
    resumes = [mark.t_s for mark in timeline.marks if mark.label == "RESUME" and mark.side == "dst"]
    after = [t_s for t_s in resumes if stops and t_s >= stops[-1]]
    return (stops[-1], after[0]) if after else None


def plot(timeline: Timeline, *, columns: int = 400) -> Plot | None:
    """The plot of one hop, its lines reduced to *columns* steps; None when there is nothing to draw."""
    moments = _moments(timeline)
    if not moments:
        return None
    first_s, last_s = min(0.0, *moments), max(moments)
    if last_s - first_s < 1e-6:
        last_s = first_s + 1e-3
    at = scale(first_s, last_s, LEFT, RIGHT)
    flags, lane_count = _flags(timeline.marks, at)
    top = 8.0 + lane_count * _LANE_HEIGHT
    lanes = _lanes(timeline, at, top)
    below = top + len(lanes) * (_BAND_HEIGHT + 4) + 18
    panels = _panels(timeline.samples, at, below, columns)
    bottom = panels[-1].bottom if panels else below
    stopped = downtime_s(timeline)
    return Plot(
        height=round(bottom + 36, 1),
        top=round(top, 1),
        bottom=round(bottom, 1),
        panels=panels,
        lanes=lanes,
        flags=flags,
        unlabelled=sum(1 for flag in flags if not flag.label),
        ticks=_time_ticks(first_s, last_s, at),
        downtime=(at(stopped[0]), at(stopped[1])) if stopped else None,
        first_s=first_s,
        last_s=last_s,
        hover=_hover(timeline.samples, columns),
    )


def _moments(timeline: Timeline) -> list[float]:
    moments = [sample.t_s for sample in timeline.samples] + [mark.t_s for mark in timeline.marks]
    moments += [moment for phase in timeline.phases for moment in (phase.start_s, phase.end_s)]
    return [moment for moment in moments if abs(moment) < _LONGEST_S]


_Series = Callable[[Sample], float]


def _panels(samples: Sequence[Sample], at: Callable[[float], float], top: float, columns: int) -> tuple[Panel, ...]:
    if not samples:
        return ()
    peak = max(sample.remaining_bytes for sample in samples)
    unit, unit_name = binary_unit(peak)
    series: tuple[tuple[str, str, _Series], ...] = (
        ("remaining", f"remaining, {unit_name}", lambda sample: sample.remaining_bytes / unit),
        ("dirty", "dirty rate, pages/s", lambda sample: float(sample.dirty_pages_per_s)),
        ("throughput", "throughput, Mbit/s", lambda sample: sample.throughput_mbps),
    )
    step = _PANEL_HEIGHT + _PANEL_GAP
    return tuple(
        _panel(name, title, [(sample.t_s, value(sample)) for sample in samples], at, top + index * step, columns)
        for index, (name, title, value) in enumerate(series)
    )


def _panel(
    name: str,
    title: str,
    points: Sequence[tuple[float, float]],
    at: Callable[[float], float],
    top: float,
    columns: int,
) -> Panel:
    points = [(t_s, value) for t_s, value in points if abs(t_s) < _LONGEST_S and abs(value) < _LARGEST]
    ceiling = nice_ceiling(max((value for _, value in points), default=0.0))
    bottom = top + _PANEL_HEIGHT
    height = scale(0.0, ceiling, bottom, top)
    drawn = [(at(t_s), height(value)) for t_s, value in thin(points, columns)]
    line = " ".join(f"{x:g},{y:g}" for x, y in drawn)
    return Panel(
        name=name,
        title=title,
        top=top,
        bottom=bottom,
        line=f"M{line}" if line else "",
        area=f"M{drawn[0][0]:g},{bottom:g} {line} {drawn[-1][0]:g},{bottom:g}Z" if line else "",
        dots=tuple(drawn) if len(drawn) <= 60 else (),
        ticks=tuple(Tick(at=height(value), label=number(value)) for value in (0.0, ceiling / 2, ceiling)),
    )


def _hover(samples: Sequence[Sample], columns: int) -> tuple[tuple[float, str, int, int, int, float, int], ...]:
    step = max(1, -(-len(samples) // columns))
    return tuple(
        (
            round(sample.t_s, 4),
            sample.status,
            sample.remaining_bytes,
            sample.transferred_bytes,
            sample.dirty_pages_per_s,
            round(sample.throughput_mbps, 1),
            sample.dirty_sync_count,
        )
        for sample in dict.fromkeys((*samples[::step], *samples[-1:]))
        if abs(sample.t_s) < _LONGEST_S and abs(sample.throughput_mbps) < _LARGEST
    )


_TONES = {
    "setup": "quiet",
    "none": "quiet",
    "wait-unplug": "quiet",
    "active": "moving",
    "postcopy-active": "moving",
    "postcopy-recover": "moving",
    "device": "switch",
    "pre-switchover": "switch",
    "colo": "switch",
    "completed": "done",
}


def _lanes(timeline: Timeline, at: Callable[[float], float], top: float) -> tuple[Lane, ...]:
    sides = dict.fromkeys(phase.side for phase in timeline.phases)
    return tuple(
        Lane(side=side, y=top + index * (_BAND_HEIGHT + 4), bands=_bands(timeline, side, at))
        for index, side in enumerate(sides)
    )


def _bands(timeline: Timeline, side: str, at: Callable[[float], float]) -> tuple[Band, ...]:
    bands = []
    for phase in timeline.phases:
        if phase.side != side:
            continue
        x, end = at(phase.start_s), at(phase.end_s)
        width = max(1.5, round(end - x, 1))
        fits = len(phase.name) * _CHAR_WIDTH + 8 <= width
        span = f"{phase.start_s:.3f} s to {phase.end_s:.3f} s ({(phase.end_s - phase.start_s) * 1000:.0f} ms)"
        label = phase.name if fits else ""
        tone = _TONES.get(phase.name, "bad")
        bands.append(Band(x=x, width=width, label=label, title=f"{side} {phase.name}: {span}", tone=tone))
    return tuple(bands)


def _flags(marks: Sequence[Mark], at: Callable[[float], float]) -> tuple[tuple[Flag, ...], int]:
    """Labels go into the first lane that is free; what finds none keeps its line and loses its label."""
    ends = [-1.0] * _LANES_MAX
    flags = []
    for mark in sorted(marks, key=lambda mark: mark.t_s):
        text = f"{mark.side} {mark.label}"
        width = len(text) * _CHAR_WIDTH + 6
        x = at(mark.t_s)
        flip = x + width > RIGHT
        start = x - width if flip else x
        lane = next((number_ for number_, end in enumerate(ends) if start >= end), None)
        if lane is not None:
            ends[lane] = start + width
        flags.append((mark, x, flip, lane, text))
    used = sum(1 for end in ends if end >= 0)
    return tuple(_flag(*flag, used) for flag in flags), used


def _flag(mark: Mark, x: float, flip: bool, lane: int | None, text: str, lanes: int) -> Flag:
    return Flag(
        x=x,
        label_x=x - 3 if flip else x + 3,
        label_y=6.0 + ((lanes - 1 - lane) if lane is not None else 0) * _LANE_HEIGHT + 9,
        anchor="end" if flip else "start",
        label=text if lane is not None else "",
        side=mark.side if mark.side in {"src", "dst"} else "other",
        title=f"{text} at {mark.t_s:.3f} s",
    )


def _time_ticks(first_s: float, last_s: float, at: Callable[[float], float]) -> tuple[Tick, ...]:
    step = nice_ceiling((last_s - first_s) / 8)
    first = math.ceil(first_s / step - 1e-9)
    count = int((last_s - first * step) / step + 1e-9) + 1
    unit, name = (1000.0, "ms") if last_s < 1.0 else (1.0, "s")
    values = [(first + index) * step for index in range(count)]
    return tuple(Tick(at=at(value), label=f"{number(value * unit)} {name}") for value in values)
