"""Geometry of the page-map strip: a row per witness, RAM in ram_addr order from left to right, colour by kind.

Neighbouring columns of one kind are one stroke. A column with a single wrong page is wrong, and has a pointer above the
rows, because a column can be narrower than an eye sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice

from harness.model.drawings import MapStrip, PageKind
from harness.model.memory import PAGE_SIZE
from harness.report.figures import size
from harness.report.plot import WIDTH

STRIP_LEFT = 118
STRIP_RIGHT = WIDTH - 26
ROW = 17
_PITCH = ROW + 3
_TOP = 14
_POINTER_GAP = 7.0
_TICKS = 6
_NAMES = {
    "guest-page-tables": "guest",
    "host-walk": "guest, by host",
    "hypercall-log": "hypercalls",
    "host-list": "host",
    "stream": "wire",
    "destination": "destination",
}
KINDS: dict[str, str] = {
    PageKind.PRIVATE: "private",
    PageKind.SHARED: "shared",
    PageKind.BOTH: "both",
    PageKind.MISMATCH: "mismatch",
    PageKind.UNKNOWN: "unknown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnRow:
    """One witness."""

    name: str
    y: int
    paths: tuple[tuple[str, str], ...]
    """Kind in words, and SVG path data in units of columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A gpa on the axis. *edge* where another part of memory begins."""

    x: float
    label: str
    edge: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One page map."""

    title: str
    height: int
    bottom: int
    scale: float
    """Pixels per column."""
    rows: tuple[DrawnRow, ...]
    pointers: tuple[float, ...]
    ticks: tuple[Tick, ...]
    column_size: str
    mismatch_pages: int
    mismatches: tuple[str, ...]
    mismatches_left_out: int
    hover: dict[str, object]


def draw_strip(strip: MapStrip) -> Strip | None:
    """The drawing of *strip*; None when it has no column."""
    columns = max((len(row.kinds) for row in strip.rows), default=0)
    if not columns or strip.pages_per_column < 1:
        return None
    scale = (STRIP_RIGHT - STRIP_LEFT) / columns
    named = [(_NAMES.get(row.witness, row.witness), row.kinds) for row in strip.rows]
    wrong = {index for _, kinds in named for index, kind in enumerate(kinds) if kind == PageKind.MISMATCH}
    bottom = _TOP + _PITCH * len(named)
    return Strip(
        title=strip.title,
        height=bottom + 22,
        bottom=bottom,
        scale=round(scale, 5),
        rows=tuple(
            DrawnRow(name=name, y=_TOP + _PITCH * index, paths=_paths(kinds))
            for index, (name, kinds) in enumerate(named)
        ),
        pointers=_pointers(sorted(wrong), scale),
        ticks=_ticks(strip, columns, scale),
        column_size=size(strip.pages_per_column * PAGE_SIZE),
        mismatch_pages=strip.mismatch_pages,
        mismatches=strip.mismatches,
        mismatches_left_out=strip.mismatches_left_out,
        hover={
            "left": STRIP_LEFT,
            "scale": scale,
            "pages": strip.pages_per_column,
            "total": strip.total_pages,
            "windows": [list(window) for window in strip.windows],
            "rows": [list(row) for row in named],
        },
    )


def _paths(kinds: str) -> tuple[tuple[str, str], ...]:
    strokes: dict[str, list[str]] = {}
    x = 0
    for kind, run in groupby(kinds):
        width = sum(1 for _ in run)
        strokes.setdefault(KINDS.get(kind, "unknown"), []).append(f"M{x} 0h{width}v1h-{width}z")
        x += width
    # Wrong ones last, so that they lie on top where edges are smoothed.
    order = sorted(strokes, key=lambda name: name == "mismatch")
    return tuple((name, "".join(strokes[name])) for name in order)


def _pointers(wrong: Sequence[int], scale: float) -> tuple[float, ...]:
    """Where the pointers stand: one for columns that are too close to be pointed at apart."""
    shown: list[float] = []
    for index in wrong:
        x = STRIP_LEFT + (index + 0.5) * scale
        if not shown or x - shown[-1] >= _POINTER_GAP:
            shown.append(round(x, 1))
    return tuple(shown)


def _ticks(strip: MapStrip, columns: int, scale: float) -> tuple[Tick, ...]:
    """Round gpas, and where each part of memory begins; a label that would touch another is left out."""
    per_pixel = scale / strip.pages_per_column
    step = 1 << max(0, (columns * strip.pages_per_column // _TICKS - 1).bit_length())
    ticks = [_tick(gfn, ram_page, per_pixel, edge=ram_page > 0) for gfn, ram_page, _ in strip.windows]
    for gfn, ram_page, pages in strip.windows:
        # A window of a damaged file may be of any size; more than this never fits.
        for round_gfn in islice(range(-(-gfn // step) * step, gfn + pages, step), 8 * _TICKS):
            tick = _tick(round_gfn, round_gfn - gfn + ram_page, per_pixel, edge=False)
            room = 7 * len(tick.label)
            if tick.x < STRIP_RIGHT and all(abs(tick.x - other.x) > room for other in ticks):
                ticks.append(tick)
    return tuple(sorted((tick for tick in ticks if tick.x < STRIP_RIGHT), key=lambda tick: tick.x))


def _tick(gfn: int, ram_page: int, per_pixel: float, *, edge: bool) -> Tick:
    return Tick(x=round(STRIP_LEFT + ram_page * per_pixel, 1), label=f"{gfn * PAGE_SIZE:#x}", edge=edge)
