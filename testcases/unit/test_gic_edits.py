"""What the faults of a GIC change, and what they leave alone."""

from __future__ import annotations

import random

import pytest

from harness.migration.relay.gic_edits import gic_edits_of
from harness.migration.relay.page_faults import Target, deliver
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.memory import PAGE_SIZE
from harness.model.wire import TableBit
from harness.model.wire import WireFaultName as Name

HEARTBEAT, KICK, SGI = 27, 1, 5


def number(path: str, value: int) -> DeviceField:
    return DeviceField(path=path, type="uint32", raw=value.to_bytes(4, "big"), value=value)


def gic(*fields: DeviceField) -> DeviceState:
    routers = DeviceField(path="gicd_irouter", type="uint64[1020]", raw=bytes(8 * 1020))
    device = Device(name="arm_gicv3", instance_id=0, vmsd="arm_gicv3", version=1, fields=(*fields, routers))
    return DeviceState(machine="virt-7.2", devices=(device,))


def changes(name: Name, state: DeviceState) -> list[dict[str, int]]:
    return [
        {write.field.path: int.from_bytes(write.raw, "big") for write in edit.writes if len(write.raw) == 4}
        for edit in gic_edits_of(name, state)
    ]


def test_only_sources_are_struck_and_not_what_the_probe_lives_on() -> None:
    state = gic(
        number("cpu[0].gicr_ipendr0", 1 << HEARTBEAT | 1 << KICK | 1 << SGI), number("pending[2]", 1), number("x[9]", 1)
    )
    assert changes(Name.IRQ_CLEAR_PENDING, state) == [
        {"cpu[0].gicr_ipendr0": 1 << HEARTBEAT | 1 << KICK},
        {"pending[2]": 0},
    ]


def test_a_bit_in_service_is_dropped() -> None:
    state = gic(number("cpu[0].gicr_iactiver0", 1 << SGI), number("active[2]", 8))
    assert changes(Name.IRQ_DROP_IN_SERVICE, state) == [{"cpu[0].gicr_iactiver0": 0}, {"active[2]": 0}]


def test_a_bit_is_set_only_where_it_is_delivered() -> None:
    state = gic(
        number("cpu[0].gicr_ipendr0", 0),
        number("cpu[0].gicr_ienabler0", 1 << SGI | 1 << 20),
        number("cpu[0].edge_trigger", 0xFFFF),
        number("enabled[2]", 0b111),
        number("edge_trigger[2]", 0b011),
        number("pending[2]", 0b001),
    )
    assert changes(Name.IRQ_SET_PENDING, state) == [{"cpu[0].gicr_ipendr0": 1 << SGI}, {"pending[2]": 0b011}]


def test_a_private_interrupt_goes_to_another_vcpu() -> None:
    state = gic(number("cpu[0].gicr_ipendr0", 1 << SGI), number("cpu[1].gicr_ipendr0", 0))
    assert changes(Name.IRQ_WRONG_VCPU, state) == [{"cpu[0].gicr_ipendr0": 0, "cpu[1].gicr_ipendr0": 1 << SGI}]


def test_a_shared_interrupt_gets_another_route() -> None:
    state = gic(number("cpu[0].gicr_ipendr0", 0), number("cpu[1].gicr_ipendr0", 0), number("pending[2]", 1 << 6))
    (edit,) = gic_edits_of(Name.IRQ_WRONG_VCPU, state)
    assert edit.writes[0].raw[8 * 70 + 7] == 1


def test_without_a_gic_nothing_is_struck() -> None:
    assert list(gic_edits_of(Name.IRQ_CLEAR_PENDING, DeviceState(machine="pc-q35-7.2"))) == []


@pytest.mark.parametrize(("is_set", "before", "after"), [(True, 0, 4), (False, 0xFF, 0xFB), (True, 4, 4)])
def test_a_table_s_bit_is_what_the_fault_says_in_every_version_of_its_page(
    is_set: bool, before: int, after: int
) -> None:
    bits = (TableBit(page=0x3000, bit=10 * 8 + 2, is_set=is_set),)
    target = Target(name=Name.LPI_CLEAR, block="mach-virt.ram", ram_addr=0x3000, rng=random.Random(1), bits=bits)
    for filler in (b"a", b"b"):
        content = bytearray(filler * PAGE_SIZE)
        content[10] = before
        target.see(bytes(content))
        delivered = deliver(target)
        content[10] = after
        assert delivered == content
    assert target.applied().is_harmful == (before != after)
