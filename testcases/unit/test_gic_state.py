"""A GIC read from a stream's devices, its tables from guest memory, and who holds what."""

from __future__ import annotations

from collections.abc import Mapping

from harness.migration.stream.gic_interrupts import held_in_memory, held_on_wire
from harness.migration.stream.gic_state import LpiTables, read_gic
from harness.migration.stream.gic_tables import pending_lpis, translations, waiting_events
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.interrupts import VPE, At, Held, Source, SourceKind
from harness.model.translation import Translation

VALID = 1 << 63
PENDING_0, PENDING_1, PENDING_V, CONFIGURATION = 0x4800_0000, 0x4801_0000, 0x4802_0000, 0x4803_0000
DEVICES, VPES, COLLECTIONS, ITT, QUEUE = 0x4804_0000, 0x4804_1000, 0x4804_2000, 0x4804_3000, 0x4804_4000
DEVICE = 0xF1


def number(path: str, value: int, size: int = 4) -> DeviceField:
    return DeviceField(path=path, type=f"uint{8 * size}", raw=value.to_bytes(size, "big"), value=value)


def redistributor(vcpu: int | None, pending_table: int, **fields: int) -> list[DeviceField]:
    at = "cpu" if vcpu is None else f"cpu[{vcpu}]"
    return [
        number(f"{at}.edge_trigger", 0xFFFF),
        number(f"{at}.gicr_ctlr", 1),
        number(f"{at}.gicr_pendbaser", pending_table | 0x780, 8),
        number(f"{at}.gicr_propbaser", CONFIGURATION | 0x780 | 13, 8),
        *(number(f"{at}.{name}", value) for name, value in fields.items()),
        number(f"{at}/arm_gicv3_cpu/gicv4:gicr_vpendbaser", 0, 8),
    ]


def state_with(*fields: DeviceField, routes: Mapping[int, int] | None = None, **its: int) -> DeviceState:
    routers = bytearray(1020 * 8)
    for intid, vcpu in (routes or {}).items():
        routers[8 * intid + 7] = vcpu
    gic = Device(
        name="arm_gicv3",
        instance_id=0,
        vmsd="arm_gicv3",
        version=1,
        fields=(
            *fields,
            DeviceField(path="gicd_irouter", type="uint64[1020]", raw=bytes(routers)),
        ),
    )
    registers = {"ctlr": 1, "cbaser": VALID | QUEUE, "creadr": 0, "cwriter": 0, **its}
    tables = ((1, DEVICES), (2, VPES), (4, COLLECTIONS))
    service = Device(
        name="arm_gicv3_its",
        instance_id=0,
        vmsd="arm_gicv3_its",
        version=1,
        fields=(
            *(number(name, value, 8) for name, value in registers.items()),
            *(number(f"baser[{at}]", VALID | kind << 56 | gpa, 8) for at, (kind, gpa) in enumerate(tables)),
        ),
    )
    return DeviceState(machine="virt-7.2", devices=(gic, service))


class Memory:
    """64 KiB pieces of guest memory that are written as a guest and its ITS would."""

    def __init__(self) -> None:
        self.base, self.data = PENDING_0, bytearray(0x5_0000)

    def __call__(self, gpa: int, size: int) -> bytes:
        at = gpa - self.base
        return bytes(self.data[at : at + size])

    def put(self, gpa: int, value: int, size: int = 8) -> None:
        at = gpa - self.base
        self.data[at : at + size] = value.to_bytes(size, "little")

    def pend(self, table: int, *intids: int) -> None:
        for intid in intids:
            self.data[table - self.base + intid // 8] |= 1 << intid % 8


def mapped() -> Memory:
    """Event 2 of the device is LPI 8200 of vCPU 1, event 3 virtual LPI 8300."""
    memory = Memory()
    memory.put(DEVICES + 8 * DEVICE, (ITT >> 8) << 6 | 4 << 1 | 1)
    memory.put(COLLECTIONS + 8 * 1, 1 << 1 | 1)
    memory.put(VPES + 8 * 5, 1 << 42 | (PENDING_V >> 16) << 6 | 13 << 1 | 1)
    memory.put(ITT + 12 * 2, 1 << 32 | 8200 << 2 | 1 << 1 | 1)
    memory.put(ITT + 12 * 3, 5 << 48 | 8300 << 2 | 1)
    return memory


LPI = Source(id=64, kind=SourceKind.ITS_LPI, vcpu=1, line=0x102, number=8200)
VLPI = Source(id=65, kind=SourceKind.ITS_VLPI, vcpu=VPE, sender=1, line=0x103, number=8300)
SGI = Source(id=66, kind=SourceKind.IPI, vcpu=1, line=5, number=5)
SPI = Source(id=67, kind=SourceKind.SOFTWARE, vcpu=1, line=70, number=70)
BOTH = (*redistributor(0, PENDING_0), *redistributor(1, PENDING_1))


def test_words_of_bitmaps_and_levels_make_one_number() -> None:
    gic = read_gic(state_with(number("pending[2]", 1 << 6), number("level[3]", 3), number("edge_trigger[3]", 1), *BOTH))
    assert gic is not None
    assert gic.pending == 1 << 70 | 1 << 97
    assert [one.lpis for one in gic.redistributors] == [
        LpiTables(pending_gpa=table, configuration_gpa=CONFIGURATION, id_bits=14) for table in (PENDING_0, PENDING_1)
    ]


def test_a_single_vcpu_has_no_index() -> None:
    state = state_with(*redistributor(None, PENDING_0, gicr_ipendr0=1 << 5))
    assert held_on_wire(state, (SGI,)) == {Held(0, SGI.id, At.PENDING)}


def test_a_stream_without_a_gic_holds_nothing() -> None:
    assert read_gic(DeviceState(machine="pc-q35-7.2")) is None
    assert held_on_wire(DeviceState(machine="pc-q35-7.2"), (SGI,)) == frozenset()


def test_what_registers_hold_is_told_with_the_vcpu_that_has_it() -> None:
    state = state_with(
        *redistributor(0, PENDING_0, gicr_ipendr0=1 << 5),
        *redistributor(1, PENDING_1, gicr_iactiver0=1 << 5),
        number("pending[2]", 1 << 6),
        number("active[2]", 1 << 6),
        routes={70: 3},
    )
    assert held_on_wire(state, (SGI, SPI)) == {
        Held(0, SGI.id, At.PENDING),
        Held(1, SGI.id, At.IN_SERVICE),
        Held(3, SPI.id, At.PENDING),
        Held(3, SPI.id, At.IN_SERVICE),
    }


def test_the_first_kib_of_a_pending_table_is_never_looked_at() -> None:
    memory = Memory()
    memory.pend(PENDING_0, 0, 5, 8191)
    tables = LpiTables(pending_gpa=PENDING_0, configuration_gpa=0, id_bits=14)
    assert pending_lpis(tables, memory) == frozenset()
    memory.pend(PENDING_0, 8192, 16383)
    assert pending_lpis(tables, memory) == {8192, 16383}
    assert pending_lpis(LpiTables(pending_gpa=PENDING_0, configuration_gpa=0, id_bits=13), memory) == frozenset()


def test_tables_of_the_its_are_followed_to_the_vcpu() -> None:
    gic = read_gic(state_with(*BOTH))
    assert gic is not None
    assert gic.its is not None
    assert translations(gic.its, mapped()) == {
        Translation(DEVICE, 2, 8200, 1),
        Translation(DEVICE, 3, 8300, 1, is_virtual=True),
    }


def test_a_device_whose_collection_is_not_mapped_goes_nowhere() -> None:
    memory = mapped()
    memory.put(COLLECTIONS + 8 * 1, 0)
    gic = read_gic(state_with(*BOTH))
    assert gic is not None
    assert gic.its is not None
    assert {entry.intid for entry in translations(gic.its, memory)} == {8300}


def test_lpis_are_held_where_their_bit_is() -> None:
    memory = mapped()
    memory.pend(PENDING_1, 8200)
    memory.pend(PENDING_V, 8300)
    held = held_in_memory(state_with(*BOTH), memory, (LPI, VLPI))
    assert held == {Held(1, LPI.id, At.PENDING), Held(VPE, VLPI.id, At.PENDING)}
    memory.pend(PENDING_0, 8200)
    assert Held(0, LPI.id, At.PENDING) in held_in_memory(state_with(*BOTH), memory, (LPI, VLPI))


def test_an_lpi_that_no_source_has_is_told_by_its_number() -> None:
    memory = mapped()
    memory.pend(PENDING_0, 8193)
    assert held_in_memory(state_with(*BOTH), memory, (LPI,)) == {Held(0, 8193, At.PENDING)}


def test_commands_that_wait_are_found_also_around_the_end_of_the_queue() -> None:
    memory = mapped()
    memory.put(QUEUE + 4064, DEVICE << 32 | 0x03)
    memory.put(QUEUE + 4064 + 8, 2)
    memory.put(QUEUE, DEVICE << 32 | 0x0C)
    state = state_with(*BOTH, ctlr=0, creadr=4064, cwriter=32)
    gic = read_gic(state)
    assert gic is not None
    assert gic.its is not None
    assert gic.its.commands_wait
    assert not gic.its.is_on
    assert waiting_events(gic.its, memory) == {(DEVICE, 2)}
    assert held_in_memory(state, memory, (LPI,)) == {Held(1, LPI.id, At.QUEUED)}


def test_a_queue_that_is_done_holds_nothing() -> None:
    assert held_in_memory(state_with(*BOTH), mapped(), (LPI,)) == frozenset()
