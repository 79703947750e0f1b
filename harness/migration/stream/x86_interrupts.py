"""Interrupts under way in a PC, read out of the device sections of a stream.

Field names are those of QEMU's vmstate: hw/intc/apic_common.c, ioapic_common.c, i8259_common.c, hw/pci/msix.c (table,
then pending bits), and cpu_common (interrupt_request) in hw/core/cpu-common.c or its forerunners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.interrupts import At, Held, Source, SourceKind

SEES = frozenset({At.PENDING, At.IN_SERVICE, At.DEVICE, At.REMOTE, At.VCPU, At.ARMED, At.ASLEEP})
FIRST_VECTOR, LAST_VECTOR = 0x30, 0xDF
"""Vectors of sources; the probe's own are above."""
PIC_VECTORS = 0x20
REMOTE_IRR, IOAPIC_MASKED, LVT_MASKED = 1 << 14, 1 << 16, 1 << 16
CPU_INTERRUPT_NMI = 0x0200
"""CPU_INTERRUPT_TGT_EXT_3 (QEMU target/i386/cpu.h)."""
LVT_TSC_DEADLINE = 2 << 17
"""Mode of the APIC timer (Intel SDM volume 3, 11.5.1)."""
_MSIX_ENTRY_BYTES = 16
_BY_VECTOR = frozenset({SourceKind.DOORBELL, SourceKind.IPI, SourceKind.TIMER, SourceKind.LEVEL, SourceKind.EDGE})


def held_on_wire(state: DeviceState, sources: Sequence[Source]) -> frozenset[Held]:
    """Everything that is under way in *state*. A vector that none of *sources* has counts as a source of its number."""
    return frozenset(
        (
            *_apics(state, sources),
            *_msix(state, sources),
            *_ioapic(state, sources),
            *_pics(state, sources),
            *_nmis(state, sources),
            *_timers(state, sources),
            *_sleepers(state, sources),
        )
    )


def pin_of(source: Source) -> int:
    """ISA IRQ 0 is wired to pin 2 of the I/O APIC."""
    return 2 if source.line == 0 else source.line


def by_vector(sources: Sequence[Source], vector: int, vcpu: int) -> int:
    """The id of the source with that vector, preferably of that vCPU; the vector itself when there is none."""
    fitting = [source for source in sources if source.kind in _BY_VECTOR and source.number == vector]
    own = [source.id for source in fitting if source.vcpu == vcpu]
    return (own or [source.id for source in fitting] or [vector])[0]


def _apics(state: DeviceState, sources: Sequence[Source]) -> Iterator[Held]:
    for device in state.devices:
        if device.name != "apic":
            continue
        for name, at in (("irr", At.PENDING), ("isr", At.IN_SERVICE)):
            words = [_value(device, f"{name}[{word}]") for word in range(8)]
            for vector in range(FIRST_VECTOR, LAST_VECTOR + 1):
                if words[vector // 32] >> vector % 32 & 1:
                    yield Held(device.instance_id, by_vector(sources, vector, device.instance_id), at)


def msix_pending_bytes(field: DeviceField) -> bytes:
    """The pending bits of a field of type ``msix state``: a table of 16-byte entries, then one bit for each of them."""
    entries = field.size_bytes * 8 // (_MSIX_ENTRY_BYTES * 8 + 1)
    return field.raw[entries * _MSIX_ENTRY_BYTES :]


def _msix(state: DeviceState, sources: Sequence[Source]) -> Iterator[Held]:
    device = next((device for device in state.devices if device.name.endswith("/ivshmem-doorbell")), None)
    field = next((field for field in device.fields if field.type == "msix state"), None) if device else None
    if field is None:
        return
    pending = msix_pending_bytes(field)
    for source in sources:
        if source.kind is SourceKind.DOORBELL and pending[source.line // 8] >> source.line % 8 & 1:
            yield Held(source.vcpu, source.id, At.DEVICE)


def _ioapic(state: DeviceState, sources: Sequence[Source]) -> Iterator[Held]:
    device = next((device for device in state.devices if device.name == "ioapic"), None)
    if device is None:
        return
    up = _value(device, "irr")
    for source in sources:
        if source.kind is not SourceKind.LEVEL:
            continue
        entry = _value(device, f"ioredtbl[{pin_of(source)}]")
        if entry & REMOTE_IRR:
            yield Held(source.vcpu, source.id, At.REMOTE)
        if up >> pin_of(source) & 1 and entry & IOAPIC_MASKED:
            yield Held(source.vcpu, source.id, At.DEVICE)


def _pics(state: DeviceState, sources: Sequence[Source]) -> Iterator[Held]:
    for device in state.devices:
        if device.name != "i8259":
            continue
        for name, at in (("irr", At.PENDING), ("isr", At.IN_SERVICE)):
            bits, masked = _value(device, name), _value(device, "imr")
            for source in sources:
                if source.kind is not SourceKind.LEGACY or source.line // 8 != device.instance_id:
                    continue
                if bits >> source.line % 8 & 1:
                    is_masked = at is At.PENDING and masked >> source.line % 8 & 1
                    yield Held(source.vcpu, source.id, At.DEVICE if is_masked else at)


def _timers(state: DeviceState, sources: Sequence[Source]) -> Iterator[Held]:
    for device in state.devices:
        if device.name != "apic":
            continue
        entry = _value(device, "lvt[0]")
        if entry & LVT_TSC_DEADLINE:
            is_armed = _tsc_deadline(state, device.instance_id) != 0
        else:
            is_armed = _value(device, "timer_expiry") >= 0
        if not is_armed:
            continue
        for source in sources:
            is_it = source.kind is SourceKind.TIMER and (source.number, source.vcpu) == (
                entry & 0xFF,
                device.instance_id,
            )
            if is_it and not entry & LVT_MASKED:
                yield Held(source.vcpu, source.id, At.ARMED)


def _tsc_deadline(state: DeviceState, vcpu: int) -> int:
    """MSR_IA32_TSC_DEADLINE, whose subsection is sent when it is not 0 (target/i386/machine.c)."""
    cpu = state.find(f"cpu/{vcpu}")
    fields = cpu.fields if cpu else ()
    return next((field.value or 0 for field in fields if field.path.endswith("env.tsc_deadline")), 0)


def _sleepers(state: DeviceState, sources: Sequence[Source]) -> Iterator[Held]:
    for device in state.devices:
        if device.name == "cpu_common" and _value(device, "halted"):
            ids = [source.id for source in sources if source.vcpu == device.instance_id]
            yield from (Held(device.instance_id, source_id, At.ASLEEP) for source_id in ids[:1])


def _nmis(state: DeviceState, sources: Sequence[Source]) -> Iterator[Held]:
    waiting = {
        device.instance_id
        for device in state.devices
        if device.name == "cpu_common" and _value(device, "interrupt_request") & CPU_INTERRUPT_NMI
    }
    for vcpu in waiting:
        ids = [source.id for source in sources if source.kind is SourceKind.NMI and source.vcpu == vcpu]
        yield from (Held(vcpu, source_id, At.VCPU) for source_id in ids or [2])


def _value(device: Device, path: str) -> int:
    return next((field.value or 0 for field in device.fields if field.path == path), 0)
