"""Registers of an ES guest: out of the device sections on the source, back into them on the destination.

The VMSA holds all that the CPU saves and loads by itself. What is listed as the host's stays in the ``cpu`` sections,
as KVM goes on to read and write it from outside. Everything else is zero on the wire.

The page that is sealed is no real VMSA (its layout is the CPU's, ours is the order of QEMU's fields)::

    4s "CVVS"   u16 version   u16 0   u32 fields   u32 length   fields as on the wire   zeros up to whole pages
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from fnmatch import fnmatchcase, translate
from functools import lru_cache

from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import Tail
from harness.model.device_state import Device, DeviceField
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SIZE

AUXILIARY = {"env.cr[[]0]": 0x60000010, "env.cr[[]4]": 0, "env.efer": 0}
"""What KVM takes from userspace for a protected vCPU too, with reset values (openEuler arch/x86/kvm/x86.c,
__set_sregs_common). apic_base and cr8 are of that list as well; QEMU keeps them in the ``apic`` section."""

HOSTS = (
    *AUXILIARY,
    # mp_state: KVM_GET_MP_STATE, a host's affair (AP_RESET_HOLD); a20 and smbase belong to the machine.
    "env.mp_state",
    "env.a20_mask",
    "env.smbase",
    # KVM_GET_VCPU_EVENTS: what is to be injected at the next entry.
    "env.interrupt_injected",
    "env.exception_nr",
    "env.soft_interrupt",
    "env.nmi_*",
    "env.has_error_code",
    "env.sipi_vector",
    "cpu/exception_info:*",
    # MSRs that KVM emulates: memory types, machine checks, clocks, and those of the paravirtual interface.
    "env.mtrr_*",
    "env.mcg_*",
    "env.mce_banks*",
    "env.tsc",
    "env.system_time_msr",
    "env.wall_clock_msr",
    "cpu/tsc_*",
    "cpu/msr_tsc*",
    "cpu/async_pf*",
    "cpu/steal_time*",
    "cpu/pv_eoi*",
    "cpu/poll_control*",
    # What an L1 hypervisor asked of nested virtualisation; KVM keeps it outside of the VMSA.
    "env.vm_hsave",
    "env.vm_vmcb",
    "env.tsc_offset",
    "env.intercept*",
    "env.v_tpr",
    "cpu/svm*",
    "cpu/nested*",
    # Says in which form the FPU registers follow, and is no register.
    "env.fpregs_format_vmstate",
)
"""Fields that stay, as globs over field paths."""
_IS_HOSTS = re.compile("|".join(map(translate, HOSTS)))

_CPU = "cpu"
_AUX_FIELDS = {
    ("cpu", "env.cr[0]"): "cr0",
    ("cpu", "env.cr[4]"): "cr4",
    ("cpu", "env.efer"): "efer",
    ("apic", "apicbase"): "apic_base",
    ("apic", "tpr"): "cr8",
}
_APIC_TPR = ("apic", "tpr")
_HEAD = struct.Struct("<4sHHII")
_MAGIC, _VERSION = b"CVVS", 1


def strip(tail: Tail) -> tuple[bytes, dict[int, bytes]]:
    """The device sections without registers, and by vCPU (QEMU's cpu_index) the registers as whole pages.

    Raises StreamError when the sections are not described.
    """
    data = bytearray(tail.data)
    taken: dict[int, bytes] = {}
    for device in _devices(tail, _CPU):
        fields = _registers(device)
        taken[device.instance_id] = _pack(fields)
        for field in fields:
            _put(data, tail, device, field, bytes(field.size_bytes))
    return bytes(data), taken


def restore(tail: Tail, registers: Mapping[int, bytes]) -> bytes:
    """The device sections with *registers* (as :func:`strip` gave them) put back; a vCPU without any keeps zeros.

    Raises StreamError for registers of a vCPU that is not there, or that do not fit its section.
    """
    data = bytearray(tail.data)
    cpus = {device.instance_id: device for device in _devices(tail, _CPU)}
    for vcpu, pages in registers.items():
        if vcpu not in cpus:
            raise StreamError(f"registers of vCPU {vcpu}, which has no section", offset=tail.offset)
        device = cpus[vcpu]
        fields = _registers(device)
        content, at = _unpack(pages, fields, tail.offset), 0
        for field in fields:
            _put(data, tail, device, field, content[at : at + field.size_bytes])
            at += field.size_bytes
    return bytes(data)


def auxiliary(tail: Tail) -> dict[int, dict[str, int]]:
    """By vCPU the registers that the host knows: apic_base, cr0, cr4, cr8, efer. Raises StreamError as strip()."""
    found: dict[int, dict[str, int]] = {}
    for device in _all_devices(tail):
        for field in device.fields:
            name = _AUX_FIELDS.get((device.name, field.path))
            if name is not None and field.value is not None:
                # cr8 is the upper half of the task priority.
                value = field.value >> 4 if name == "cr8" else field.value
                found.setdefault(device.instance_id, {})[name] = value
    return found


def forget_auxiliary(tail: Tail, sections: bytes) -> bytes:
    """*sections*, which is *tail* restored, with reset values in cr0, cr4, efer and cr8: class B27."""
    data = bytearray(sections)
    for device in _devices(tail, _CPU):
        for field in device.fields:
            value = next((value for glob, value in AUXILIARY.items() if fnmatchcase(field.path, glob)), None)
            if value is not None:
                _put(data, tail, device, field, value.to_bytes(field.size_bytes, "big"))
    name, path = _APIC_TPR
    for device in _devices(tail, name):
        for field in device.fields:
            if field.path == path:
                _put(data, tail, device, field, bytes(field.size_bytes))
    return bytes(data)


def _devices(tail: Tail, name: str) -> list[Device]:
    return [device for device in _all_devices(tail) if device.name == name]


@lru_cache(maxsize=1)
def _all_devices(tail: Tail) -> tuple[Device, ...]:
    """Decoded once for all that is asked of one tail: the VM stands still meanwhile, and it takes milliseconds."""
    if tail.description_at is None:
        hint = "registers of a protected guest cannot be told from the rest without it"
        raise StreamError("the device sections have no description", offset=tail.offset, hint=hint)
    return decode_tail(tail).devices


def _registers(device: Device) -> list[DeviceField]:
    return [field for field in device.fields if not _IS_HOSTS.match(field.path)]


def _pack(fields: list[DeviceField]) -> bytes:
    content = b"".join(field.raw for field in fields)
    page = _HEAD.pack(_MAGIC, _VERSION, 0, len(fields), len(content)) + content
    return page + bytes(-len(page) % PAGE_SIZE)


def _unpack(pages: bytes, fields: list[DeviceField], offset: int) -> bytes:
    magic, version, _, count, length = _HEAD.unpack_from(pages.ljust(_HEAD.size, b"\0"))
    expected = (_MAGIC, _VERSION, len(fields), sum(field.size_bytes for field in fields))
    if (magic, version, count, length) != expected or len(pages) < _HEAD.size + length:
        raise StreamError("the registers of a vCPU do not fit its section", offset=offset, hint="another QEMU?")
    return pages[_HEAD.size : _HEAD.size + length]


def _put(data: bytearray, tail: Tail, device: Device, field: DeviceField, raw: bytes) -> None:
    at = device.offset - tail.offset + field.offset
    data[at : at + field.size_bytes] = raw
