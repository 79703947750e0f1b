"""The host's own look at a guest without a source: the check, and the search for the probe."""

from __future__ import annotations

import struct

import pytest

from harness.cases.replay import _may_be_misread
from harness.checks.memory import check_pattern
from harness.guest.heartbeat import MAGIC
from harness.guest.resident import find_probe
from harness.model.guest import VIRT_RAM_GPA, PatternCheck, RamLayout
from harness.model.memory import Damage, GpaRange, PageDamage

MIB = 1 << 20
LEDGER_GPA = 0x240000


def damaged(kind: Damage, gpa: int) -> PageDamage:
    return PageDamage(gpa=gpa, kind=kind, lines=64, first_bad_gpa=gpa)


def test_clean_memory_is_silent() -> None:
    assert check_pattern(PatternCheck(pages_checked=9, pages_bad=0)) == ()


def test_each_kind_of_damage_is_a_finding_and_the_rest_is_counted() -> None:
    damages = (damaged(Damage.STALE, 0x1000), damaged(Damage.BIT, 0x3000), damaged(Damage.STALE, 0x2000))
    found = PatternCheck(pages_checked=99, pages_bad=20, by_kind={Damage.STALE: 19, Damage.BIT: 1}, damages=damages)
    findings = {finding.kind: finding for finding in check_pattern(found)}
    assert findings.keys() == {"stale", "bit", "more"}
    assert findings["stale"].where == "gpa 0x1000-0x2fff"
    assert "20 bad pages in all" in findings["more"].detail


def test_no_page_at_all_is_no_pass() -> None:
    (finding,) = check_pattern(PatternCheck(pages_checked=0, pages_bad=0))
    assert finding.kind == "nothing-checked"


@pytest.mark.parametrize(
    ("by_kind", "is_misread"),
    [({}, False), ({Damage.STALE: 4}, False), ({Damage.STALE: 3, Damage.NEWER: 3}, True), ({Damage.RANDOM: 9}, False)],
)
def test_wrong_generations_everywhere_may_be_the_host_s_mistake(by_kind: dict[Damage, int], is_misread: bool) -> None:
    found = PatternCheck(pages_checked=9, pages_bad=sum(by_kind.values()), by_kind=by_kind)
    assert _may_be_misread(found) is is_misread


def memory(size_bytes: int, *, magic: int = MAGIC, version: int = 1, managed: int = 2000, vcpus: int = 2) -> bytearray:
    ram = bytearray(size_bytes)
    struct.pack_into("<QQIIQQQQ", ram, 0x220000, magic, 0xB007, version, vcpus, 0x5EED, LEDGER_GPA, managed, 1)
    return ram


def find(ram: bytearray) -> object:
    return find_probe(memoryview(ram), [(0, MIB), (2 * MIB, len(ram))], RamLayout.q35(len(ram)))


def test_the_probe_is_found_by_its_heartbeat_page() -> None:
    ram = memory(16 * MIB)
    found = find_probe(memoryview(ram), [(0, len(ram))], RamLayout.q35(len(ram)))
    assert found is not None
    assert (found.heartbeat.seed, found.description.heartbeat_gpa, found.description.vcpus) == (0x5EED, 0x220000, 2)
    assert found.description.managed_pages == 2000
    first, second = found.description.managed
    assert (first.start, first.end) == (MIB, 2 * MIB)
    # 256 pages below the image, 159 of conventional memory, what lies between, and the rest: three pages of ledger.
    assert second.start == LEDGER_GPA + 0x3000


def test_a_probe_in_virt_s_memory_is_found_too() -> None:
    """4096 pages of RAM have a ledger of four; all RAM but the first MiB, the image and these is managed."""
    ram = bytearray(16 * MIB)
    ledger_gpa = VIRT_RAM_GPA + 0x240000
    managed = 256 + ((16 * MIB - 0x240000) >> 12) - 4
    struct.pack_into("<QQIIQQQQ", ram, 0x220000, MAGIC, 0xB007, 1, 2, 0x5EED, ledger_gpa, managed, 1)
    found = find_probe(memoryview(ram), [(0, len(ram))], RamLayout.virt(len(ram)))
    assert found is not None
    assert (found.description.arch, found.description.heartbeat_gpa) == ("aarch64", VIRT_RAM_GPA + 0x220000)
    assert found.description.managed == (
        GpaRange(VIRT_RAM_GPA + MIB, VIRT_RAM_GPA + 2 * MIB),
        GpaRange(ledger_gpa + 0x4000, VIRT_RAM_GPA + 16 * MIB),
    )


@pytest.mark.parametrize(
    "wrong", [{"magic": 5}, {"version": 9}, {"managed": 1 << 40}, {"managed": 0}, {"managed": 4000}, {"vcpus": 0}]
)
def test_what_only_looks_like_it_is_none(wrong: dict[str, int]) -> None:
    assert find(memory(16 * MIB)) is not None
    assert find(memory(16 * MIB, **wrong)) is None
