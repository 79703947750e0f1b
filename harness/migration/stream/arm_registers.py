"""Names Arm's system registers in the cpu section: QEMU sends one array of numbers and one of values.

The numbers are KVM's (Documentation/virt/kvm/api.rst, KVM_SET_ONE_REG; QEMU keeps to them under TCG as well:
cpreg_to_kvm_id in target/arm).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from harness.model.device_state import DeviceField

SECTION = "cpu"
"""Name of the device section that has them."""
_NUMBERS = "cpreg_vmstate_indexes"
_VALUES = "cpreg_vmstate_values"
_AARCH64 = 0x6030_0000_0013
"""Bits 16-63 of the number of a 64-bit AArch64 system register: arm64, 64 bits, KVM_REG_ARM64_SYSREG."""


def with_named_registers(fields: Sequence[DeviceField]) -> Sequence[DeviceField]:
    """*fields* with a field per system register in the place of the array of values; unchanged where there is none."""
    numbers = b"".join(field.raw for field in fields if _belongs(field, _NUMBERS))
    values = [field for field in fields if _belongs(field, _VALUES)]
    raw = b"".join(field.raw for field in values)
    if not values or len(numbers) != len(raw) or len(raw) % 8:
        return fields
    named = [
        DeviceField(
            path=f"cpreg.{register_path(number)}",
            type="uint64",
            raw=raw[at : at + 8],
            value=int.from_bytes(raw[at : at + 8], "big"),
            offset=values[0].offset + at,
        )
        for at, (number,) in zip(range(0, len(raw), 8), struct.iter_unpack(">Q", numbers), strict=True)
    ]
    first = fields.index(values[0])
    return [*fields[:first], *named, *(field for field in fields[first:] if not _belongs(field, _VALUES))]


def register_path(number: int) -> str:
    """``s3_0_c13_c0_4`` (op0, op1, CRn, CRm, op2, as assemblers write it) for AArch64, else the number in hex."""
    if number >> 16 != _AARCH64:
        return f"{number:#x}"
    op0, op1, crn, crm, op2 = number >> 14 & 3, number >> 11 & 7, number >> 7 & 15, number >> 3 & 15, number & 7
    return f"s{op0}_{op1}_c{crn}_c{crm}_{op2}"


def _belongs(field: DeviceField, array: str) -> bool:
    """Whether *field* is *array*, or an item of it."""
    return field.path == array or field.path.startswith(f"{array}[")
