"""Shared memory and its comparison, against a plain byte-for-byte one."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from harness.hosts.huge_file import open_huge_file
from harness.model.errors import SetupError
from harness.model.memory import PAGE_SIZE
from harness.vm import ram as ram_module
from harness.vm.ram import SharedRam
from harness.vm.ram_compare import differing_pages

MIB = 1 << 20


def refuse() -> int:
    raise PermissionError


@pytest.fixture
def memfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who may not mount."""
    monkeypatch.setattr(ram_module, "open_huge_file", refuse)


@pytest.fixture(params=["as root", "as a user"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[SharedRam, SharedRam]]:
    if request.param == "as a user":
        request.getfixturevalue("memfds")
    with ExitStack() as stack:
        yield (
            stack.enter_context(closing(SharedRam.create(16 * MIB))),
            stack.enter_context(closing(SharedRam.create(16 * MIB))),
        )


def test_untouched_memory_has_no_extents_and_stays_untouched(pair: tuple[SharedRam, SharedRam]) -> None:
    assert list(pair[0].data_extents()) == []
    assert differing_pages(*pair).size == 0
    assert pair[0].used_bytes == 0


def test_extents_are_what_was_written(pair: tuple[SharedRam, SharedRam]) -> None:
    ram, _ = pair
    ram.buffer[5 * PAGE_SIZE] = 1
    ram.buffer[16 * MIB - 1] = 1
    # Where the kernel gives huge pages each counts whole.
    exact = [(5 * PAGE_SIZE, 6 * PAGE_SIZE), (16 * MIB - PAGE_SIZE, 16 * MIB)]
    assert list(ram.data_extents()) in (exact, [(0, 2 * MIB), (14 * MIB, 16 * MIB)])


def test_a_hole_equals_zeros_but_not_ones(pair: tuple[SharedRam, SharedRam]) -> None:
    one, other = pair
    one.buffer[3 * PAGE_SIZE : 5 * PAGE_SIZE] = 0
    one.buffer[5 * PAGE_SIZE + 17] = 1
    assert differing_pages(one, other).tolist() == [5]
    assert differing_pages(other, one).tolist() == [5]


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_pages_that_differ_are_named(pair: tuple[SharedRam, SharedRam], seed: int) -> None:
    rng = random.Random(seed)
    for ram in pair:
        for _ in range(rng.randrange(6)):
            start = rng.randrange(ram.size_bytes)
            ram.buffer[start : start + rng.randrange(4 * MIB)] = rng.randrange(2)
        ram.buffer[rng.randrange(ram.size_bytes)] ^= 0x80
    first, second = (ram.buffer.tobytes() for ram in pair)
    expected = [
        page
        for page in range(len(first) // PAGE_SIZE)
        if first[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] != second[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
    ]
    assert differing_pages(*pair).tolist() == expected


def test_one_bit_is_enough(pair: tuple[SharedRam, SharedRam]) -> None:
    one, other = pair
    one.buffer[:] = 0xA5
    other.buffer[:] = 0xA5
    other.buffer[2 * MIB - 1] ^= 1
    assert differing_pages(one, other).tolist() == [2 * MIB // PAGE_SIZE - 1]


def test_sizes_must_agree(pair: tuple[SharedRam, SharedRam]) -> None:
    with closing(SharedRam.create(MIB)) as small, pytest.raises(ValueError, match="cannot be compared"):
        differing_pages(pair[0], small)


@pytest.mark.usefixtures("memfds")
def test_nobody_can_shrink_a_memfd_under_us() -> None:
    with closing(SharedRam.create(2 * MIB)) as ram, pytest.raises(PermissionError):
        os.ftruncate(ram.fd, MIB)


def test_a_huge_file_has_huge_pages_and_is_mounted_nowhere() -> None:
    mounts = Path("/proc/self/mounts").read_text()
    try:
        fd = open_huge_file()
    except OSError as problem:
        pytest.skip(f"may not mount: {problem.strerror}")
    try:
        assert not os.get_inheritable(fd)
        assert Path("/proc/self/mounts").read_text() == mounts
        os.ftruncate(fd, 4 * MIB)
        with mmap.mmap(fd, 4 * MIB) as area:
            area[3 * MIB] = 1
        assert os.fstat(fd).st_blocks * 512 in {PAGE_SIZE, 2 * MIB}, "one page, huge where the kernel has one to give"
    finally:
        os.close(fd)


def test_too_much_is_a_setup_error() -> None:
    with pytest.raises(SetupError):
        SharedRam.create(1 << 62)


def test_close_twice() -> None:
    ram = SharedRam.create(MIB)
    kept = ram.buffer
    ram.close()
    ram.close()
    assert kept[0] == 0


def test_populated_memory_takes_its_place_and_keeps_its_content(pair: tuple[SharedRam, SharedRam]) -> None:
    ram, other = pair
    ram.buffer[5 * PAGE_SIZE + 17] = 1
    ram.populate(lambda: True)
    assert ram.used_bytes == ram.size_bytes
    assert differing_pages(ram, other).tolist() == [5]


def test_populating_ends_when_nobody_wants_it_any_more(pair: tuple[SharedRam, SharedRam]) -> None:
    answers = iter((True, False))
    pair[0].populate(lambda: next(answers))
    assert 0 < pair[0].used_bytes < pair[0].size_bytes
