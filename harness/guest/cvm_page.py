"""The cvm page of a protected guest, from its reply or out of its memory. Layout: images/probe/PROTOCOL.md."""

from __future__ import annotations

import struct
from dataclasses import fields

from harness.model.cvm_guest import ConversionStep, CvmGuest, CvmVcpu, InFlight, MigrationVariable, Phase
from harness.model.errors import ProtocolError
from harness.model.guest import RamLayout
from harness.model.memory import GpaRange
from harness.model.protection import ProtectionCounters

MAGIC = b"CVMIGCV1"
LAYOUT_VERSION = 1
PAGE_BYTES = 1024
_HEAD = struct.Struct("<8sIIQQIIIIQII")
_COUNTER_NAMES = tuple(field.name for field in fields(ProtectionCounters))
_COUNTERS = struct.Struct(f"<{len(_COUNTER_NAMES)}Q")
_REST = struct.Struct("<4Q")
_COUNTERS_AT = _HEAD.size
_REST_AT = _COUNTERS_AT + _COUNTERS.size
_LEAKED_AT = 256
_MAX_LEAKED = 16
_RANGE = struct.Struct("<QQ")
_VCPUS_AT = 512
_VCPU = struct.Struct("<QQIIQQ24x")
_MAX_VCPUS = 8


def read_cvm_page(ram: memoryview, layout: RamLayout, gpa: int) -> CvmGuest:
    """The cvm page at *gpa* of main memory *ram*. Raises ProtocolError where there is none, ValueError outside RAM.

    Of a running guest each figure is right, and two of them may be a moment apart.
    """
    at = layout.gpa_to_ram(gpa)
    return parse_cvm_page(gpa, bytes(ram[at : at + PAGE_BYTES]))


def parse_cvm_page(gpa: int, page: bytes) -> CvmGuest:
    """The cvm page that *page* (its first 1024 bytes) holds. Raises ProtocolError."""
    if len(page) < PAGE_BYTES:
        raise ProtocolError(f"a cvm page of {len(page)} bytes")
    try:
        return _parsed(gpa, page)
    except ValueError as unknown:
        raise ProtocolError(f"the cvm page at gpa {gpa:#x} makes no sense: {unknown}") from None


def _parsed(gpa: int, page: bytes) -> CvmGuest:
    magic, version, phase, root, cbit, kernel, features, variable, is_es, ready, vcpus, leaks = _HEAD.unpack_from(page)
    if magic != MAGIC or version != LAYOUT_VERSION or phase not in set(Phase) or vcpus > _MAX_VCPUS:
        raise ProtocolError(f"no cvm page at gpa {gpa:#x}", hint="was the guest booted with cvm=?")
    online, decrypted_start, decrypted_end, firmware_ghcb = _REST.unpack_from(page, _REST_AT)
    lines = [_VCPU.unpack_from(page, _VCPUS_AT + vcpu * _VCPU.size) for vcpu in range(vcpus)]
    return CvmGuest(
        gpa=gpa,
        phase=Phase(phase),
        root_gpa=root,
        cbit_mask=cbit,
        kernel=kernel,
        features=features,
        variable=MigrationVariable(variable),
        is_es=bool(is_es),
        ready=ready,
        decrypted=GpaRange(decrypted_start, decrypted_end),
        firmware_ghcb_gpa=firmware_ghcb,
        online_mask=online,
        counters=_counters(page),
        leaks=leaks,
        leaked=tuple(
            GpaRange(*_RANGE.unpack_from(page, _LEAKED_AT + i * _RANGE.size)) for i in range(min(leaks, _MAX_LEAKED))
        ),
        vcpus=tuple(CvmVcpu(vcpu=vcpu, ghcb_gpa=line[4], hypercalls=line[5]) for vcpu, line in enumerate(lines)),
        in_flight=tuple(
            InFlight(vcpu=vcpu, range=GpaRange(start, end), to_private=bool(to_private), step=ConversionStep(step))
            for vcpu, (start, end, to_private, step, _, _) in enumerate(lines)
            if step
        ),
    )


def _counters(page: bytes) -> ProtectionCounters:
    return ProtectionCounters(**dict(zip(_COUNTER_NAMES, _COUNTERS.unpack_from(page, _COUNTERS_AT), strict=True)))
