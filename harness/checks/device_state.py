"""Compares the devices of two streams field by field: what the source sent, and what the destination has loaded.

The second stream is a save of the destination that has loaded the first and has not run. Both belong to the same moment
of the guest, so every field has to be the same but those that the table below names with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

from harness.checks.due_timers import due_timers
from harness.checks.volatile import VolatileField
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.errors import PreconditionError
from harness.model.verdict import Finding

CHECK = "state/devices"
SHOWN_BYTES = 8


RTC_TIME_BITS = MappingProxyType(dict.fromkeys((0, 2, 4, 6, 7, 8, 9, 0x32), 0xFF))
"""Seconds, minutes, hours, weekday, day, month, year, century; not the alarms between them (MC146818 data sheet)."""
RTC_STATUS_BITS = MappingProxyType({0x0A: 0x80, 0x0C: 0xF0})
"""Update in progress; IRQF, PF, AF and UF."""

_WAITING = "state/serial/tsr"
"""Sent when a transmitter waited for its host (tsr_retry in hw/char/serial.c)."""
_GOES_OUT = (
    "a byte that waited for the host's socket goes out as soon as it is loaded, also while the VM is stopped: "
    "serial_post_load watches the socket, which is writable at once"
)

VOLATILE = (
    *(
        VolatileField(device="serial/*", field=field, when_sent=_WAITING, reason=_GOES_OUT)
        for field in (f"{_WAITING}*", "state/serial/xmit_fifo*", "state/serial/thr_ipending*", "state.lsr")
    ),
    VolatileField(
        device="mc146818rtc/*",
        field="cmos_data",
        bits=MappingProxyType({**RTC_TIME_BITS, **RTC_STATUS_BITS}),
        reason="the RTC follows the host's clock, also while the VM is stopped: time of day, update-in-progress and "
        "update-ended flags are computed at each save (rtc_pre_save, rtc_update_timer)",
    ),
    VolatileField(
        device="mc146818rtc/*",
        field="update_timer",
        reason="when the next update of the RTC ends, on the host's clock",
    ),
    VolatileField(
        device="mc146818rtc/*",
        field="next_alarm_time",
        reason="computed anew on load from the host's clock, to the microsecond (check_update_timer in rtc_post_load)",
    ),
    VolatileField(
        device="mc146818rtc/*",
        field="*periodic_t*",
        reason="when the next periodic interrupt is due (periodic_timer, next_periodic_time), on the host's clock",
    ),
    VolatileField(
        device="kvmclock/*",
        field="clock",
        reason="under KVM each save reads the kernel's clock, which a destination gets only when it runs "
        "(kvmclock_pre_save and kvmclock_vm_state_change in hw/i386/kvm/clock.c)",
    ),
    VolatileField(
        device="pl031/*",
        field="tick_offset_vmstate",
        reason="Arm's RTC against the VM's clock, computed at each save from the host's, which goes on while the VM is "
        "stopped (pl031_pre_save in hw/rtc/pl031.c); the offset that counts is a field of its own, and compared",
    ),
    VolatileField(
        device="globalstate/*",
        field="*",
        reason="the run state's name at the moment of the save: running when it was sent, paused at a destination that "
        "waits; its layout changed between QEMU 7.2 and 10.0, in the same 100 bytes",
    ),
)
"""Found by experiment: q35 with 1 and 4 vCPUs, QEMU 7.2, 10.0 and across, with the PC's timers armed; Arm's virt with
1 to 8 vCPUs, 7.2 and 10.0."""


JUST_RESET = VolatileField(
    device="*serial/*",
    field="state.iir",
    bits=MappingProxyType({0: 0xC0}),
    reason="serial_reset clears IIR and leaves FCR as the guest had set it; a load sets IIR's FIFO bits from FCR "
    "(serial_post_load). Of a machine that was reset and has not run since; seen with QEMU 7.2 and 10.0",
)
"""Only for a machine that is reset while it stands still for its switch-over."""


def check_device_state(
    before: DeviceState, after: DeviceState, *, volatile: Sequence[VolatileField] = VOLATILE
) -> tuple[Finding, ...]:
    """Every difference between *before*, the stream that was loaded, and *after*, the destination's own save.

    Raises PreconditionError when one of them has no devices: nothing would be compared.
    """
    for state, side in ((before, "the source"), (after, "the destination")):
        if not state.devices:
            raise PreconditionError(f"no device of {side} can be compared: {state.note or 'the stream has none'}")
    volatile = (*volatile, *due_timers(before))
    others = {device.label: device for device in after.devices}
    labels = {device.label for device in before.devices}
    findings: list[Finding] = []
    for device in before.devices:
        other = others.get(device.label)
        findings += [_lost(device.label)] if other is None else _compare(device, other, volatile)
    findings += [_appeared(label) for label in others if label not in labels]
    return tuple(findings)


def _compare(before: Device, after: Device, volatile: Sequence[VolatileField]) -> Iterator[Finding]:
    allowed = [entry for entry in volatile if fnmatchcase(before.label, entry.device) and _applies(entry, before)]
    yield from _compare_shape(before, after, allowed)
    if before.fields is after.fields:
        return  # decoded once, from the same bytes
    for old, new in _pairs(before, after):
        if old is None or new is None:
            yield from _one_sided(before.label, old, new, allowed)
        elif old.raw != new.raw:
            yield from _differs(before.label, old, new, allowed)


def _applies(entry: VolatileField, sent: Device) -> bool:
    return not entry.when_sent or entry.when_sent in sent.subsections


def _compare_shape(before: Device, after: Device, allowed: Sequence[VolatileField]) -> Iterator[Finding]:
    if before.version != after.version:
        detail = f"section version {before.version} was sent, {after.version} is saved again"
        yield _finding("version", before.label, detail)
    for name in _missing(before.subsections, after.subsections):
        if any(entry.when_sent and fnmatchcase(name, entry.field) for entry in allowed):
            continue
        yield _finding("missing", f"{before.label} {name}", "the subsection was sent and is not saved again")
    for name in _missing(after.subsections, before.subsections):
        yield _finding("extra", f"{before.label} {name}", "the subsection was not sent and is saved now")


def _pairs(before: Device, after: Device) -> Iterable[tuple[DeviceField | None, DeviceField | None]]:
    """Fields of both sides that mean the same.

    Where the layout is the same the place counts, not the name: names in the description differ between QEMU versions
    (hpet's num_timers), and the wire is what both agree on.
    """
    if [field.size_bytes for field in before.fields] == [field.size_bytes for field in after.fields]:
        return zip(before.fields, after.fields, strict=True)
    old = {field.path: field for field in before.fields}
    new = {field.path: field for field in after.fields}
    return [(old.get(path), new.get(path)) for path in dict.fromkeys((*old, *new))]


def _differs(label: str, old: DeviceField, new: DeviceField, allowed: Sequence[VolatileField]) -> Iterator[Finding]:
    fitting = [entry for entry in allowed if fnmatchcase(old.path, entry.field)]
    if any(entry.bits is None for entry in fitting):
        return
    free = {index: mask for entry in fitting for index, mask in (entry.bits or {}).items()}
    size = max(len(old.raw), len(new.raw))
    bad = [index for index in range(size) if (_byte(old, index) ^ _byte(new, index)) & ~free.get(index, 0)]
    if bad:
        yield _finding("changed", f"{label} {old.path}", _detail(old, new, bad), remedy=_remedy(label))


def _byte(field: DeviceField, index: int) -> int:
    return field.raw[index] if index < len(field.raw) else -1


def _detail(old: DeviceField, new: DeviceField, bad: Sequence[int]) -> str:
    if old.value is not None and new.value is not None:
        return f"{old.type}: sent {old.value:#x}, the destination holds {new.value:#x}"
    if len(old.raw) != len(new.raw):
        return f"{old.type}: {len(old.raw)} bytes were sent, the destination holds {len(new.raw)}"
    first = bad[0]
    sent, held = old.raw[first : first + SHOWN_BYTES], new.raw[first : first + SHOWN_BYTES]
    return (
        f"{old.type}: {len(bad)} bytes differ from +{first:#x}: sent {sent.hex()}, the destination holds {held.hex()}"
    )


def _one_sided(
    label: str, old: DeviceField | None, new: DeviceField | None, allowed: Sequence[VolatileField]
) -> Iterator[Finding]:
    field = old or new
    assert field is not None
    if any(entry.bits is None and fnmatchcase(field.path, entry.field) for entry in allowed):
        return
    if old is not None:
        yield _finding("missing", f"{label} {field.path}", "the field was sent and is not saved again")
    else:
        yield _finding("extra", f"{label} {field.path}", "the field was not sent and is saved now")


def _missing(ours: Iterable[str], theirs: Iterable[str]) -> list[str]:
    present = set(theirs)
    return [name for name in ours if name not in present]


def _lost(label: str) -> Finding:
    return _finding("missing", label, "the device was sent and is not saved again", remedy=_remedy(label))


def _appeared(label: str) -> Finding:
    return _finding("extra", label, "the device was not sent and is saved now", remedy=_remedy(label))


def _finding(kind: str, where: str, detail: str, *, remedy: str = "") -> Finding:
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=remedy)


def _remedy(label: str) -> str:
    return f"compare the vmstate description of {label.rpartition('/')[0]} and its post_load with pre_save"
