"""Geometry of the page heat map: one grid per layer, cells in ram_addr order, colour by count.

A map of 8 GiB has as many cells as one of 128 MiB: neighbours are added up, so no damaged page ever disappears.
Equal neighbours of a row are drawn as one stroke of a path, which keeps the page small without a bitmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.model.memory import PAGE_SIZE
from harness.model.result import PageHeat
from harness.report.figures import number, size

CELLS_MAX = 4096
CELL = 4
LEVELS = 5
_REGIONS_SHOWN = 12
_TITLES = {
    "damaged": "damaged: pages that arrived wrong",
    "written": "written: pages the guest wrote while it moved",
    "sent": "sent: page records on the wire",
}
_ORDER = tuple(_TITLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One grid."""

    name: str
    title: str
    paths: tuple[tuple[int, str], ...]
    """Level 1..LEVELS and the SVG path data of its cells, in units of cells."""
    rings: tuple[tuple[float, float], ...]
    """Centres of cells that must not be overlooked."""
    legend: tuple[tuple[int, str], ...]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """All layers of one guest's memory over one grid."""

    columns: int
    rows: int
    gutter: int
    """Room for the labels, left of the grid, in pixels."""
    pages_per_cell: int
    cell_size: str
    layers: tuple[Layer, ...]
    labels: tuple[tuple[int, str], ...]
    """Row and the ram_addr that it begins with."""
    regions: tuple[str, ...]
    """Where the damage is, in words."""
    regions_left_out: int
    counts: dict[str, list[int]]
    """Layer name -> count per cell, for the hover text."""


def heat_map(heat: PageHeat) -> HeatMap | None:
    """The map of *heat*; None when it has no bucket."""
    buckets = max((len(counts) for counts in heat.layers.values()), default=0)
    if buckets == 0 or heat.pages_per_bucket < 1:
        return None
    merged = -(-buckets // CELLS_MAX)
    cells = -(-buckets // merged)
    columns = _columns(cells)
    rows = -(-cells // columns)
    per_cell = heat.pages_per_bucket * merged
    counts = {name: _merge(heat.layers[name], merged, cells) for name in _ordered(heat)}
    labels = tuple((row, f"{row * columns * per_cell * PAGE_SIZE:#x}") for row in _label_rows(rows))
    regions = _regions(counts.get("damaged", []), per_cell)
    return HeatMap(
        columns=columns,
        rows=rows,
        gutter=12 + 13 * max(len(label) for _, label in labels) // 2,
        pages_per_cell=per_cell,
        cell_size=size(per_cell * PAGE_SIZE),
        layers=tuple(_layer(name, values, columns) for name, values in counts.items()),
        labels=labels,
        regions=regions[:_REGIONS_SHOWN],
        regions_left_out=max(0, len(regions) - _REGIONS_SHOWN),
        counts=counts,
    )


def _ordered(heat: PageHeat) -> list[str]:
    known = [name for name in _ORDER if name in heat.layers]
    return known + [name for name in heat.layers if name not in _ORDER]


def _columns(cells: int) -> int:
    return next(columns for columns in (16, 32, 64) if cells <= columns * columns or columns == 64)


def _label_rows(rows: int) -> Sequence[int]:
    return range(0, rows, max(1, -(-rows // 8)))


def _merge(counts: Sequence[int], merged: int, cells: int) -> list[int]:
    return [sum(counts[index * merged : (index + 1) * merged]) for index in range(cells)]


def thresholds(peak: int) -> list[int]:
    """The smallest count of each level: geometric, because hot sets are hot by orders of magnitude."""
    if peak < 1:
        return []
    return sorted({max(1, round(peak ** (level / LEVELS))) for level in range(LEVELS)})


def _layer(name: str, counts: Sequence[int], columns: int) -> Layer:
    steps = thresholds(max(counts))
    offset = LEVELS - len(steps)
    levels = [sum(1 for step in steps if count >= step) for count in counts]
    levels = [level + offset if level else 0 for level in levels]
    damaged = name == "damaged"
    hit = [index for index, count in enumerate(counts) if count] if damaged else []
    return Layer(
        name=name,
        title=_TITLES.get(name, name),
        paths=tuple((level, path) for level in range(1, LEVELS + 1) if (path := _path(levels, level, columns))),
        rings=tuple((index % columns + 0.5, index // columns + 0.5) for index in hit) if len(hit) <= 24 else (),
        legend=_legend(steps, max(counts), offset),
        total=sum(counts),
    )


def _legend(steps: Sequence[int], peak: int, offset: int) -> tuple[tuple[int, str], ...]:
    ends = [step - 1 for step in steps[1:]] + [peak] if steps else []
    return tuple(
        (index + 1 + offset, number(low) if low == high else f"{number(low)} to {number(high)}")
        for index, (low, high) in enumerate(zip(steps, ends, strict=True))
    )


def _path(levels: Sequence[int], wanted: int, columns: int) -> str:
    strokes = []
    for start in range(0, len(levels), columns):
        x = 0
        for level, run in groupby(levels[start : start + columns]):
            width = sum(1 for _ in run)
            if level == wanted:
                strokes.append(f"M{x} {start // columns}h{width}v1h-{width}z")
            x += width
    return "".join(strokes)


def _regions(damaged: Sequence[int], per_cell: int) -> tuple[str, ...]:
    regions, index = [], 0
    for hit, run in groupby(damaged, key=bool):
        counts = list(run)
        if hit:
            start, end = index * per_cell * PAGE_SIZE, (index + len(counts)) * per_cell * PAGE_SIZE
            regions.append(f"{start:#x}-{end - 1:#x}: {number(sum(counts))} damaged")
        index += len(counts)
    return tuple(regions)
