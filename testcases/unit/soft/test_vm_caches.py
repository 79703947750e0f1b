"""The caches of a VM along its life: 50 reboots with complete flushes, and with bad ones."""

from __future__ import annotations

import random

import numpy as np
import pytest

from harness.checks.stale_lines import check_stale_lines
from harness.confidential.soft.caches.line_views import SHARED, LineView
from harness.confidential.soft.caches.vm_caches import Key, VmCaches
from harness.confidential.soft.processor.memory_encryption import VEK_BYTES, MemoryCipher
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE
from harness.model.soft_fault import SoftFault

PAGES = 16
SHARED_PAGES = range(4, 8)
"""Rings of the guest: it makes them shared on every boot."""


def key(number: int) -> Key:
    cipher = MemoryCipher(random.Random(number).randbytes(VEK_BYTES))
    return lambda: cipher


class Guest:
    """Fills its memory on each boot, converts its rings, writes to them, and verifies everything before it reboots."""

    def __init__(self, seed: int, *faults: SoftFault) -> None:
        self.ram = np.zeros(PAGES * PAGE_SIZE, dtype=np.uint8)
        self.caches = VmCaches(self.ram, asid=3, key=key(1), cpus=4, seed=seed, faults=frozenset(faults))
        self.lines = self.ram.reshape(-1, LINE_SIZE)
        self.written = [self.lines.copy()]
        self.random = np.random.default_rng(seed)

    def write(self, pages: range) -> None:
        span = slice(pages.start * LINES_PER_PAGE, pages.stop * LINES_PER_PAGE)
        self.lines[span] = self.written[-1][span] = self.random.integers(256, size=self.lines[span].shape)

    def convert(self, *, private: bool) -> None:
        self.caches.convert([(SHARED_PAGES.start, SHARED_PAGES.stop)], private=private)

    def boot(self, *, converts: bool = True) -> np.ndarray:
        """Lines that are wrong before it reboots."""
        self.written.append(self.lines.copy())
        self.write(range(PAGES))
        self.caches.time_passes()
        bad = self.bad()
        if converts:
            self.convert(private=False)
            self.written.append(self.lines.copy())
            self.write(SHARED_PAGES)
            self.caches.time_passes()
            bad = np.union1d(bad, self.bad())
            # The rings are busy to the last, so a flush that comes too early misses something.
            self.written.append(self.lines.copy())
            self.write(SHARED_PAGES)
        return bad

    def bad(self) -> np.ndarray:
        return np.flatnonzero((self.lines != self.written[-1]).any(axis=1))

    def known(self, line: int, content: bytes) -> str:
        boots = [boot for boot, lines in enumerate(self.written) if lines[line].tobytes() == content]
        return f"of boot {boots[-1]}" if boots else ""


@pytest.mark.parametrize("seed", range(20))
def test_50_reboots_with_complete_flushes_hurt_nothing(seed: int) -> None:
    guest = Guest(seed)
    for _ in range(50):
        assert not len(guest.boot())
        guest.caches.reset()
        guest.written = guest.written[-1:]
    assert not guest.caches.hurt


@pytest.mark.parametrize(
    ("seed", "fault"),
    [
        *((seed, SoftFault.FLUSH_SKIPPED) for seed in range(20)),
        *((seed, fault) for seed in range(3) for fault in (SoftFault.FLUSH_ONE_CPU, SoftFault.FLUSH_BEFORE_LAST_WRITE)),
    ],
)
def test_a_bad_flush_is_caught_within_50_reboots_with_lines_and_view(seed: int, fault: SoftFault) -> None:
    guest = Guest(seed, fault)
    for _ in range(50):
        bad = guest.boot()
        if len(bad):
            break
        guest.caches.reset()
    assert len(bad)
    assert guest.caches.hurt
    told = check_stale_lines(
        guest.caches.origins(bad, guest.lines[bad], private=True, known=guest.known)
        + guest.caches.origins(bad, guest.lines[bad], private=False, known=guest.known),
        role="src",
    )
    assert told
    assert {finding.kind for finding in told} == {"old-view"}
    assert any(f"written through {view} " in told[0].detail for view in (SHARED, guest.caches.private))


def test_a_new_context_without_a_flush_brings_the_old_keys_lines() -> None:
    guest = Guest(1, SoftFault.FLUSH_SKIPPED)
    guest.boot(converts=False)
    guest.caches.retire()
    guest.caches.renew(4, key(2))
    while not len(bad := guest.boot(converts=False)):
        guest.caches.reset()
    told = guest.caches.origins(bad, guest.lines[bad], private=True, known=guest.known)
    assert {line.written for line in told} == {LineView(3)}
    assert set(guest.caches.hurt) == {LineView(3)}


@pytest.mark.parametrize(("fault", "most"), [(SoftFault.FLUSH_WRONG_VIEW, None), (SoftFault.FLUSH_LINE_SHORT, 1)])
def test_a_bad_flush_of_a_conversion(fault: SoftFault, most: int | None) -> None:
    guest, found = Guest(2, fault), set()
    for _ in range(20):
        found |= set(guest.boot().tolist())
        guest.caches.reset()
    rings = range(SHARED_PAGES.start * LINES_PER_PAGE, SHARED_PAGES.stop * LINES_PER_PAGE)
    assert found
    assert found <= set(rings)
    assert most is None or found == {rings[-1]}
