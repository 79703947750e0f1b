"""Decodes the device sections with the description that follows them.

The description (JSON, written by migration/vmstate.c and savevm.c) gives every field's name, type and size in the
order of the wire. It is checked, not trusted: every byte from the first section to EOF has to be accounted for.
"""

from __future__ import annotations

import json
from typing import Any

from harness.migration.stream.arm_registers import with_named_registers
from harness.migration.stream.cursor import Cursor, NeedMoreError
from harness.migration.stream.elements import Tail
from harness.migration.stream.format import SectionType
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.errors import StreamError

INTEGER_TYPES = frozenset(
    {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "timer"},
) | {f"{kind} {suffix}" for kind in ("int32", "uint8", "uint16", "uint32", "uint64") for suffix in ("equal", "le")}
SIGNED_TYPES = frozenset({"int8", "int16", "int32", "int64", "timer"})
MAX_ITEMS_AS_FIELDS = 256
"""A longer array of plain items is one field, as a buffer is (ICH9's and vmmouse's queues have thousands of items)."""
MAX_FIELDS = 1 << 20
MAX_DEPTH = 32


def decode_tail(tail: Tail, *, machine: str = "") -> DeviceState:
    """All devices of *tail*. Without a description: no devices and the note why. Raises StreamError on damage."""
    if tail.description_at is None:
        return DeviceState(machine=machine, note=tail.note)
    walker = _Walker(tail)
    return DeviceState(machine=machine, devices=walker.devices())


class _Walker:
    """One forward walk over the sections, along the description."""

    def __init__(self, tail: Tail) -> None:
        assert tail.description_at is not None
        self._cursor = Cursor(memoryview(tail.data), 0, tail.description_at, base=tail.offset)
        self._described = _description(tail)
        self._fields: list[DeviceField] = []
        self._subsections: list[str] = []

    def devices(self) -> tuple[Device, ...]:
        try:
            devices = tuple(self._device(entry) for entry in _objects(self._described, "devices", self._cursor))
            self._expect(SectionType.EOF, "the end of the device sections")
        except NeedMoreError:
            raise self._cursor.error("device sections are shorter than their description") from None
        if self._cursor.left_bytes:
            raise self._cursor.error(f"{self._cursor.left_bytes} bytes that no device describes")
        return devices

    def _expect(self, kind: SectionType, what: str) -> None:
        if (found := self._cursor.u8()) != kind:
            raise self._cursor.error(f"expected {what}, found {found:#04x}")

    def _device(self, entry: dict[str, Any]) -> Device:
        cursor = self._cursor
        offset = cursor.offset
        self._expect(SectionType.FULL, f"section of device {entry.get('name')}")
        section_id, name = cursor.u32(), cursor.str8("device name")
        instance_id, version = cursor.u32(), cursor.u32()
        if (name, instance_id) != (entry.get("name"), entry.get("instance_id")):
            raise cursor.error(f"section {name}/{instance_id} is described as {entry.get('name')}")
        self._fields, self._subsections = [], []
        self._struct(entry, "", 0)
        self._footer(section_id)
        return Device(
            name=name,
            instance_id=instance_id,
            vmsd=str(entry.get("vmsd_name", "")),
            version=version,
            subsections=tuple(self._subsections),
            fields=tuple(with_named_registers(self._fields)),
            offset=offset,
            size_bytes=cursor.offset - offset,
        )

    def _footer(self, section_id: int) -> None:
        # Absent with -global migration.send-section-footer=off.
        if self._cursor.peek_u8() != SectionType.FOOTER:
            return
        self._cursor.u8()
        if (found := self._cursor.u32()) != section_id:
            raise self._cursor.error(f"footer of section {found}, expected {section_id}")

    def _struct(self, entry: dict[str, Any], prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self._cursor.error("description nests too deep")
        previous: dict[str, Any] = {}
        for member in _objects(entry, "fields", self._cursor):
            previous = _with_index(member, previous)
            self._member(previous, prefix, depth)
        for subsection in _objects(entry, "subsections", self._cursor):
            self._subsection(subsection, prefix, depth)

    def _subsection(self, entry: dict[str, Any], prefix: str, depth: int) -> None:
        self._expect(SectionType.SUBSECTION, f"subsection {entry.get('vmsd_name')}")
        name = self._cursor.str8("subsection name")
        self._cursor.u32()
        if name != entry.get("vmsd_name"):
            raise self._cursor.error(f"subsection {name} is described as {entry.get('vmsd_name')}")
        path = f"{prefix.removesuffix('.')}{'/' if prefix else ''}{name}"
        self._subsections.append(path)
        self._struct(entry, f"{path}:", depth + 1)

    def _member(self, member: dict[str, Any], prefix: str, depth: int) -> None:
        path = f"{prefix}{member.get('name', '?')}"
        if "array_len" in member and self._is_long_array(member):
            self._long_array(member, path)
        elif "array_len" in member:
            for index in range(self._count(member)):
                self._value(member, f"{path}[{index}]", depth)
        elif "index" in member:
            self._value(member, f"{path}[{member['index']}]", depth)
        else:
            self._value(member, path, depth)

    def _is_long_array(self, member: dict[str, Any]) -> bool:
        return "struct" not in member and self._count(member) > MAX_ITEMS_AS_FIELDS

    def _long_array(self, member: dict[str, Any], path: str) -> None:
        count, size = self._count(member), _integer(member, "size", self._cursor)
        self._fields.append(self._field({"type": f"{member.get('type', '')}[{count}]"}, path, count * size))

    def _count(self, member: dict[str, Any]) -> int:
        count = _integer(member, "array_len", self._cursor)
        if count > MAX_FIELDS:
            raise self._cursor.error(f"array of {count} items")
        return count

    def _value(self, member: dict[str, Any], path: str, depth: int) -> None:
        size = _integer(member, "size", self._cursor)
        nested = member.get("struct")
        if isinstance(nested, dict):
            start = self._cursor.pos
            self._struct(nested, f"{path}.", depth + 1)
            if self._cursor.pos - start != size:
                raise self._cursor.error(f"{path} took {self._cursor.pos - start} bytes, described with {size}")
            return
        if len(self._fields) >= MAX_FIELDS:
            raise self._cursor.error("more fields than any device has")
        self._fields.append(self._field(member, path, size))

    def _field(self, member: dict[str, Any], path: str, size: int) -> DeviceField:
        offset = self._cursor.offset
        raw = bytes(self._cursor.take(size))
        kind = str(member.get("type", ""))
        value = int.from_bytes(raw, "big", signed=kind in SIGNED_TYPES) if kind in INTEGER_TYPES else None
        return DeviceField(path=path, type=kind, raw=raw, value=value, offset=offset)


def _with_index(member: dict[str, Any], previous: dict[str, Any]) -> dict[str, Any]:
    """*member*; with an index where QEMU 10.0 leaves it out, at the last item of an array that it does not compress."""
    before = previous.get("index")
    if "index" in member or "array_len" in member or member.get("name") != previous.get("name"):
        return member
    return {**member, "index": before + 1} if isinstance(before, int) else member


def _description(tail: Tail) -> dict[str, Any]:
    assert tail.description_at is not None
    offset = tail.offset + tail.description_at
    try:
        found = json.loads(tail.data[tail.description_at + 5 :])
    except (ValueError, RecursionError) as error:
        raise StreamError(f"the description of the devices is no JSON ({error})", offset=offset) from None
    if not isinstance(found, dict):
        raise StreamError("the description of the devices is no object", offset=offset)
    return found


def _objects(entry: dict[str, Any], key: str, cursor: Cursor) -> list[dict[str, Any]]:
    found = entry.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise cursor.error(f"description: {key} is no list of objects")
    return found


def _integer(entry: dict[str, Any], key: str, cursor: Cursor) -> int:
    found = entry.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise cursor.error(f"description: {key} of {entry.get('name')} is no size: {found!r}")
    return found
