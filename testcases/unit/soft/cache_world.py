"""A guest in the open: what it wrote, through which view, and what its memory holds when the caches are done."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from harness.confidential.soft.caches.cache import Caches, WriteBack
from harness.confidential.soft.caches.flushing import FlushRules, HostFlush
from harness.confidential.soft.caches.line_views import SHARED, LineView, MemoryEngine
from harness.confidential.soft.processor.memory_encryption import VEK_BYTES, MemoryCipher
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE

GUEST, NEXT_GUEST = LineView(3), LineView(4)
PAGES = 8


def engine() -> MemoryEngine:
    made = MemoryEngine()
    for number, view in enumerate((GUEST, NEXT_GUEST), 1):
        cipher = MemoryCipher(random.Random(number).randbytes(VEK_BYTES))
        made.load(view, lambda cipher=cipher: cipher)
    return made


@dataclass
class CacheWorld:
    """Memory of 8 pages, 4 CPUs."""

    seed: int = 1
    rules: FlushRules = field(default_factory=FlushRules)
    capacity_lines: int = 4096
    pages: int = PAGES

    def __post_init__(self) -> None:
        self.ram = np.zeros(self.pages * PAGE_SIZE, dtype=np.uint8)
        self.engine = engine()
        self.caches = Caches(
            self.ram, cpus=4, seed=self.seed, engine=self.engine, view=GUEST, capacity_lines=self.capacity_lines
        )
        self.flush = HostFlush(self.caches, self.rules)
        self.random = np.random.default_rng(self.seed + 100)
        self.wanted = self.ram.copy()
        """What everybody wrote, and nothing else."""

    @property
    def lines(self) -> np.ndarray:
        return self.ram.reshape(-1, LINE_SIZE)

    def write(self, start_line: int, end_line: int) -> None:
        """Somebody writes something new there."""
        content = self.random.integers(256, size=(end_line - start_line, LINE_SIZE))
        self.lines[start_line:end_line] = self.wanted.reshape(-1, LINE_SIZE)[start_line:end_line] = content

    def write_pages(self, start_page: int, end_page: int) -> None:
        self.write(start_page * LINES_PER_PAGE, end_page * LINES_PER_PAGE)

    def reboot(self) -> None:
        """Pages 2-3 were shared and are written as such; all become private again, with this kernel's flush between."""
        self.caches.switch(SHARED, 2, 4)
        self.write_pages(2, 4)
        self.flush.everything()
        self.caches.switch(GUEST)

    def changed(self) -> np.ndarray:
        """Lines that are not as they should be."""
        return np.flatnonzero((self.lines != self.wanted.reshape(-1, LINE_SIZE)).any(axis=1))


def fallen(*steps: WriteBack) -> set[int]:
    return {int(line) for step in steps for line in step.fallen}
