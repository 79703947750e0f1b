"""Figures for people: a value with the unit that its name carries."""

from __future__ import annotations

import re

_UNITS = {
    "_s": "s",
    "_ms": "ms",
    "_us": "µs",
    "_ns": "ns",
    "_mib": "MiB",
    "_kib": "KiB",
    "_gib": "GiB",
    "_bytes": "B",
    "_pages": "pages",
    "_mbps": "Mbit/s",
    "_gbps": "GB/s",
    "_pages_per_s": "pages/s",
    "_mib_per_s": "MiB/s",
    "_percent": "%",
}
_LONGEST_FIRST = sorted(_UNITS, key=len, reverse=True)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def unit_of(name: str) -> tuple[str, str]:
    """``downtime_ms`` -> (``downtime``, ``ms``); the unit is empty when the name carries none."""
    for suffix in _LONGEST_FIRST:
        if name.endswith(suffix) and len(name) > len(suffix):
            return name.removesuffix(suffix).replace("_", " "), _UNITS[suffix]
    return name.replace("_", " "), ""


def number(value: float) -> str:
    """Three significant digits for small values, whole numbers with thin groups for large ones."""
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN differs from itself
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    if value == int(value):
        return str(int(value))
    return f"{value:.3g}"


def size(count_bytes: float) -> str:
    """Bytes in the binary unit that keeps the number short: ``17 MiB``."""
    value = float(count_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{number(value)} {unit}"
        value /= 1024
    return f"{number(value)} TiB"


def one_line(text: str) -> str:
    """*text* without anything that could move a terminal's cursor, end a line, or turn the direction of writing.

    Guests and QEMU write part of what we show.
    """
    return _CONTROL.sub(" ", text).strip()
