"""Fields of devices that may differ between two saves although nothing is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class VolatileField:
    """A field that may differ although nothing is wrong."""

    device: str
    """Glob over labels (``mc146818rtc/*``)."""
    field: str
    """Glob over field paths."""
    reason: str
    bits: Mapping[int, int] | None = None
    """Byte index -> mask of the bits that may differ, nothing else; None: the whole field."""
    when_sent: str = ""
    """Only where this subsection of the device was sent; empty: always."""
