"""Interrupts of a PC: read from device sections and from the monitor's words, and changed by faults."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from harness.cases.interrupts import x86_scenarios
from harness.cases.interrupts.scenario import Scenario
from harness.cases.interrupts.storm_case import storm_scenario
from harness.migration.relay.interrupt_edits import EDITS, edits_of
from harness.migration.stream.x86_interrupts import held_on_wire
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.interrupts import DOORBELL_IDS, At, Held, Hold, Moment, Source, SourceKind
from harness.model.machine import Arch
from harness.model.wire import WireFaultName as Name
from harness.vm.monitor_interrupts import parse_lapic, parse_pic

MSI = Source(id=3, kind=SourceKind.DOORBELL, vcpu=1, line=9, number=0x41)
LEVEL = Source(id=70, kind=SourceKind.LEVEL, vcpu=0, line=4, number=0x55)
PIT = Source(id=71, kind=SourceKind.LEGACY, vcpu=0, line=0, number=0x20)
NMI = Source(id=72, kind=SourceKind.NMI, vcpu=1, number=2)
TIMER = Source(id=73, kind=SourceKind.TIMER, vcpu=0, number=0x62)
SOURCES = (MSI, LEVEL, PIT, NMI, TIMER)


def device(name: str, instance: int = 0, **fields: int | bytes) -> Device:
    made = []
    for key, value in fields.items():
        path = key.replace("__", "[") + ("]" if "__" in key else "")
        raw = value if isinstance(value, bytes) else value.to_bytes(8, "big", signed=value < 0)
        kind = "msix state" if isinstance(value, bytes) else "uint64"
        made.append(DeviceField(path=path, type=kind, raw=raw, value=None if isinstance(value, bytes) else value))
    return Device(name=name, instance_id=instance, vmsd=name, version=1, fields=tuple(made))


def apic(instance: int, *, irr: int = 0, isr: int = 0, lvt: int = 0x10000, expiry: int = -1) -> Device:
    words = {
        f"{name}__{word}": value >> 32 * word & 0xFFFFFFFF
        for name, value in (("isr", isr), ("irr", irr))
        for word in range(8)
    }
    return device("apic", instance, **words, lvt__0=lvt, timer_expiry=expiry)


def quiet(**devices: Device) -> DeviceState:
    table = {
        "apic0": apic(0),
        "apic1": apic(1),
        "cpu0": device("cpu_common", 0, halted=0, interrupt_request=0),
        "cpu1": device("cpu_common", 1, halted=0, interrupt_request=0),
        "pic0": device("i8259", 0, irr=0, imr=0xFE, isr=0),
        "pic1": device("i8259", 1, irr=0, imr=0xFF, isr=0),
        "ioapic": device("ioapic", irr=0, **{f"ioredtbl__{pin}": 0x10000 for pin in range(24)}),
        "ivshmem": device("0000:00:10.0/ivshmem-doorbell", msix=bytes(64 * 16 + 8)),
    }
    return DeviceState(machine="pc", devices=tuple({**table, **devices}.values()))


def ioapic(pin: int, entry: int, irr: int = 0) -> Device:
    return device("ioapic", irr=irr, **{f"ioredtbl__{at}": entry if at == pin else 0x10000 for at in range(24)})


def pending_bit(vector: int) -> Device:
    raw = bytearray(64 * 16 + 8)
    raw[64 * 16 + vector // 8] |= 1 << vector % 8
    return device("0000:00:10.0/ivshmem-doorbell", msix=bytes(raw))


CASES = {
    "pending": (quiet(apic1=apic(1, irr=1 << 0x41)), Held(1, 3, At.PENDING)),
    "in service": (quiet(apic1=apic(1, isr=1 << 0x41)), Held(1, 3, At.IN_SERVICE)),
    "at a vCPU that it was not for": (quiet(apic0=apic(0, irr=1 << 0x41)), Held(0, 3, At.PENDING)),
    "a vector that no source has": (quiet(apic0=apic(0, irr=1 << 0x77)), Held(0, 0x77, At.PENDING)),
    "masked at the device": (quiet(ivshmem=pending_bit(9)), Held(1, 3, At.DEVICE)),
    "remote IRR": (quiet(ioapic=ioapic(4, 0xC055)), Held(0, 70, At.REMOTE)),
    "masked line": (quiet(ioapic=ioapic(4, 0x18055, irr=1 << 4)), Held(0, 70, At.DEVICE)),
    "8259A": (quiet(pic0=device("i8259", 0, irr=1, imr=0xFE, isr=0)), Held(0, 71, At.PENDING)),
    "8259A masked": (quiet(pic0=device("i8259", 0, irr=1, imr=0xFF, isr=0)), Held(0, 71, At.DEVICE)),
    "8259A in service": (quiet(pic0=device("i8259", 0, irr=0, imr=0xFE, isr=1)), Held(0, 71, At.IN_SERVICE)),
    "NMI": (quiet(cpu1=device("cpu_common", 1, halted=0, interrupt_request=0x200)), Held(1, 72, At.VCPU)),
    "armed": (quiet(apic0=apic(0, lvt=0x62, expiry=5)), Held(0, 73, At.ARMED)),
    "armed, masked": (quiet(apic0=apic(0, lvt=0x10062, expiry=5)), None),
    "asleep": (quiet(cpu1=device("cpu_common", 1, halted=1, interrupt_request=0)), Held(1, 3, At.ASLEEP)),
}


@pytest.mark.parametrize(("state", "held"), CASES.values(), ids=CASES)
def test_what_is_under_way_is_read_from_the_sections(state: DeviceState, held: Held | None) -> None:
    assert held_on_wire(state, SOURCES) == ({held} if held else set())


def test_a_deadline_timer_is_armed_by_its_msr() -> None:
    cpu = device("cpu", 0, **{"env.tsc_deadline": 7})
    armed = replace(quiet(apic0=apic(0, lvt=0x40062)), devices=(*quiet(apic0=apic(0, lvt=0x40062)).devices, cpu))
    assert held_on_wire(armed, SOURCES) == {Held(0, 73, At.ARMED)}
    assert held_on_wire(quiet(apic0=apic(0, lvt=0x40062)), SOURCES) == set()


STRIKES = {
    Name.IRQ_CLEAR_PENDING: "pending",
    Name.IRQ_WRONG_VCPU: "pending",
    Name.IRQ_SET_PENDING: "pending",
    Name.IRQ_DROP_IN_SERVICE: "in service",
    Name.IRQ_DROP_MSIX: "masked at the device",
    Name.IRQ_DROP_LINE: "remote IRR",
    Name.IRQ_CLEAR_PIC: "8259A",
    Name.IRQ_DROP_NMI: "NMI",
    Name.IRQ_DISARM_TIMER: "armed",
    Name.IRQ_WAKE_HALTED: "asleep",
}


def edited(state: DeviceState, name: Name) -> DeviceState:
    """*state* after the first thing that the fault could do."""
    writes = {(write.device.label, write.field.path): write.raw for write in edits_of(name, state)[0].writes}

    def changed(one: Device, field: DeviceField) -> DeviceField:
        raw = writes.get((one.label, field.path), field.raw)
        value = int.from_bytes(raw, "big", signed=field.path == "timer_expiry")
        return replace(field, raw=raw, value=None if field.value is None else value)

    devices = (replace(one, fields=tuple(changed(one, field) for field in one.fields)) for one in state.devices)
    return replace(state, devices=tuple(devices))


@pytest.mark.parametrize(("name", "case"), STRIKES.items(), ids=str)
def test_a_fault_changes_what_is_read_and_nothing_else(name: Name, case: str) -> None:
    state, held = CASES[case]
    assert held
    before, after = held_on_wire(state, SOURCES), held_on_wire(edited(state, name), SOURCES)
    if name is Name.IRQ_SET_PENDING:
        assert len(after - before) == 1
        assert after > before
    else:
        assert held not in after
    if name is Name.IRQ_WRONG_VCPU:
        assert after == {Held(0, 3, At.PENDING)}


def test_a_fault_without_a_target_does_nothing() -> None:
    pc_faults = [name for name in EDITS if name in STRIKES]
    assert pc_faults
    assert all(edits_of(name, quiet()) == [] for name in pc_faults)


def test_a_pin_of_the_8259a_that_could_be_set() -> None:
    state = quiet(pic0=device("i8259", 0, irr=0, imr=0xEE, isr=1))
    assert [edit.what for edit in edits_of(Name.IRQ_SET_PIC, state)] == ["i8259/0 irr 4"]


LAPIC = """dumping local APIC state for CPU 0

LVT0\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)
ISR\t 60
IRR\t 65 66(level) 225

APR 0x00 TPR 0x00 DFR 0x0f LDR 0x00 PPR 0x30
"""
PIC = """pic0: irr=11 imr=ef isr=01 hprio=0 irq_base=20 rr_sel=0 elcr=00 fnm=0
pic1: irr=00 imr=ff isr=00 hprio=0 irq_base=28 rr_sel=0 elcr=0c fnm=0
ioapic0: ver=0x20 id=0x00 sel=0x16
  pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical
  pin 1  0x000000000000c055 dest=0 vec=85  active-hi level        fixed  physical
  IRR      4 21
  Remote IRR 1
"""


def test_the_monitors_words_are_read() -> None:
    lapic = parse_lapic(0, LAPIC)
    assert (lapic.pending, lapic.in_service) == ({65, 66, 225}, {60})
    assert parse_lapic(0, LAPIC.replace("\t 60", "\t (none)")).in_service == set()
    lines = parse_pic(PIC)
    assert (lines.pic_irr, lines.pic_imr, lines.pic_isr) == ((0x11, 0), (0xEF, 0xFF), (1, 0))
    assert lines.pins == (0x10000, 0xC055)
    assert lines.up == {4, 21}


SCENARIOS = {
    "msi": x86_scenarios.msi_pending,
    "msix": x86_scenarios.msix_mask,
    "hlt": x86_scenarios.hlt_wake,
    "ipi": x86_scenarios.ipi_pending,
    "timer": x86_scenarios.timer,
    "deadline": x86_scenarios.timer_deadline,
    "x2apic": x86_scenarios.x2apic,
    "ioapic": x86_scenarios.ioapic,
    "legacy": x86_scenarios.legacy,
    "storm": lambda rng, vcpus: storm_scenario(rng, vcpus, Arch.X86_64),
}


@pytest.mark.parametrize("vcpus", [1, 2, 4, 8])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_of_any_seed_makes_sense(name: str, vcpus: int) -> None:
    for seed in range(40):
        scenario: Scenario = SCENARIOS[name](Random(seed), vcpus)
        ids = [source.id for source in scenario.sources]
        raised = {one for ids_at in scenario.raised.values() for one in ids_at}
        vectors = [source.priority for source in scenario.sources if source.priority]
        assert len(set(ids)) == len(ids)
        assert len(set(vectors)) == len(vectors)
        assert all(vector in x86_scenarios.VECTORS for vector in vectors)
        assert all(source.vcpu < vcpus for source in scenario.sources)
        assert {*raised, *scenario.taken, *scenario.armed, *scenario.unmask, *scenario.storm} <= set(ids)
        assert scenario.planned or scenario.storm
        assert all((source.id < DOORBELL_IDS) == (source.kind is SourceKind.DOORBELL) for source in scenario.sources)
        late = {*scenario.raised.get(Moment.STOPPED, ()), *scenario.raised.get(Moment.LOADED, ())}
        assert all(one < DOORBELL_IDS for one in late)
        held = [hold.vcpu_mask for hold in scenario.holds]
        assert sum(held) < 1 << vcpus
        off = sum(hold.vcpu_mask for hold in scenario.holds if hold.kind is not Hold.SLEEP)
        pending = [one for one in scenario.planned if one.at is At.PENDING]
        assert all(off >> one.vcpu & 1 for one in pending)
