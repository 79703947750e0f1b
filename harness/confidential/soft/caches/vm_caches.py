"""The caches of one VM's host along its life: conversions, resets, new contexts. Not thread-safe: its owner locks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from harness.confidential.soft.caches.cache import CAPACITY_LINES, Caches, WriteBack
from harness.confidential.soft.caches.flushing import FlushRules, HostFlush
from harness.confidential.soft.caches.line_origin import Known, LineOrigin, origins
from harness.confidential.soft.caches.line_views import SHARED, LineView, MemoryEngine
from harness.confidential.soft.caches.written_lines import Contents, Extents, Lines
from harness.confidential.soft.processor.memory_encryption import MemoryCipher
from harness.model.page_map import PageMap
from harness.model.soft_fault import SoftFault

Key = Callable[[], MemoryCipher]

DIRTY_SHARE = 0.75
"""Lines of a page that was written a while ago are not all dirty any more: damage is of lines and not of pages."""


class VmCaches:
    """All memory is private at first. The VM must not run in what says so: memory may be written back to."""

    def __init__(
        self,
        ram: Contents,
        *,
        asid: int,
        key: Key,
        cpus: int,
        seed: int,
        faults: AbstractSet[SoftFault] = frozenset(),
        extents: Extents | None = None,
        capacity_lines: int = CAPACITY_LINES,
    ) -> None:
        """*ram* is the VM's memory, *key* the guest's memory key, *asid* its ASID (from 1)."""
        self.private = LineView(asid)
        self.hurt: Counter[LineView] = Counter()
        """Lines whose content was changed by a write-back, by the view that they came from: whether a fault struck."""
        self.at_risk = 0
        """Lines seen dirty in another view when a reset came: without its flush they would hurt. There may be more."""
        self._engine = MemoryEngine()
        self._engine.load(self.private, key)
        self._seen_views = [self.private]
        self._caches = Caches(
            ram,
            cpus=cpus,
            seed=seed,
            engine=self._engine,
            view=self.private,
            extents=extents,
            capacity_lines=capacity_lines,
            dirty_share=DIRTY_SHARE,
        )
        self._flush = HostFlush(self._caches, FlushRules.of(faults))

    def arrive(self, page_map: PageMap) -> None:
        """The VM came in by a migration with this map; nothing of what was received is dirty."""
        self._caches.overwrite()
        for start, end in page_map.shared.ranges():
            self._caches.use(SHARED, start, end)

    def convert(self, spans: Iterable[tuple[int, int]], *, private: bool) -> None:
        """RAM pages are converted, and nothing was written through the new view yet: where it changes, it is flushed.

        The vCPU stands still; only its own pages can be written back to, and those of earlier damage.
        """
        old, new = (SHARED, self.private) if private else (self.private, SHARED)
        for low, high in spans:
            for start, end in self._caches.pages_not_of(new, low, high):
                self._note(self._flush.pages(start, end, old=old, new=new))
                self._caches.use(new, start, end)

    def reset(self) -> None:
        """POST_SYSTEM_RESET: everything is flushed, and all memory is private again. The VM must not run."""
        self.at_risk += self._caches.dirty_lines - len(self._caches.dirty_of(self.private))
        self._note(self._flush.everything())
        self._caches.use(self.private)

    def retire(self) -> None:
        """The guest's context is about to end (WBINVD before DEACTIVATE): all goes to memory under the key that it has.

        The VM must not run until renew() was called.
        """
        seen, done = self._caches.dirty_lines, self._flush.everything()
        self.at_risk += max(seen, done.lines)
        self._note(done)
        self._caches.look()

    def renew(self, asid: int, key: Key) -> None:
        """The guest has a new context, another ASID or the same with another key, and reads memory by that one.

        Whatever is dirty still was missed by the flush. It will fall over memory under the key that its ASID has then.
        """
        self.private = LineView(asid)
        self._engine.load(self.private, key)
        if self.private not in self._seen_views:
            self._seen_views.append(self.private)
        self._caches.overwrite()
        self._caches.use(self.private)

    def time_passes(self) -> None:
        """Some of what is dirty is written back. The VM must not run."""
        self._note(self._caches.evict_some())

    def origins(self, lines: Lines, found: Contents, *, private: bool, known: Known) -> tuple[LineOrigin, ...]:
        """Where *found* on damaged *lines* comes from (line_origin.py); *private* is how the guest reads them now.

        Told from content and keys alone, so this also holds for what no cache of ours has done.
        """
        read = self.private if private else SHARED
        return origins(
            lines, found, read=read, candidates=(read, SHARED, *self._seen_views), engine=self._engine, known=known
        )

    def _note(self, done: WriteBack) -> None:
        self.hurt.update(done.fallen_from)
