"""Caches that are not coherent between views: what a missing flush does to memory, and what it never does."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks.stale_lines import check_stale_lines
from harness.confidential.soft.caches.cache import Caches
from harness.confidential.soft.caches.flushing import FlushRules
from harness.confidential.soft.caches.line_origin import origins
from harness.confidential.soft.caches.line_views import SHARED, LineView
from harness.confidential.soft.caches.written_lines import WrittenLines
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE
from harness.model.soft_fault import SoftFault
from harness.model.verdict import Finding
from harness.vm.ram import SharedRam

from .cache_world import GUEST, NEXT_GUEST, PAGES, CacheWorld, engine, fallen

SHARED_LINES = set(range(2 * LINES_PER_PAGE, 4 * LINES_PER_PAGE))
RESET_FAULTS = (SoftFault.FLUSH_SKIPPED, SoftFault.FLUSH_ONE_CPU, SoftFault.FLUSH_BEFORE_LAST_WRITE)
RANGE_FAULTS = (
    SoftFault.FLUSH_SKIPPED,
    SoftFault.FLUSH_BEFORE_LAST_WRITE,
    SoftFault.FLUSH_WRONG_VIEW,
    SoftFault.FLUSH_LINE_SHORT,
)
SPANS = st.tuples(st.integers(0, PAGES * LINES_PER_PAGE - 1), st.integers(1, 90))


def rules(*faults: SoftFault) -> FlushRules:
    return FlushRules.of(frozenset(faults))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), SPANS),
        st.tuples(st.just("convert"), st.integers(0, PAGES - 1)),
        st.tuples(st.sampled_from(["look", "evict", "reset", "new context"]), st.none()),
    ),
    max_size=30,
)


class Life:
    """Of a guest that writes, converts, resets and moves to another key."""

    def __init__(self, world: CacheWorld) -> None:
        self.world, self.view, self.shared = world, GUEST, set[int]()
        self.old: set[int] = set()
        """Lines that were dirty in a view when another one took over."""

    def switch(self, view: LineView, start: int = 0, end: int = PAGES) -> None:
        self.world.caches.switch(view, start, end)
        span = set(range(start * LINES_PER_PAGE, end * LINES_PER_PAGE))
        for other in {GUEST, NEXT_GUEST, SHARED} - {view}:
            self.old |= span & set(self.world.caches.dirty_of(other).tolist())

    def step(self, step: str, value: Any) -> None:
        world = self.world
        if step == "write":
            world.write(value[0], min(sum(value), PAGES * LINES_PER_PAGE))
        elif step == "convert":
            old, new = (SHARED, self.view) if value in self.shared else (self.view, SHARED)
            world.flush.pages(value, value + 1, old=old, new=new)
            self.switch(new, value, value + 1)
            self.shared ^= {value}
        elif step == "look":
            world.caches.look()
        elif step == "evict":
            world.caches.evict_some()
        else:
            if step == "new context":
                self.view = {GUEST: NEXT_GUEST, NEXT_GUEST: GUEST}[self.view]
            world.flush.everything()
            self.switch(self.view)
            self.shared.clear()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=STEPS)
def test_with_complete_flushes_memory_never_changes(seed: int, steps: list[tuple[str, Any]]) -> None:
    life = Life(CacheWorld(seed=seed, capacity_lines=40))
    world = life.world
    for step, value in steps:
        life.step(step, value)
        assert not len(world.changed())
    assert not len(world.caches.wbinvd().fallen)
    assert not len(world.changed())
    assert not life.old


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=STEPS, fault=st.sampled_from(SoftFault))
def test_a_bad_flush_hurts_only_lines_that_were_dirty_in_an_old_view(
    seed: int, steps: list[tuple[str, Any]], fault: SoftFault
) -> None:
    life = Life(CacheWorld(seed=seed, rules=rules(fault)))
    for step, value in (*steps, ("evict", None), ("evict", None)):
        life.step(step, value)
        assert set(life.world.changed().tolist()) <= life.old


@pytest.mark.parametrize("fault", RESET_FAULTS)
@pytest.mark.parametrize("seed", range(8))
def test_a_bad_flush_at_a_reset_hurts_lines_that_were_dirty_in_the_old_view(fault: SoftFault, seed: int) -> None:
    world = CacheWorld(seed=seed, rules=rules(fault))
    world.reboot()
    dirty = set(world.caches.dirty_of(SHARED).tolist())
    assert dirty
    assert dirty <= SHARED_LINES
    world.write_pages(0, PAGES)
    lost = fallen(*(world.caches.evict_some() for _ in range(8)), world.caches.wbinvd())
    hurt = set(world.changed().tolist())
    assert hurt
    assert hurt <= lost <= dirty


@pytest.mark.parametrize("fault", RANGE_FAULTS)
@pytest.mark.parametrize("seed", range(8))
def test_a_bad_flush_at_a_conversion_hurts_lines_that_were_dirty_in_the_old_view(fault: SoftFault, seed: int) -> None:
    world = CacheWorld(seed=seed, rules=rules(fault))
    world.write_pages(5, 6)
    world.flush.pages(5, 6, old=GUEST, new=SHARED)
    world.caches.switch(SHARED, 5, 6)
    dirty = set(world.caches.dirty_of(GUEST).tolist())
    last = 6 * LINES_PER_PAGE - 1
    assert dirty == ({last} if fault is SoftFault.FLUSH_LINE_SHORT else set(range(5 * LINES_PER_PAGE, last + 1)))
    world.write_pages(5, 6)
    world.caches.clflush(SHARED, 0, PAGES * LINES_PER_PAGE)
    assert not len(world.changed())
    world.caches.wbinvd()
    assert set(world.changed().tolist()) == dirty


def test_only_the_cpus_that_were_left_out_keep_lines() -> None:
    world = CacheWorld(pages=64)
    world.caches.switch(SHARED)
    world.write_pages(0, 64)
    world.caches.look()
    total = world.caches.dirty_lines
    gone = world.caches.wbinvd([1]).lines
    assert 0 < gone < total
    assert gone % LINES_PER_PAGE == 0, "a page is written by one CPU"
    assert world.caches.wbinvd([1]).lines == 0
    assert world.caches.wbinvd([0, 2, 3]).lines == total - gone


def test_damage_is_one_line_of_64_bytes_and_tells_where_it_came_from() -> None:
    world = CacheWorld()
    world.caches.switch(SHARED, 2, 3)
    line = 2 * LINES_PER_PAGE + 17
    world.write(line, line + 1)
    old = world.lines[line].tobytes()
    world.caches.switch(GUEST)
    world.write_pages(2, 3)
    # Another CPU's flush writes the new content first: its own copy follows when it likes.
    world.caches.look()
    world.caches.clflush(GUEST, 0, PAGES * LINES_PER_PAGE)
    step = world.caches.wbinvd()
    assert step.fallen.tolist() == [line]
    assert step.fallen_from == (SHARED,)
    assert world.changed().tolist() == [line]
    assert np.flatnonzero(world.ram != world.wanted).max() < (line + 1) * LINE_SIZE
    assert world.lines[line].tobytes() != old, "it is read with the guest's key"
    (told,) = origins(
        step.fallen,
        world.lines[step.fallen],
        read=GUEST,
        candidates=(GUEST, SHARED),
        engine=world.engine,
        known=lambda _, content: "the old content" if content == old else "",
    )
    assert told.written == SHARED
    assert (told.ram_addr, told.content, told.view) == (line * LINE_SIZE, "the old content", "C=0")


def test_private_content_that_falls_over_a_shared_page_is_ciphertext() -> None:
    world = CacheWorld()
    world.write_pages(1, 2)
    old = world.ram[PAGE_SIZE : 2 * PAGE_SIZE].tobytes()
    world.caches.switch(SHARED, 1, 2)
    world.caches.wbinvd()
    cipher = engine()._keys[GUEST.asid]()
    assert world.ram[PAGE_SIZE : 2 * PAGE_SIZE].tobytes() == cipher.host_view([1], old)


def told_by_check(world: CacheWorld, old: np.ndarray) -> tuple[Finding, ...]:
    """As a case does it: lines that are wrong, asked where they come from, with the old content as what is known."""
    lines = world.changed()
    told = origins(
        lines,
        world.lines[lines],
        read=GUEST,
        candidates=(GUEST, SHARED),
        engine=world.engine,
        known=lambda line, content: "of the last boot" if content == old[line].tobytes() else "",
    )
    return check_stale_lines(told, role="src")


@pytest.mark.parametrize("fault", [None, *RESET_FAULTS])
def test_a_bad_flush_at_a_reset_is_told_with_lines_and_view(fault: SoftFault | None) -> None:
    world = CacheWorld(rules=rules(*[fault] if fault else []))
    world.reboot()
    old = world.wanted.reshape(-1, LINE_SIZE).copy()
    world.write_pages(0, PAGES)
    world.caches.look()
    world.caches.clflush(GUEST, 0, PAGES * LINES_PER_PAGE)
    world.caches.wbinvd()
    findings = told_by_check(world, old)
    if fault is None:
        assert not findings
        return
    (finding,) = findings
    assert (finding.check, finding.kind) == ("memory/stale-lines", "old-view")
    assert f"{len(world.changed())} lines of 64 bytes in" in finding.detail
    assert "written through C=0" in finding.detail
    assert f"{world.changed()[0] * LINE_SIZE:#x} is of the last boot" in finding.detail


def test_lines_of_unknown_origin_are_for_others_to_tell() -> None:
    world = CacheWorld()
    old = world.lines.copy()
    world.lines[3] = 7
    assert len(world.changed()) == 1
    assert told_by_check(world, old) == ()


def test_nobody_knows_a_line_that_was_never_written() -> None:
    garbage = np.full((1, LINE_SIZE), 0x5A, dtype=np.uint8)
    (told,) = origins(
        np.array([3]), garbage, read=GUEST, candidates=(SHARED, NEXT_GUEST), engine=engine(), known=lambda *_: ""
    )
    assert told.written is None
    assert (told.ram_addr, told.written, told.view) == (0xC0, None, "")


def test_new_content_that_is_dirty_hides_the_old_and_follows_it() -> None:
    world = CacheWorld()
    world.caches.switch(SHARED, 2, 3)
    world.write_pages(2, 3)
    world.caches.switch(GUEST, 2, 3)
    world.write_pages(2, 3)
    world.caches.clflush(SHARED, 0, PAGES * LINES_PER_PAGE)
    assert not len(world.changed())
    world.caches.wbinvd()
    assert not len(world.changed())


def test_what_the_secure_processor_writes_is_not_coherent_with_any_view() -> None:
    world = CacheWorld()
    world.write_pages(4, 5)
    world.caches.look()
    world.write_pages(4, 5)
    world.caches.overwrite(4, 5)
    assert not len(world.changed())
    world.caches.wbinvd()
    assert len(world.changed()) == LINES_PER_PAGE
    world.write_pages(4, 5)
    world.caches.look()
    world.caches.wbinvd()
    assert not len(world.changed()), "a write makes a copy new again"


def test_a_key_that_changed_reveals_the_old_line_of_a_reused_asid() -> None:
    world = CacheWorld()
    world.write_pages(0, 1)
    old = world.ram[:PAGE_SIZE].copy()
    world.caches.look()
    world.write_pages(0, 1)
    world.caches.overwrite(0, 1)
    world.engine.load(GUEST, engine()._keys[NEXT_GUEST.asid])
    world.caches.wbinvd()
    assert (world.ram[:PAGE_SIZE] == old).all()


def test_one_seed_gives_one_course() -> None:
    def course(seed: int) -> bytes:
        world = CacheWorld(seed=7, rules=rules(SoftFault.FLUSH_SKIPPED))
        world.caches._rng = np.random.default_rng(seed)
        world.reboot()
        world.write_pages(0, PAGES)
        world.caches.evict_some()
        world.caches.wbinvd()
        return world.ram.tobytes()

    assert course(5) == course(5)
    assert len({course(seed) for seed in range(4)}) == 4


def test_caches_are_bounded_and_keep_what_does_harm() -> None:
    world = CacheWorld(capacity_lines=8)
    world.caches.switch(SHARED, 0, 1)
    world.write(0, 10)
    world.caches.switch(GUEST, 0, 1)
    for _ in range(4):
        world.write_pages(1, PAGES)
        world.caches.look()
    assert len(world.caches.dirty_of(GUEST)) == 4 * 8
    assert world.caches.dirty_of(SHARED).tolist() == list(range(10))


def test_only_extents_with_data_are_read() -> None:
    ram = np.zeros(4 * PAGE_SIZE, dtype=np.uint8)
    written = WrittenLines(ram, lambda: [(PAGE_SIZE, 2 * PAGE_SIZE)])
    ram[[PAGE_SIZE, 2 * PAGE_SIZE - 1, 3 * PAGE_SIZE]] = 1
    assert written.take().tolist() == [LINES_PER_PAGE, 2 * LINES_PER_PAGE - 1]
    assert written.take().tolist() == []


def test_the_memory_of_a_vm_is_hurt_itself() -> None:
    with closing(SharedRam.create(64 * PAGE_SIZE)) as ram:
        caches = Caches(ram.buffer, cpus=2, seed=1, engine=engine(), view=GUEST, extents=ram.data_extents)
        os.pwrite(ram.fd, b"old" * 20, 40 * PAGE_SIZE)
        caches.switch(SHARED)
        os.pwrite(ram.fd, b"new" * 20, 40 * PAGE_SIZE)
        caches.look()
        caches.clflush(SHARED, 0, 64 * LINES_PER_PAGE)
        assert os.pread(ram.fd, 60, 40 * PAGE_SIZE) == b"new" * 20
        assert caches.wbinvd().fallen.tolist() == [40 * LINES_PER_PAGE]
        cipher = engine()._keys[GUEST.asid]()
        now = os.pread(ram.fd, PAGE_SIZE, 40 * PAGE_SIZE)
        assert cipher.guest_view([40], now)[:60] == b"old" * 20
        assert not any(now[LINE_SIZE:])
        del caches


def test_a_part_of_a_line_is_no_range() -> None:
    with pytest.raises(ValueError, match="no lines"):
        WrittenLines(np.zeros(PAGE_SIZE, dtype=np.uint8)).take(8, 64)
    with pytest.raises(ValueError, match="whole number"):
        WrittenLines(np.zeros(100, dtype=np.uint8))
