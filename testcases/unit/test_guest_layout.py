from __future__ import annotations

import pytest

from harness.model.guest import FOUR_GIB, GuestDescription, RamLayout
from harness.model.machine import Arch
from harness.model.memory import GpaRange

GIB = 1 << 30


@pytest.mark.parametrize(
    ("total", "below"), [(128 << 20, 128 << 20), (2815 << 20, 2815 << 20), (2816 << 20, 2 * GIB), (5 * GIB, 2 * GIB)]
)
def test_q35_splits_at_two_gib_when_there_is_enough(total: int, below: int) -> None:
    assert RamLayout.q35(total).below_4g_bytes == below


@pytest.mark.parametrize(
    ("total_mib", "asked_mib", "below_mib"),
    [(128, 64, 64), (128, 128, 128), (128, 4096, 128), (3072, 3072, 2048), (3072, 1024, 1024), (64, 0, 64)],
)
def test_less_may_lie_below_four_gib_than_the_machine_would_put_there(
    total_mib: int, asked_mib: int, below_mib: int
) -> None:
    assert RamLayout.q35(total_mib << 20, below_4g_mib=asked_mib).below_4g_bytes == below_mib << 20


@pytest.mark.parametrize(
    ("ram_addr", "gpa"), [(0, 0), (2 * GIB - 1, 2 * GIB - 1), (2 * GIB, FOUR_GIB), (5 * GIB - 1, 7 * GIB - 1)]
)
def test_translation_is_its_own_inverse_around_the_hole(ram_addr: int, gpa: int) -> None:
    layout = RamLayout.q35(5 * GIB)
    assert layout.ram_to_gpa(ram_addr) == gpa
    assert layout.gpa_to_ram(gpa) == ram_addr


@pytest.mark.parametrize("gpa", [-1, 2 * GIB, FOUR_GIB - 1, 7 * GIB])
def test_a_gpa_without_ram_is_refused(gpa: int) -> None:
    with pytest.raises(ValueError, match="no RAM"):
        RamLayout.q35(5 * GIB).gpa_to_ram(gpa)


@pytest.mark.parametrize(("ram_addr", "gpa"), [(0, GIB), (3 * GIB, FOUR_GIB), (5 * GIB - 1, 6 * GIB - 1)])
def test_memory_of_virt_is_one_piece_from_one_gib_on(ram_addr: int, gpa: int) -> None:
    layout = RamLayout.of(Arch.AARCH64, 5 * GIB)
    assert layout.ram_to_gpa(ram_addr) == gpa
    assert layout.gpa_to_ram(gpa) == ram_addr
    assert layout.arch is Arch.AARCH64


@pytest.mark.parametrize("gpa", [0, GIB - 1, 6 * GIB])
def test_virt_has_no_memory_elsewhere(gpa: int) -> None:
    with pytest.raises(ValueError, match="no RAM"):
        RamLayout.virt(5 * GIB).gpa_to_ram(gpa)


def test_a_ram_addr_beyond_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond"):
        RamLayout.q35(GIB).ram_to_gpa(GIB)


def test_the_ledger_counts_pages_across_ranges() -> None:
    guest = GuestDescription(
        protocol_version=1,
        probe_version=1,
        arch="x86_64",
        vcpus=1,
        boot_id=1,
        boot_count=1,
        tsc=0,
        heartbeat_gpa=0,
        ledger_gpa=0,
        ram=(),
        managed=(GpaRange(0x100000, 0x102000), GpaRange(0x300000, 0x301000)),
    )
    assert guest.managed_pages == 3
    assert [guest.page_gpa(index) for index in range(3)] == [0x100000, 0x101000, 0x300000]
    with pytest.raises(IndexError):
        guest.page_gpa(3)
