"""What a VM's devices and vCPUs hold, field by field, as a saved stream and its description tell it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceField:
    """One field of one device."""

    path: str
    """Where it stands: ``env.regs[3]``, ``gpe.sts[0]``; a field of a subsection is ``SUBSECTION:path``."""
    type: str
    """QEMU's own word: ``uint32``, ``bool``, ``timer``, ``buffer``, ``nullptr`` ..."""
    raw: bytes = field(repr=False)
    """Its bytes on the wire."""
    value: int | None = None
    """The number, where the type is a big-endian integer."""
    offset: int = field(default=0, compare=False)
    """Of its first byte, from the first byte of its device's section."""

    @property
    def size_bytes(self) -> int:
        """Length on the wire."""
        return len(self.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device section."""

    name: str
    """The section's idstr: ``cpu``, ``apic``, ``0000:00:1f.0/ICH9LPC``."""
    instance_id: int
    vmsd: str
    """Name of its vmstate description; empty for old-style devices."""
    version: int
    subsections: tuple[str, ...] = ()
    """Paths of the subsections that are there."""
    fields: tuple[DeviceField, ...] = field(default=(), repr=False)
    offset: int = field(default=0, compare=False)
    """Offset of the section's first byte in the stream."""
    size_bytes: int = field(default=0, compare=False)
    """Length of the whole section on the wire, head and footer included."""

    @property
    def label(self) -> str:
        """Name and instance, ``cpu/0``: the same device in another stream has the same label."""
        return f"{self.name}/{self.instance_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """All devices of one stream, in its order."""

    machine: str
    devices: tuple[Device, ...] = ()
    note: str = ""
    """Why there are no devices, when the stream cannot be decoded."""

    def find(self, label: str) -> Device | None:
        """The device with this label."""
        return next((device for device in self.devices if device.label == label), None)
