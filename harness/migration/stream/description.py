"""The description behind the device sections, compiled to what a reader does step by step.

The description (JSON, written by migration/vmstate.c and savevm.c) gives every field's name, type and size in the order
of the wire. All that it says, it says without the data, so one that came before, as at every hop of the same machine,
is compiled once. It is checked, not trusted: where it makes no sense the reader stops, at the very place, and one that
tells of more than was sent is not followed further.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

INTEGER_TYPES = frozenset(
    {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "timer"},
) | {f"{kind} {suffix}" for kind in ("int32", "uint8", "uint16", "uint32", "uint64") for suffix in ("equal", "le")}
SIGNED_TYPES = frozenset({"int8", "int16", "int32", "int64", "timer"})
MAX_ITEMS_AS_FIELDS = 256
"""A longer array of plain items is one field, as a buffer is (ICH9's and vmmouse's queues have thousands of items)."""
MAX_FIELDS = 1 << 20
"""Of all devices together, and structs count too: an array of a million empty ones is read as fast as it is written."""
MAX_DEPTH = 32
_KEPT = 8
"""Descriptions; a machine has a few, which differ in the subsections that are there."""
_MARK_BYTES = 1 + 1 + 4
"""Of a subsection's head, beside its name: the mark, the name's length, the version."""


@dataclass(frozen=True, slots=True)
class FieldStep:
    """Take so many bytes."""

    path: str
    type: str
    size: int
    is_integer: bool
    is_signed: bool


@dataclass(frozen=True, slots=True)
class SubsectionStep:
    """Expect the head of a subsection."""

    name: Any
    """As described: text, unless the description is damaged."""
    path: str


@dataclass(frozen=True, slots=True)
class BrokenStep:
    """Here the description makes no sense. Always the last step."""

    message: str


Step = FieldStep | SubsectionStep | BrokenStep


@dataclass(frozen=True, slots=True, eq=False)
class DevicePlan:
    """One device section: its head as described, and the steps between head and footer. Equal to itself only."""

    name: Any
    instance_id: Any
    vmsd: str
    steps: tuple[Step, ...]
    body_bytes: int
    """What the steps take, up to where the description makes no sense."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All devices, in the order of the wire."""

    devices: tuple[DevicePlan, ...]
    broken: str = ""
    """Why there are none."""


class _NonsenseError(Exception):
    pass


class _EnoughError(Exception):
    """What is described is longer than what was sent: the reader will find that out."""


@lru_cache(maxsize=_KEPT)
def compiled(text: bytes, sent_bytes: int) -> Plan:
    """What *text* tells to do with *sent_bytes* of device sections, no further than they reach.

    Raises ValueError or RecursionError when it is no JSON.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        return Plan((), "the description of the devices is no object")
    try:
        entries = _objects(found, "devices")
    except _NonsenseError as nonsense:
        return Plan((), str(nonsense))
    compiler, devices = _Compiler(sent_bytes), []
    for entry in entries:
        devices.append(compiler.device(entry))
        if compiler.is_over:
            break
    return Plan(tuple(devices))


class _Compiler:
    """One forward walk over all devices' entries."""

    def __init__(self, sent_bytes: int) -> None:
        self.is_over = False
        self._steps: list[Step] = []
        self._sent_bytes = sent_bytes
        self._bytes = 0
        self._values = 0

    def device(self, entry: dict[str, Any]) -> DevicePlan:
        self._steps = []
        start = self._bytes
        try:
            self.struct(entry, "", 0)
        except _NonsenseError as nonsense:
            self._steps.append(BrokenStep(str(nonsense)))
            self.is_over = True
        except _EnoughError:
            self.is_over = True
        vmsd = str(entry.get("vmsd_name", ""))
        return DevicePlan(entry.get("name"), entry.get("instance_id"), vmsd, tuple(self._steps), self._bytes - start)

    def struct(self, entry: dict[str, Any], prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _NonsenseError("description nests too deep")
        previous: dict[str, Any] = {}
        for member in _objects(entry, "fields"):
            previous = _with_index(member, previous)
            self._member(previous, prefix, depth)
        for subsection in _objects(entry, "subsections"):
            self._subsection(subsection, prefix, depth)

    def _subsection(self, entry: dict[str, Any], prefix: str, depth: int) -> None:
        name = entry.get("vmsd_name")
        path = f"{prefix.removesuffix('.')}{'/' if prefix else ''}{name}"
        self._steps.append(SubsectionStep(name, path))
        self._bytes += _MARK_BYTES + len(str(name))
        self.struct(entry, f"{path}:", depth + 1)

    def _member(self, member: dict[str, Any], prefix: str, depth: int) -> None:
        path = f"{prefix}{member.get('name', '?')}"
        if "array_len" in member and self._is_long_array(member):
            count, size = _count(member), _integer(member, "size")
            self._field(f"{member.get('type', '')}[{count}]", path, count * size)
        elif "array_len" in member:
            for index in range(_count(member)):
                self._value(member, f"{path}[{index}]", depth)
        elif "index" in member:
            self._value(member, f"{path}[{member['index']}]", depth)
        else:
            self._value(member, path, depth)

    def _is_long_array(self, member: dict[str, Any]) -> bool:
        return "struct" not in member and _count(member) > MAX_ITEMS_AS_FIELDS

    def _value(self, member: dict[str, Any], path: str, depth: int) -> None:
        self._values += 1
        if self._values > MAX_FIELDS:
            raise _NonsenseError("more fields than any machine has")
        size = _integer(member, "size")
        nested = member.get("struct")
        if isinstance(nested, dict):
            start = self._bytes
            self.struct(nested, f"{path}.", depth + 1)
            if self._bytes - start != size:
                raise _NonsenseError(f"{path} took {self._bytes - start} bytes, described with {size}")
            return
        self._field(str(member.get("type", "")), path, size)

    def _field(self, kind: str, path: str, size: int) -> None:
        self._bytes += size
        self._steps.append(FieldStep(path, kind, size, kind in INTEGER_TYPES, kind in SIGNED_TYPES))
        if self._bytes > self._sent_bytes:
            raise _EnoughError


def _with_index(member: dict[str, Any], previous: dict[str, Any]) -> dict[str, Any]:
    """*member*; with an index where QEMU 10.0 leaves it out, at the last item of an array that it does not compress."""
    before = previous.get("index")
    if "index" in member or "array_len" in member or member.get("name") != previous.get("name"):
        return member
    return {**member, "index": before + 1} if isinstance(before, int) else member


def _count(member: dict[str, Any]) -> int:
    count = _integer(member, "array_len")
    if count > MAX_FIELDS:
        raise _NonsenseError(f"array of {count} items")
    return count


def _objects(entry: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = entry.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _NonsenseError(f"description: {key} is no list of objects")
    return found


def _integer(entry: dict[str, Any], key: str) -> int:
    found = entry.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise _NonsenseError(f"description: {key} of {entry.get('name')} is no size: {found!r}")
    return found
