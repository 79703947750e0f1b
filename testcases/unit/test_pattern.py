from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from harness.guest.lines import page_bytes
from harness.guest.pattern import (
    LEDGER_LOCK,
    SHARED_SEED,
    damage_of_memory,
    diagnose_page,
    is_in,
    is_write_in_flight,
)
from harness.model.guest import RamLayout
from harness.model.memory import LINE_SIZE, PAGE_SIZE, Damage, GpaRange

GPA, SEED, GENERATION = 0x123000, 0xC0FFEE0123456789, 5
GOOD = page_bytes(GPA, GENERATION, SEED)
OLD = page_bytes(GPA, GENERATION - 1, SEED)
NEW = page_bytes(GPA, GENERATION + 1, SEED)
RANDOM = random.Random(1).randbytes(PAGE_SIZE)


def lines(page: bytes, first: int, count: int = 1) -> bytes:
    return page[first * LINE_SIZE : (first + count) * LINE_SIZE]


def with_lines(first: int, count: int, source: bytes) -> bytes:
    """The good page with some lines of *source* in the same places."""
    end = (first + count) * LINE_SIZE
    return GOOD[: first * LINE_SIZE] + lines(source, first, count) + GOOD[end:]


def flip(*bits: int) -> bytes:
    page = bytearray(GOOD)
    for bit in bits:
        page[bit // 8] ^= 1 << bit % 8
    return bytes(page)


CASES: dict[str, tuple[bytes, Damage, int, int]] = {
    "older generation": (OLD, Damage.STALE, 64, 0),
    "generation of the future": (NEW, Damage.NEWER, 64, 0),
    "another page": (page_bytes(0x777000, 5, SEED), Damage.SWAPPED, 64, 0),
    "another page of another generation": (page_bytes(0x777000, 3, SEED), Damage.SWAPPED, 64, 0),
    "half of another page": (with_lines(32, 32, page_bytes(0x777000, 5, SEED)), Damage.SWAPPED, 32, 32),
    "rotated by a line": (lines(GOOD, 63) + lines(GOOD, 0, 63), Damage.SHIFTED, 64, 0),
    "two lines exchanged": (lines(GOOD, 1) + lines(GOOD, 0) + lines(GOOD, 2, 62), Damage.SHIFTED, 2, 0),
    "end of the page is older": (with_lines(60, 4, OLD), Damage.TORN, 4, 60),
    "start of the page is older": (with_lines(0, 40, OLD), Damage.TORN, 40, 0),
    "three generations": (lines(OLD, 0, 20) + lines(NEW, 20, 44), Damage.TORN, 64, 0),
    "zero": (bytes(PAGE_SIZE), Damage.ZEROED, 64, 0),
    "half zero": (with_lines(32, 32, bytes(PAGE_SIZE)), Damage.ZEROED, 32, 32),
    "one older line in the middle": (with_lines(9, 1, OLD), Damage.LINE, 1, 9),
    "one line of ciphertext": (with_lines(9, 1, RANDOM), Damage.LINE, 1, 9),
    "two lines of zeroes": (with_lines(62, 2, bytes(PAGE_SIZE)), Damage.LINE, 2, 62),
    "one bit": (flip(64 * 8 * 5 + 3), Damage.BIT, 1, 5),
    "two bits of one line": (flip(64 * 8 * 5 + 3, 64 * 8 * 5 + 100), Damage.LINE, 1, 5),
    "ciphertext": (RANDOM, Damage.RANDOM, 64, 0),
    "half ciphertext": (with_lines(16, 32, RANDOM), Damage.RANDOM, 32, 16),
    "shifted by eight bytes": (GOOD[8:] + GOOD[:8], Damage.RANDOM, 64, 0),
    "another seed": (page_bytes(GPA, 5, SEED + 1), Damage.FOREIGN, 64, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_each_damage_has_its_diagnosis(name: str) -> None:
    page, kind, count, first = CASES[name]
    damage = diagnose_page(page, GPA, SEED, GENERATION)
    assert damage is not None
    assert (damage.kind, damage.lines, damage.first_bad_gpa) == (kind, count, GPA + first * LINE_SIZE)
    assert damage.expected == lines(GOOD, first)
    assert damage.found == lines(page, first)


def test_a_good_page_has_no_damage() -> None:
    assert diagnose_page(GOOD, GPA, SEED, GENERATION) is None


def test_the_detail_names_the_other_page_and_both_generations() -> None:
    damage = diagnose_page(page_bytes(0x777000, 3, SEED), GPA, SEED, GENERATION)
    assert damage is not None
    assert damage.detail == "content of gpa 0x777000, generation 3, ledger says 5"


def test_every_bit_of_a_page_counts() -> None:
    for bit in random.Random(2).sample(range(PAGE_SIZE * 8), 200):
        damage = diagnose_page(flip(bit), GPA, SEED, GENERATION)
        assert damage is not None
        assert damage.kind is Damage.BIT


def test_the_pattern_is_what_the_document_says() -> None:
    # Computed step by step from PROTOCOL.md with plain integers, not with the code under test.
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return x ^ x >> 31

    key = mix((mix((SEED + GPA) & mask) + GENERATION) & mask)
    a = (key + 63 * 0x9E3779B97F4A7C15) & mask
    gpa = GPA + 63 * 64
    words = (gpa, GENERATION, SEED, a, a ^ mask, a ^ gpa, (a + SEED) & mask, a ^ 0x6A09E667F3BCC908)
    assert lines(GOOD, 63) == b"".join(word.to_bytes(8, "little") for word in words)


MANAGED = (GpaRange(0x2000, 0x6000), GpaRange(1 << 32, (1 << 32) + 0x3000))
LAYOUT = RamLayout(below_4g_bytes=0x8000, total_bytes=0xC000)
GENERATIONS = (1, 2, 3, 4, 5, 6, 7)


def memory() -> bytearray:
    ram = bytearray(LAYOUT.total_bytes)
    gpas = [gpa for span in MANAGED for gpa in range(span.start, span.end, PAGE_SIZE)]
    for gpa, generation in zip(gpas, GENERATIONS, strict=True):
        at = LAYOUT.gpa_to_ram(gpa)
        ram[at : at + PAGE_SIZE] = page_bytes(gpa, generation, SEED)
    return ram


def test_clean_memory_on_both_sides_of_the_hole_is_clean() -> None:
    ledger = np.array(GENERATIONS, dtype=np.uint32)
    report = damage_of_memory(memoryview(memory()), LAYOUT, MANAGED, ledger, SEED)
    assert (report.pages_checked, report.pages_bad, report.ledger_sum) == (7, 0, 28)


def test_damage_is_found_on_both_sides_of_the_hole_and_listed_up_to_the_limit() -> None:
    ram = memory()
    ram[0x3000 + 70] ^= 4
    ram[0x9000:0xA000] = bytes(PAGE_SIZE)
    report = damage_of_memory(
        memoryview(ram), LAYOUT, MANAGED, np.array(GENERATIONS, dtype=np.uint32), SEED, max_damages=1
    )
    assert report.pages_bad == 2
    assert report.by_kind == {Damage.BIT: 1, Damage.ZEROED: 1}
    assert [damage.gpa for damage in report.damages] == [0x3000]


def unfinished(line: int) -> bytes:
    middle = b"\x5a" * LINE_SIZE
    return lines(NEW, 0, line) + middle + lines(GOOD, line + 1, 63 - line)


@pytest.mark.parametrize("page", [GOOD, NEW, unfinished(0), unfinished(31), unfinished(63)])
def test_a_write_in_flight_is_told_from_damage(page: bytes) -> None:
    assert is_write_in_flight(page, GPA, SEED, GENERATION)


@pytest.mark.parametrize("page", [OLD, RANDOM, bytes(PAGE_SIZE), lines(GOOD, 0, 32) + lines(NEW, 32, 32)])
def test_damage_is_not_taken_for_a_write_in_flight(page: bytes) -> None:
    assert not is_write_in_flight(page, GPA, SEED, GENERATION)


def break_nothing(_ram: bytearray) -> None: ...


def finish_half(ram: bytearray) -> None:
    ram[0x2000:0x2800] = page_bytes(0x2000, 2, SEED)[:0x800]


def wipe(ram: bytearray) -> None:
    ram[0x2000:0x3000] = bytes(PAGE_SIZE)


@pytest.mark.parametrize(("change", "in_flight", "bad"), [(break_nothing, 0, 0), (finish_half, 1, 0), (wipe, 0, 1)])
def test_a_locked_page_may_be_half_written_but_not_damaged(
    change: Callable[[bytearray], None], in_flight: int, bad: int
) -> None:
    ram = memory()
    change(ram)
    ledger = np.array([1 | LEDGER_LOCK, *GENERATIONS[1:]], dtype=np.uint32)
    report = damage_of_memory(memoryview(ram), LAYOUT, MANAGED, ledger, SEED)
    assert (report.pages_in_flight, report.pages_bad) == (in_flight, bad)


def test_half_a_write_in_an_unlocked_page_is_torn() -> None:
    ram = memory()
    finish_half(ram)
    report = damage_of_memory(memoryview(ram), LAYOUT, MANAGED, np.array(GENERATIONS, dtype=np.uint32), SEED)
    assert report.by_kind == {Damage.TORN: 1}


SHARED = (GpaRange(0x3000, 0x5000), GpaRange(1 << 32, (1 << 32) + 0x1000))


def shared_memory() -> bytearray:
    ram = memory()
    gpas = [gpa for span in MANAGED for gpa in range(span.start, span.end, PAGE_SIZE)]
    for gpa, generation in zip(gpas, GENERATIONS, strict=True):
        if any(span.start <= gpa < span.end for span in SHARED):
            at = LAYOUT.gpa_to_ram(gpa)
            ram[at : at + PAGE_SIZE] = page_bytes(gpa, generation, SEED ^ SHARED_SEED)
    return ram


def test_shared_pages_have_a_seed_of_their_own() -> None:
    ledger = np.array(GENERATIONS, dtype=np.uint32)
    ram = memoryview(shared_memory())
    assert damage_of_memory(ram, LAYOUT, MANAGED, ledger, SEED, shared=SHARED).pages_bad == 0
    # Whoever takes a page for the other kind than the guest that wrote it finds a foreign pattern.
    assert damage_of_memory(ram, LAYOUT, MANAGED, ledger, SEED).by_kind == {Damage.FOREIGN: 3}
    more = (GpaRange(0x2000, 0x5000), *SHARED[1:])
    assert damage_of_memory(ram, LAYOUT, MANAGED, ledger, SEED, shared=more).by_kind == {Damage.FOREIGN: 1}


@pytest.mark.parametrize(
    ("lock", "in_flight", "expected"),
    [
        (LEDGER_LOCK, (GpaRange(0x2000, 0x4000),), (1, 0)),
        (LEDGER_LOCK, (), (0, 1)),
        (LEDGER_LOCK, (GpaRange(0x3000, 0x4000),), (0, 1)),
        (0, (GpaRange(0x2000, 0x4000),), (0, 1)),
    ],
)
def test_a_locked_page_amid_a_conversion_may_hold_anything(
    lock: int, in_flight: tuple[GpaRange, ...], expected: tuple[int, int]
) -> None:
    ram = memory()
    ram[0x2000:0x3000] = RANDOM
    ledger = np.array([1 | lock, *GENERATIONS[1:]], dtype=np.uint32)
    report = damage_of_memory(memoryview(ram), LAYOUT, MANAGED, ledger, SEED, in_flight=in_flight)
    assert (report.pages_in_flight, report.pages_bad) == expected


def test_a_page_is_in_a_range_up_to_its_end() -> None:
    gpas = np.array([0x1000, 0x3000, 0x4000, 0x5000, 1 << 32], dtype=np.uint64)
    assert is_in(gpas, SHARED).tolist() == [False, True, True, False, True]
    assert is_in(gpas, ()).tolist() == [False] * 5
