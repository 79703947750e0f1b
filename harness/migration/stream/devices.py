"""Decodes the device sections along the description that follows them: every byte of them has to be accounted for.

What a section holds says nothing of where it stands, so bytes that came before under the same description are not
decoded again: a guest's destination holds what its source sent, but for a few devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from harness.migration.stream.arm_registers import SECTION, with_named_registers
from harness.migration.stream.cursor import Cursor, NeedMoreError
from harness.migration.stream.description import DevicePlan, FieldStep, Plan, SubsectionStep, compiled
from harness.migration.stream.elements import Tail
from harness.migration.stream.format import SectionType
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.errors import StreamError

_DESCRIPTION_HEAD = 5
"""Bytes of the description's mark and length."""
_SECTION_HEAD = 1 + 4 + 1 + 4 + 4
"""Bytes of a section's mark, id, length of the name, instance and version."""
_KEPT = 256
"""Sections, of some machines' 40 devices each."""


@dataclass(frozen=True, slots=True)
class _Body:
    """What a section holds between its head and its footer."""

    fields: tuple[DeviceField, ...]
    subsections: tuple[str, ...]


def decode_tail(tail: Tail, *, machine: str = "") -> DeviceState:
    """All devices of *tail*. Without a description: no devices and the note why. Raises StreamError on damage."""
    if tail.description_at is None:
        return DeviceState(machine=machine, note=tail.note)
    cursor = Cursor(memoryview(tail.data), 0, tail.description_at, base=tail.offset)
    plan = _plan(tail, tail.description_at)
    if plan.broken:
        raise cursor.error(plan.broken)
    try:
        devices = tuple(_device(cursor, described) for described in plan.devices)
        _expect(cursor, SectionType.EOF, "the end of the device sections")
    except NeedMoreError:
        raise cursor.error("device sections are shorter than their description") from None
    if cursor.left_bytes:
        raise cursor.error(f"{cursor.left_bytes} bytes that no device describes")
    return DeviceState(machine=machine, devices=devices)


def _plan(tail: Tail, at: int) -> Plan:
    try:
        return compiled(bytes(tail.data[at + _DESCRIPTION_HEAD :]), at)
    except (ValueError, RecursionError) as error:
        reason = f"the description of the devices is no JSON ({error})"
        raise StreamError(reason, offset=tail.offset + at) from None


def _device(cursor: Cursor, plan: DevicePlan) -> Device:
    offset = cursor.offset
    _expect(cursor, SectionType.FULL, f"section of device {plan.name}")
    section_id, name = cursor.u32(), cursor.str8("device name")
    instance_id, version = cursor.u32(), cursor.u32()
    if (name, instance_id) != (plan.name, plan.instance_id):
        raise cursor.error(f"section {name}/{instance_id} is described as {plan.name}")
    body = _body_at(cursor, plan)
    _footer(cursor, section_id)
    return Device(
        name=name,
        instance_id=instance_id,
        vmsd=plan.vmsd,
        version=version,
        subsections=body.subsections,
        fields=body.fields,
        offset=offset,
        size_bytes=cursor.offset - offset,
    )


def _body_at(cursor: Cursor, plan: DevicePlan) -> _Body:
    start = cursor.pos
    try:
        return _known_body(plan, bytes(cursor.take(plan.body_bytes)))
    except (NeedMoreError, StreamError):
        cursor.pos = start
        return _body(cursor, plan)  # raises as well, and names the place in this stream


@lru_cache(maxsize=_KEPT)
def _known_body(plan: DevicePlan, raw: bytes) -> _Body:
    return _body(Cursor(memoryview(raw), 0, len(raw), base=_SECTION_HEAD + len(plan.name)), plan)


def _body(cursor: Cursor, plan: DevicePlan) -> _Body:
    fields: list[DeviceField] = []
    subsections: list[str] = []
    for step in plan.steps:
        if isinstance(step, FieldStep):
            fields.append(_field(cursor, step))
        elif isinstance(step, SubsectionStep):
            _subsection(cursor, step)
            subsections.append(step.path)
        else:
            raise cursor.error(step.message)
    named = with_named_registers(fields) if plan.name == SECTION else fields
    return _Body(tuple(named), tuple(subsections))


def _field(cursor: Cursor, step: FieldStep) -> DeviceField:
    offset = cursor.offset
    raw = bytes(cursor.take(step.size))
    value = int.from_bytes(raw, "big", signed=step.is_signed) if step.is_integer else None
    return DeviceField(path=step.path, type=step.type, raw=raw, value=value, offset=offset)


def _subsection(cursor: Cursor, step: SubsectionStep) -> None:
    _expect(cursor, SectionType.SUBSECTION, f"subsection {step.name}")
    name = cursor.str8("subsection name")
    cursor.u32()
    if name != step.name:
        raise cursor.error(f"subsection {name} is described as {step.name}")


def _footer(cursor: Cursor, section_id: int) -> None:
    # Absent with -global migration.send-section-footer=off.
    if cursor.peek_u8() != SectionType.FOOTER:
        return
    cursor.u8()
    if (found := cursor.u32()) != section_id:
        raise cursor.error(f"footer of section {found}, expected {section_id}")


def _expect(cursor: Cursor, kind: SectionType, what: str) -> None:
    if (found := cursor.u8()) != kind:
        raise cursor.error(f"expected {what}, found {found:#04x}")
