"""Caches that are not coherent between views of memory: the damage of a missing flush (classes B22 and B23).

Per line and view (ASID and C-bit) there is at most one dirty copy in all caches, on the CPU that wrote last. A copy of
the view through which the page is used now does no harm when it is written back: memory gets what the guest sees. One
of an older view overwrites what was written since, unless the newer content is still dirty in a cache itself and
follows. Which copy goes first is a matter of the seed.

What was written is learnt from memory itself (written_lines.py), whoever wrote it. The RAM of the VM is only ever
changed by write-backs, so call what writes back (it returns a WriteBack) while the VM does not run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from harness.confidential.soft.caches.dirty_copies import DirtyCopies, Flags, Gone, Slots
from harness.confidential.soft.caches.line_views import LineView, MemoryEngine
from harness.confidential.soft.caches.written_lines import Contents, Extents, Lines, WrittenLines
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE

CAPACITY_LINES = 1 << 14
"""Dirty lines of one view on one CPU: 1 MiB, an L2 cache. More is written back at once: big guests cost no more."""

_NO_LINES: Lines = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBack:
    """What one operation wrote back."""

    lines: int
    """Dirty copies that went to memory."""
    fallen: Lines
    """Lines (ram_addr / 64) whose content, as the guest sees it, was changed by that; ascending."""
    fallen_from: tuple[LineView, ...]
    """The view of the copy that did it, for each."""


class Caches:
    """Of all CPUs of one host, as far as one VM's memory is concerned. One caller at a time."""

    def __init__(
        self,
        ram: Contents,
        *,
        cpus: int,
        seed: int,
        engine: MemoryEngine,
        view: LineView,
        extents: Extents | None = None,
        capacity_lines: int = CAPACITY_LINES,
        dirty_share: float = 1.0,
    ) -> None:
        """Nothing is dirty yet, and all pages are used through *view*. *ram* is shared with QEMU, ram_addr 0 first.

        *dirty_share* of what was written is still dirty when somebody looks; the rest has gone to memory by itself.
        """
        self.cpus = cpus
        self._rng = np.random.default_rng(seed)
        self._engine = engine
        self._written = WrittenLines(ram, extents)
        self._views = [view]
        self._page_views = np.zeros(-(-len(ram) // (LINES_PER_PAGE * LINE_SIZE)), dtype=np.uint8)
        self._copies = DirtyCopies(len(ram) // LINE_SIZE)
        self._capacity, self._dirty_share = capacity_lines * cpus, dirty_share

    @property
    def dirty_lines(self) -> int:
        """Dirty copies in all caches."""
        return len(self._copies)

    def dirty_of(self, view: LineView) -> Lines:
        """Lines with a dirty copy of *view*, ascending."""
        if view not in self._views:
            return np.empty(0, dtype=np.int64)
        return np.sort(self._copies.lines(self._copies.of_view(self._views.index(view))))

    def pages_not_of(self, view: LineView, start_page: int, end_page: int) -> list[tuple[int, int]]:
        """Runs of these RAM pages that are used through another view, as half-open spans."""
        other = self._page_views[start_page:end_page] != self._number(view)
        edges = np.flatnonzero(np.diff(other, prepend=False, append=False)) + start_page
        return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]

    # What guest, host and firmware do

    def look(self, start_page: int = 0, end_page: int | None = None) -> int:
        """Lines written in these RAM pages since the last look are dirty in the view of their page; how many.

        Never writes to the RAM: what does not fit into the caches any more is what does no harm.
        """
        lines = self._written.take(*_span(start_page, end_page))
        self._store(lines)
        self._make_room()
        return len(lines)

    def switch(self, view: LineView, start_page: int = 0, end_page: int | None = None) -> int:
        """These pages are used through *view* from now on: a conversion, a reset, a new context.

        Call it before anything is written through the new view: what was written so far was of the old one, and is
        looked at. How many lines that were.
        """
        looked = self.look(start_page, end_page)
        self.use(view, start_page, end_page)
        return looked

    def use(self, view: LineView, start_page: int = 0, end_page: int | None = None) -> None:
        """The same of pages that were looked at just now: what others write meanwhile is not of the old view."""
        self._page_views[start_page:end_page] = self._number(view)

    def overwrite(self, start_page: int = 0, end_page: int | None = None) -> None:
        """Memory was changed below the caches, by the secure processor: every older copy of these pages is stale."""
        self._written.adopt(*_span(start_page, end_page))
        self._copies.make_stale(*_lines(start_page, end_page))

    # What the host's kernel can do about it, and what happens by itself

    def wbinvd(self, cpus: Collection[int] | None = None) -> WriteBack:
        """WBINVD on these CPUs, on all if not said."""
        self.look()
        return self.wbinvd_before_newest(cpus)

    def wbinvd_before_newest(self, cpus: Collection[int] | None = None) -> WriteBack:
        """The same, run before anything was written that nobody has looked at: that is dirty afterwards."""
        slots = self._copies.every()
        if cpus is not None:
            slots = slots[np.isin(self._copies.cpus(slots), list(cpus))]
        return self._write_back(slots)

    def clflush(self, view: LineView, start_line: int, end_line: int) -> WriteBack:
        """CLFLUSH of each line in [start, end) through a mapping of *view*, which leaves other views' copies alone."""
        number, span = self._number(view), (start_line * LINE_SIZE, end_line * LINE_SIZE)
        slots = self._copies.within(number, start_line, end_line)
        used = self._page_views[start_line // LINES_PER_PAGE : -(-end_line // LINES_PER_PAGE)]
        if (used == number).all() and not self._copies.stale(slots).any():
            # All of it is right: what was written last need not go through the caches to be in memory.
            self._written.adopt(*span)
            self._copies.release(slots)
            return WriteBack(lines=len(slots), fallen=_NO_LINES, fallen_from=())
        self._store(self._written.take(*span))
        return self.clflush_before_newest(view, start_line, end_line)

    def clflush_before_newest(self, view: LineView, start_line: int, end_line: int) -> WriteBack:
        """The same, run before anything was written that nobody has looked at."""
        return self._write_back(self._copies.within(self._number(view), start_line, end_line))

    def evict_some(self) -> WriteBack:
        """Some time passes: a random share of what is dirty is written back, in random order."""
        self.look()
        share, slots = self._rng.random(), self._copies.every()
        return self._write_back(slots[self._rng.random(len(slots)) < share])

    # The rest

    def _number(self, view: LineView) -> int:
        if view not in self._views:
            self._views.append(view)
        return self._views.index(view)

    def _store(self, lines: Lines) -> Slots:
        """*lines* were written through their pages' views: the slots of their copies."""
        if not len(lines):
            return np.empty(0, dtype=np.int64)
        pages = lines // LINES_PER_PAGE
        views = self._page_views[pages]
        of_page = np.cumsum(np.diff(pages, prepend=-1) != 0) - 1
        cpus = self._rng.integers(self.cpus, size=int(of_page[-1]) + 1, dtype=np.uint8)[of_page]
        stored = []
        for number in np.flatnonzero(np.bincount(views)).tolist():
            rows = np.flatnonzero(views == number)
            chosen = self._that_stay(len(rows))
            # What does not stay went to memory at once, and is newer than what the caches had of it.
            self._copies.drop(number, lines[rows[~chosen]])
            rows = rows[chosen]
            contents = self._written.contents(lines[rows])
            stored.append(self._copies.store(number, lines[rows], cpus[rows], contents))
        return np.concatenate(stored)

    def _that_stay(self, count: int) -> Flags:
        """Which of so many newly written lines are in caches: a share of them, and no more than there is room for."""
        stay = min(round(count * self._dirty_share), self._capacity)
        if self._dirty_share < 1 and stay < self._capacity:
            return self._rng.random(count, dtype=np.float32) < self._dirty_share
        chosen = np.zeros(count, dtype=np.bool_)
        chosen[self._rng.choice(count, stay, replace=False) if stay < count else slice(None)] = True
        return chosen

    def _make_room(self) -> None:
        """What does not fit is written back: of each view only copies that do no harm."""
        copies = self._copies
        if len(copies) <= self._capacity:
            return
        for number in range(len(self._views)):
            excess = copies.count(number) - self._capacity
            if excess <= 0:
                continue
            slots = copies.of_view(number)
            is_right = (self._page_views[copies.lines(slots) // LINES_PER_PAGE] == number) & ~copies.stale(slots)
            slots = slots[is_right]
            copies.release(self._rng.choice(slots, min(excess, len(slots)), replace=False))

    def _write_back(self, slots: Slots) -> WriteBack:
        copies, count = self._copies, len(slots)
        lines, views = copies.lines(slots), copies.views(slots)
        is_wrong = (views != self._page_views[lines // LINES_PER_PAGE]) | copies.stale(slots)
        # A copy that is right does nothing to memory, but by coming behind a wrong one of its line.
        wrong_lines = _each_once(lines[is_wrong])
        matters = is_wrong if not len(wrong_lines) else np.isin(lines, wrong_lines)
        copies.release(slots[~matters])
        slots, lines, views = slots[matters], lines[matters], views[matters]
        # Where the guest has written since the last look, the newer content is in a cache and stays there.
        newer = self._written.take_some(wrong_lines)
        if len(newer):
            self._store(newer)
            slots = slots[~(np.isin(lines, newer) & (views == self._page_views[lines // LINES_PER_PAGE]))]
        return replace(self._fall(copies.take(slots, self._rng)), lines=count)

    def _fall(self, gone: Gone) -> WriteBack:
        """*gone* were written back in their order."""
        now = self._page_views[gone.lines // LINES_PER_PAGE]
        is_right = (gone.views == now) & ~gone.stale
        shown = _last_of_each(gone.lines)
        # Newer content that is still dirty hides what fell, and will be written over it.
        harmful = np.flatnonzero(shown & ~is_right)
        harmful = harmful[~self._copies.shows(gone.lines[harmful], now[harmful])]
        harmful = harmful[np.argsort(gone.lines[harmful])]
        lines, old, new = gone.lines[harmful], gone.views[harmful], now[harmful]
        contents = gone.contents[harmful]
        for written, read in {*zip(old.tolist(), new.tolist(), strict=True)}:
            rows = np.flatnonzero((old == written) & (new == read))
            contents[rows] = self._engine.seen(
                lines[rows], contents[rows], written=self._views[written], read=self._views[read]
            )
        is_new = (contents != self._written.contents(lines)).any(axis=1)
        self._written.put(lines[is_new], contents[is_new])
        fallen_from = tuple(self._views[number] for number in old[is_new].tolist())
        return WriteBack(lines=len(gone), fallen=lines[is_new], fallen_from=fallen_from)


def _each_once(lines: Lines) -> Lines:
    """Ascending. Several times as fast as numpy.unique, which hashes."""
    ordered = np.sort(lines)
    once: Lines = ordered[np.diff(ordered, prepend=-1) != 0]
    return once


def _last_of_each(lines: Lines) -> Flags:
    """Which entries are the last of their line: what is written back last, stays."""
    order = np.argsort(lines, kind="stable")
    is_last = np.ones(len(lines), dtype=np.bool_)
    is_last[order[:-1]] = np.diff(lines[order]) != 0
    return is_last


def _lines(start_page: int, end_page: int | None) -> tuple[int, int | None]:
    return start_page * LINES_PER_PAGE, None if end_page is None else end_page * LINES_PER_PAGE


def _span(start_page: int, end_page: int | None) -> tuple[int, int | None]:
    start, end = _lines(start_page, end_page)
    return start * LINE_SIZE, None if end is None else end * LINE_SIZE
