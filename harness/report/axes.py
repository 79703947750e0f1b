"""Axes: where a value goes, where the ticks are, and how many points of a line are worth drawing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_VALUE = itemgetter(1)


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a value of [low, high] lies in [start, end], in tenths of a pixel; what is outside goes to the edge."""

    def at(value: float) -> float:
        share = (value - low) / (high - low) if math.isfinite(value) else 0.0
        return round(start + min(1.0, max(0.0, share)) * (end - start), 1)

    return at


def nice_ceiling(value: float) -> float:
    """The smallest of 1, 2, 2.5, 4, 5, 8, 10 times a power of ten that is not below *value*."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 4, 5, 8, 10, 20) if step * power >= value * (1 - 1e-9))


def binary_unit(peak: float) -> tuple[float, str]:
    """The unit in which *peak* bytes are a short number: its size in bytes and its name."""
    step = min(len(_BINARY) - 1, int(math.log(peak, 1024) + 1e-9)) if peak >= 1 else 0
    return 1024.0**step, _BINARY[step]


def thin(points: Sequence[tuple[float, float]], columns: int) -> list[tuple[float, float]]:
    """At most four points per column (first, lowest, highest, last): the line looks as if all were drawn.

    A column is a run of as many points as the others: polling is steady, so that is a stretch of time.
    """
    if len(points) <= 4 * columns:
        return list(points)
    step = -(-len(points) // columns)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), step):
        group = points[start : start + step]
        kept += sorted({group[0], min(group, key=_VALUE), max(group, key=_VALUE), group[-1]})
    return kept
