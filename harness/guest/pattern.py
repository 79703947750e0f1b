"""The host's own look at a guest's memory: every managed page against the pattern and the guest's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.guest.diagnosis import diagnose_page
from harness.guest.lines import SHARED_SEED, Words, page_bytes, pages_of
from harness.model.guest import GuestDescription, PatternCheck, RamLayout
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE, Damage, GpaRange, PageDamage, coalesce

__all__ = [
    "SHARED_SEED",
    "damage_of_memory",
    "diagnose_page",
    "is_write_in_flight",
    "page_bytes",
    "page_seeds",
    "read_ledger",
]

LEDGER_LOCK = 1 << 31
CHUNK_PAGES = 256
DIAGNOSED_PAGES = 4096
"""A quarter of a millisecond each; bad pages beyond are counted as changed."""
Ledger = np.ndarray[tuple[int], np.dtype[np.uint32]]


@dataclass(slots=True)
class _Tally:
    limit: int
    pages: int = 0
    in_flight: int = 0
    kinds: Counter[Damage] = field(default_factory=Counter)
    damages: list[PageDamage] = field(default_factory=list)

    def note(self, damage: PageDamage) -> None:
        self.kinds[damage.kind] += 1
        if len(self.damages) < self.limit:
            self.damages.append(damage)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """Some neighbouring pages."""

    gpas: Words
    found: Words
    ledger: Ledger
    seeds: Words
    is_moving: NDArray[np.bool_]


def is_in(gpas: Words, ranges: Sequence[GpaRange]) -> NDArray[np.bool_]:
    """Which of *gpas* lie in *ranges*, which are ascending and do not touch each other."""
    edges = np.array([edge for span in ranges for edge in (span.start, span.end)], dtype=np.uint64)
    return np.asarray(np.searchsorted(edges, gpas, side="right") % 2 == 1)


def page_seeds(gpas: Words, seed: int, shared: Sequence[GpaRange]) -> Words:
    """The pattern's seed of each page when *shared* (as :func:`is_in`) are the guest's shared ranges."""
    return np.where(is_in(gpas, shared), np.uint64(seed ^ SHARED_SEED), np.uint64(seed))


def read_ledger(ram: memoryview, layout: RamLayout, guest: GuestDescription) -> Ledger:
    """A copy of the guest's ledger out of its main memory *ram*: one u32 per managed page, locks included."""
    start = layout.gpa_to_ram(guest.ledger_gpa)
    return np.frombuffer(ram, dtype="<u4", count=guest.managed_pages, offset=start).copy()


def damage_of_memory(
    ram: memoryview,
    layout: RamLayout,
    managed: Sequence[GpaRange],
    ledger: Ledger,
    seed: int,
    *,
    max_damages: int = 16,
    shared: Sequence[GpaRange] = (),
    in_flight: Sequence[GpaRange] = (),
) -> PatternCheck:
    """Compare all managed pages in *ram* (main memory, stopped guest) with what *ledger* says they hold.

    *shared*: what a protected guest shares, ascending and merged; it carries another seed. *in_flight*: conversions
    that its vCPUs had not finished (:attr:`CvmGuest.in_flight`); a locked page in there may hold anything.
    """
    tally = _Tally(max_damages)
    moving = coalesce(gpa for span in in_flight for gpa in range(span.start, span.end, PAGE_SIZE))
    for span in managed:
        for start in range(span.start, span.end, CHUNK_PAGES * PAGE_SIZE):
            pages = min(CHUNK_PAGES, (span.end - start) // PAGE_SIZE)
            gpas = np.arange(start, start + pages * PAGE_SIZE, PAGE_SIZE, dtype=np.uint64)
            chunk = _Chunk(
                gpas=gpas,
                found=np.frombuffer(ram, dtype="<u8", count=pages * PAGE_SIZE // 8, offset=layout.gpa_to_ram(start)),
                ledger=ledger[tally.pages : tally.pages + pages],
                seeds=page_seeds(gpas, seed, shared),
                is_moving=is_in(gpas, moving),
            )
            _check_chunk(chunk, tally)
            tally.pages += pages
    return PatternCheck(
        pages_checked=tally.pages,
        pages_bad=tally.kinds.total(),
        by_kind=dict(tally.kinds),
        damages=tuple(tally.damages),
        pages_in_flight=tally.in_flight,
        ledger_sum=int((ledger & np.uint32(LEDGER_LOCK - 1)).sum(dtype=np.uint64)),
    )


def _check_chunk(chunk: _Chunk, tally: _Tally) -> None:
    generations = (chunk.ledger & np.uint32(LEDGER_LOCK - 1)).astype(np.uint64)
    expected = pages_of(chunk.gpas, generations, chunk.seeds).reshape(-1)
    if np.array_equal(chunk.found, expected):
        return
    wrong = (chunk.found != expected).reshape(len(chunk.gpas), -1).any(axis=1)
    for index in np.flatnonzero(wrong):
        _note_page(chunk, int(index), int(generations[index]), tally)


def _note_page(chunk: _Chunk, index: int, generation: int, tally: _Tally) -> None:
    page = chunk.found[index * 512 : (index + 1) * 512].tobytes()
    gpa, seed = int(chunk.gpas[index]), int(chunk.seeds[index])
    is_locked = bool(chunk.ledger[index] & LEDGER_LOCK)
    if is_locked and (chunk.is_moving[index] or is_write_in_flight(page, gpa, seed, generation)):
        tally.in_flight += 1
    elif tally.kinds.total() >= DIAGNOSED_PAGES:
        tally.kinds[Damage.CHANGED] += 1
    elif damage := diagnose_page(page, gpa, seed, generation):
        tally.note(damage)


def is_write_in_flight(page: bytes, gpa: int, seed: int, generation: int) -> bool:
    """Whether *page* is an unfinished write of the next generation: new lines, one of any content, old lines."""
    lines = np.frombuffer(page, dtype="<u8").reshape(LINES_PER_PAGE, LINE_SIZE // 8)
    new, old = pages_of([gpa, gpa], [generation + 1, generation], seed)
    is_new, is_old = (lines == new).all(axis=1), (lines == old).all(axis=1)
    first_not_new = int(np.argmin(is_new)) if not is_new.all() else LINES_PER_PAGE
    return bool(is_old[first_not_new + 1 :].all())
