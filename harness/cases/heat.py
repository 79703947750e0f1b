"""The page heat map of a move: what the guest wrote, what the wire carried, what was damaged, by page."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

import numpy as np
from numpy.typing import NDArray

from harness.cases.stage import Guest
from harness.guest.pattern import LEDGER_LOCK, read_ledger
from harness.model.memory import PAGE_SHIFT
from harness.model.result import PageHeat

_BUCKETS = 4096
"""As many cells as a page shows well."""

Counts = NDArray[np.int64]


def heat_of(guest: Guest, *, sent: NDArray[np.uint32] | None, damaged: Iterable[int]) -> PageHeat:
    """Fold counts per page into buckets.

    *guest* is stopped; *sent* counts the records per page of main memory, *damaged* are gpas.
    """
    layout = guest.layout
    pages = guest.vm.ram.size_bytes >> PAGE_SHIFT
    bad = np.zeros(pages, dtype=np.int64)
    for gpa in damaged:
        bad[layout.gpa_to_ram(gpa) >> PAGE_SHIFT] += 1
    layers = {"written": _written(guest, pages), "damaged": bad}
    if sent is not None:
        layers["sent"] = sent.astype(np.int64)
    per_bucket = max(1, ceil(pages / _BUCKETS))
    return PageHeat(
        pages_per_bucket=per_bucket,
        layers={
            name: tuple(_folded(layers[name], per_bucket).tolist())
            for name in ("written", "sent", "damaged")
            if name in layers
        },
    )


def _written(guest: Guest, pages: int) -> Counts:
    """Generations of the ledger, laid out by ram_addr."""
    ledger = read_ledger(guest.vm.ram.view, guest.layout, guest.description) & np.uint32(LEDGER_LOCK - 1)
    counts, done = np.zeros(pages, dtype=np.int64), 0
    for span in guest.description.managed:
        first = guest.layout.gpa_to_ram(span.start) >> PAGE_SHIFT
        counts[first : first + span.pages] = ledger[done : done + span.pages]
        done += span.pages
    return counts


def _folded(counts: Counts, per_bucket: int) -> Counts:
    folded: Counts = np.pad(counts, (0, -len(counts) % per_bucket)).reshape(-1, per_bucket).sum(axis=1)
    return folded
