"""Faults of interrupt state on the wire: which bits of which device sections each of them changes.

Pure: the description of the devices in, places and new bytes out. A fault lists all that it could do; one is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from harness.migration.relay.edits import InterruptEdit, Write, changed, field_of, number_of
from harness.migration.relay.gic_edits import gic_edits_of
from harness.migration.stream.x86_interrupts import (
    CPU_INTERRUPT_NMI,
    FIRST_VECTOR,
    IOAPIC_MASKED,
    LAST_VECTOR,
    REMOTE_IRR,
    msix_pending_bytes,
)
from harness.model.device_state import Device, DeviceState
from harness.model.wire import WireFaultName as Name

_CASCADE = 2
"""Input of the master 8259A that the slave is wired to."""


def edits_of(name: Name, state: DeviceState) -> list[InterruptEdit]:
    """All that the fault *name* could do to *state*; empty where it has no target."""
    return [*EDITS[name](state), *gic_edits_of(name, state)]


def _clear_pending(state: DeviceState) -> Iterator[InterruptEdit]:
    return _clear(state, "irr")


def _drop_in_service(state: DeviceState) -> Iterator[InterruptEdit]:
    return _clear(state, "isr")


def _clear(state: DeviceState, register: str) -> Iterator[InterruptEdit]:
    for apic in _named(state, "apic"):
        for vector in _vectors(apic, register):
            yield InterruptEdit(what=f"{apic.label} {register} {vector:#x}", writes=(_flip(apic, register, vector),))


def _set_pending(state: DeviceState) -> Iterator[InterruptEdit]:
    for apic in _named(state, "apic"):
        taken = {*_vectors(apic, "irr"), *_vectors(apic, "isr")}
        for vector in range(FIRST_VECTOR, LAST_VECTOR + 1):
            if taken and vector not in taken:
                yield InterruptEdit(what=f"{apic.label} irr {vector:#x}", writes=(_flip(apic, "irr", vector),))


def _wrong_vcpu(state: DeviceState) -> Iterator[InterruptEdit]:
    apics = _named(state, "apic")
    for apic in apics:
        for other in apics:
            for vector in set(_vectors(apic, "irr")) - set(_vectors(other, "irr")):
                writes = (_flip(apic, "irr", vector), _flip(other, "irr", vector))
                yield InterruptEdit(what=f"irr {vector:#x} of {apic.label} to {other.label}", writes=writes)


def _disarm_timer(state: DeviceState) -> Iterator[InterruptEdit]:
    for apic in _named(state, "apic"):
        expiry, entry = field_of(apic, "timer_expiry"), number_of(apic, "lvt[0]")
        if expiry and number_of(apic, "timer_expiry") >= 0 and FIRST_VECTOR <= entry & 0xFF <= LAST_VECTOR:
            never = b"\xff" * expiry.size_bytes
            yield InterruptEdit(what=f"{apic.label} timer", writes=(Write(device=apic, field=expiry, raw=never),))


def _drop_msix(state: DeviceState) -> Iterator[InterruptEdit]:
    for device in state.devices:
        for field in device.fields:
            if field.type != "msix state":
                continue
            start = field.size_bytes - len(msix_pending_bytes(field))
            for bit in range((field.size_bytes - start) * 8):
                if field.raw[start + bit // 8] >> bit % 8 & 1:
                    raw = bytearray(field.raw)
                    raw[start + bit // 8] ^= 1 << bit % 8
                    yield InterruptEdit(
                        what=f"{device.label} pending bit {bit}",
                        writes=(Write(device=device, field=field, raw=bytes(raw)),),
                    )


def _drop_line(state: DeviceState) -> Iterator[InterruptEdit]:
    for ioapic in _named(state, "ioapic"):
        up = number_of(ioapic, "irr")
        for pin in range(24):
            entry = number_of(ioapic, f"ioredtbl[{pin}]")
            if entry & REMOTE_IRR:
                yield changed(ioapic, f"ioredtbl[{pin}]", entry ^ REMOTE_IRR, f"remote IRR of pin {pin}")
            if up >> pin & 1 and entry & IOAPIC_MASKED:
                yield changed(ioapic, "irr", up ^ 1 << pin, f"line of pin {pin}")


def _clear_pic(state: DeviceState) -> Iterator[InterruptEdit]:
    for pic in _named(state, "i8259"):
        irr, imr = number_of(pic, "irr"), number_of(pic, "imr")
        for line in range(8):
            if irr & ~imr & 1 << line:
                yield changed(pic, "irr", irr ^ 1 << line, f"irr {line}")


def _set_pic(state: DeviceState) -> Iterator[InterruptEdit]:
    for pic in _named(state, "i8259"):
        irr, imr, isr = (number_of(pic, name) for name in ("irr", "imr", "isr"))
        for line in range(8):
            if not (irr | imr | isr) & 1 << line and line != _CASCADE:
                yield changed(pic, "irr", irr | 1 << line, f"irr {line}")


def _drop_nmi(state: DeviceState) -> Iterator[InterruptEdit]:
    for cpu in _named(state, "cpu_common"):
        request = number_of(cpu, "interrupt_request")
        if request & CPU_INTERRUPT_NMI:
            yield changed(cpu, "interrupt_request", request ^ CPU_INTERRUPT_NMI, "NMI")


def _wake_halted(state: DeviceState) -> Iterator[InterruptEdit]:
    for cpu in _named(state, "cpu_common"):
        if number_of(cpu, "halted"):
            yield changed(cpu, "halted", 0, "halted")


EDITS: Mapping[Name, Callable[[DeviceState], Iterator[InterruptEdit]]] = MappingProxyType(
    {
        Name.IRQ_CLEAR_PENDING: _clear_pending,
        Name.IRQ_SET_PENDING: _set_pending,
        Name.IRQ_WRONG_VCPU: _wrong_vcpu,
        Name.IRQ_DROP_IN_SERVICE: _drop_in_service,
        Name.IRQ_DROP_MSIX: _drop_msix,
        Name.IRQ_DROP_LINE: _drop_line,
        Name.IRQ_CLEAR_PIC: _clear_pic,
        Name.IRQ_SET_PIC: _set_pic,
        Name.IRQ_DROP_NMI: _drop_nmi,
        Name.IRQ_DISARM_TIMER: _disarm_timer,
        Name.IRQ_WAKE_HALTED: _wake_halted,
    }
)


def _named(state: DeviceState, name: str) -> list[Device]:
    return [device for device in state.devices if device.name == name]


def _vectors(apic: Device, register: str) -> list[int]:
    words = [number_of(apic, f"{register}[{word}]") for word in range(8)]
    return [vector for vector in range(FIRST_VECTOR, LAST_VECTOR + 1) if words[vector // 32] >> vector % 32 & 1]


def _flip(apic: Device, register: str, vector: int) -> Write:
    field = field_of(apic, f"{register}[{vector // 32}]")
    assert field is not None
    value = (field.value or 0) ^ 1 << vector % 32
    return Write(device=apic, field=field, raw=value.to_bytes(field.size_bytes, "big"))
