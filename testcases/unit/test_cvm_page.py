"""The cvm page as the host reads it: a layout, and what is refused."""

from __future__ import annotations

import struct

import pytest

from harness.guest.cvm_page import PAGE_BYTES, parse_cvm_page, read_cvm_page
from harness.model.cvm_guest import ConversionStep, CvmVcpu, InFlight, MigrationVariable, Phase
from harness.model.errors import ProtocolError
from harness.model.guest import RamLayout
from harness.model.memory import GpaRange

GPA = 0x288000


def page(*, leaks: int = 2, phase: int = 2, vcpus: int = 2, magic: bytes = b"CVMIGCV1") -> bytearray:
    made = bytearray(4096)
    struct.pack_into("<8sIIQQ", made, 0, magic, 1, phase, 0x20C000, 1 << 58)
    struct.pack_into("<IIIIQII", made, 32, 3, 1 << 16, 2, 1, 1, vcpus, leaks)
    struct.pack_into("<13Q", made, 64, *range(101, 114))
    struct.pack_into("<4Q", made, 168, 0b11, 0x287000, 0x291000, 0x291000)
    struct.pack_into("<4Q", made, 256, 0x5000, 0x7000, 0x9000, 0xA000)
    struct.pack_into("<QQIIQQ", made, 512, 0x10000, 0x20000, 1, 0, 0x289000, 77)
    struct.pack_into("<QQIIQQ", made, 576, 0x30000, 0x38000, 1, 3, 0x28A000, 78)
    return made


def test_every_field_is_where_the_guest_puts_it() -> None:
    said = parse_cvm_page(GPA, bytes(page()))
    assert (said.gpa, said.phase, said.root_gpa, said.cbit_mask) == (GPA, Phase.KERNEL, 0x20C000, 1 << 58)
    assert (said.kernel, said.features, said.variable, said.is_es) == (3, 1 << 16, MigrationVariable.TRUE, True)
    assert (said.ready, said.online_mask, said.firmware_ghcb_gpa) == (1, 0b11, 0x291000)
    assert said.decrypted == GpaRange(0x287000, 0x291000)
    assert (said.counters.to_shared, said.counters.to_private, said.counters.ipis_got) == (101, 102, 113)
    assert (said.leaks, said.leaked) == (2, (GpaRange(0x5000, 0x7000), GpaRange(0x9000, 0xA000)))
    assert said.vcpus == (
        CvmVcpu(vcpu=0, ghcb_gpa=0x289000, hypercalls=77),
        CvmVcpu(vcpu=1, ghcb_gpa=0x28A000, hypercalls=78),
    )
    assert said.in_flight == (
        InFlight(vcpu=1, range=GpaRange(0x30000, 0x38000), to_private=True, step=ConversionStep.HYPERCALL_DONE),
    )


def test_more_leaks_than_the_list_holds_are_counted_only() -> None:
    said = parse_cvm_page(GPA, bytes(page(leaks=40)))
    assert (said.leaks, len(said.leaked)) == (40, 16)


def test_it_is_read_behind_the_hole_too() -> None:
    layout = RamLayout(below_4g_bytes=0x1000, total_bytes=0x3000)
    ram = bytes(0x2000) + bytes(page())
    assert read_cvm_page(memoryview(ram), layout, (1 << 32) + 0x1000).kernel == 3


@pytest.mark.parametrize(
    "wrong",
    [page(magic=b"CVMIGHB1"), page(phase=7), page(vcpus=99), page()[: PAGE_BYTES - 1], bytearray(4096)],
)
def test_what_is_no_cvm_page_is_refused(wrong: bytearray) -> None:
    with pytest.raises(ProtocolError, match="cvm page"):
        parse_cvm_page(GPA, bytes(wrong))


@pytest.mark.parametrize(("at", "value"), [(40, 9), (512 + 20, 99)])
def test_a_value_that_nobody_knows_is_refused(at: int, value: int) -> None:
    wrong = page()
    struct.pack_into("<I", wrong, at, value)
    with pytest.raises(ProtocolError, match="cvm page"):
        parse_cvm_page(GPA, bytes(wrong))
