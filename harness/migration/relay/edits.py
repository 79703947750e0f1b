"""What a fault does to device sections: new bytes for fields."""

from __future__ import annotations

from dataclasses import dataclass

from harness.model.device_state import Device, DeviceField


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """New bytes for one field."""

    device: Device
    field: DeviceField
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptEdit:
    """One thing that a fault can do."""

    what: str
    writes: tuple[Write, ...]


def field_of(device: Device, path: str) -> DeviceField | None:
    """The field at *path*."""
    return next((field for field in device.fields if field.path == path), None)


def number_of(device: Device, path: str) -> int:
    """Its number; 0 where there is no such field."""
    field = field_of(device, path)
    return field.value or 0 if field else 0


def changed(device: Device, path: str, value: int, what: str) -> InterruptEdit:
    """Another number in the field at *path*, which has to be there."""
    field = field_of(device, path)
    assert field is not None
    write = Write(device=device, field=field, raw=value.to_bytes(field.size_bytes, "big"))
    return InterruptEdit(what=f"{device.label} {what}", writes=(write,))
