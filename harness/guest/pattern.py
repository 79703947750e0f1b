"""The host's own look at a guest's memory: every managed page against the pattern and the guest's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.guest.diagnosis import diagnose_page
from harness.guest.lines import Words, page_bytes, pages_of
from harness.model.guest import GuestDescription, PatternCheck, RamLayout
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE, Damage, GpaRange, PageDamage

__all__ = ["damage_of_memory", "diagnose_page", "is_write_in_flight", "page_bytes", "read_ledger"]

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
) -> PatternCheck:
    """Compare all managed pages in *ram* (main memory, stopped guest) with what *ledger* says they hold."""
    tally = _Tally(max_damages)
    for span in managed:
        for start in range(span.start, span.end, CHUNK_PAGES * PAGE_SIZE):
            pages = min(CHUNK_PAGES, (span.end - start) // PAGE_SIZE)
            _check_chunk(ram, layout, start, ledger[tally.pages : tally.pages + pages], seed, tally)
            tally.pages += pages
    return PatternCheck(
        pages_checked=tally.pages,
        pages_bad=tally.kinds.total(),
        by_kind=dict(tally.kinds),
        damages=tuple(tally.damages),
        pages_in_flight=tally.in_flight,
        ledger_sum=int((ledger & np.uint32(LEDGER_LOCK - 1)).sum(dtype=np.uint64)),
    )


def _check_chunk(ram: memoryview, layout: RamLayout, start: int, ledger: Ledger, seed: int, tally: _Tally) -> None:
    pages = len(ledger)
    found = np.frombuffer(ram, dtype="<u8", count=pages * PAGE_SIZE // 8, offset=layout.gpa_to_ram(start))
    gpas = np.arange(start, start + pages * PAGE_SIZE, PAGE_SIZE, dtype=np.uint64)
    generations = (ledger & np.uint32(LEDGER_LOCK - 1)).astype(np.uint64)
    expected = pages_of(gpas, generations, seed).reshape(-1)
    if np.array_equal(found, expected):
        return
    wrong = (found != expected).reshape(pages, -1).any(axis=1)
    for index in np.flatnonzero(wrong):
        page = found[index * 512 : (index + 1) * 512]
        _note_page(page, int(gpas[index]), int(generations[index]), bool(ledger[index] & LEDGER_LOCK), seed, tally)


def _note_page(page: Words, gpa: int, generation: int, is_locked: bool, seed: int, tally: _Tally) -> None:
    if is_locked and is_write_in_flight(page.tobytes(), gpa, seed, generation):
        tally.in_flight += 1
    elif tally.kinds.total() >= DIAGNOSED_PAGES:
        tally.kinds[Damage.CHANGED] += 1
    elif damage := diagnose_page(page.tobytes(), gpa, seed, generation):
        tally.note(damage)


def is_write_in_flight(page: bytes, gpa: int, seed: int, generation: int) -> bool:
    """Whether *page* is an unfinished write of the next generation: new lines, one of any content, old lines."""
    lines = np.frombuffer(page, dtype="<u8").reshape(LINES_PER_PAGE, LINE_SIZE // 8)
    new, old = pages_of([gpa, gpa], [generation + 1, generation], seed)
    is_new, is_old = (lines == new).all(axis=1), (lines == old).all(axis=1)
    first_not_new = int(np.argmin(is_new)) if not is_new.all() else LINES_PER_PAGE
    return bool(is_old[first_not_new + 1 :].all())
