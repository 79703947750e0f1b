"""Arm's system registers get their names where a stream carries them as two arrays."""

from __future__ import annotations

import struct

import pytest

from harness.migration.stream.arm_registers import register_path, with_named_registers
from harness.model.device_state import DeviceField

TPIDR_EL1, TPIDR_EL0, AARCH32 = 0x603000000013C684, 0x603000000013DE82, 0x40200000200F0082
NUMBERS, VALUES = "cpreg_vmstate_indexes", "cpreg_vmstate_values"


def whole(path: str, *values: int, offset: int = 0) -> DeviceField:
    return DeviceField(path=path, type="uint64[]", raw=struct.pack(f">{len(values)}Q", *values), offset=offset)


@pytest.mark.parametrize(
    ("number", "path"),
    [(TPIDR_EL1, "s3_0_c13_c0_4"), (TPIDR_EL0, "s3_3_c13_c0_2"), (AARCH32, "0x40200000200f0082")],
)
def test_a_number_becomes_what_assemblers_write(number: int, path: str) -> None:
    assert register_path(number) == path


def test_one_long_array_becomes_a_field_per_register() -> None:
    before, after = (
        DeviceField(path="env.pc", type="uint64", raw=bytes(8)),
        DeviceField(path="x", type="bool", raw=b"1"),
    )
    numbers = whole(NUMBERS, AARCH32, TPIDR_EL1)
    found = with_named_registers([before, numbers, whole(VALUES, 5, 6, offset=100), after])
    assert [field.path for field in found] == [
        "env.pc",
        NUMBERS,
        "cpreg.0x40200000200f0082",
        "cpreg.s3_0_c13_c0_4",
        "x",
    ]
    assert [(field.value, field.offset) for field in found[2:4]] == [(5, 100), (6, 108)]


def test_items_of_their_own_do_too() -> None:
    numbers = [whole(f"{NUMBERS}[{n}]", number) for n, number in enumerate((TPIDR_EL0, TPIDR_EL1))]
    values = [whole(f"{VALUES}[{n}]", n + 7, offset=8 * n) for n in range(2)]
    found = with_named_registers([*numbers, *values])
    assert {field.path: field.value for field in found[2:]} == {"cpreg.s3_3_c13_c0_2": 7, "cpreg.s3_0_c13_c0_4": 8}


@pytest.mark.parametrize("fields", [[], [whole("env.regs[0]", 1)], [whole(NUMBERS, TPIDR_EL1), whole(VALUES, 1, 2)]])
def test_what_does_not_fit_stays_as_it_is(fields: list[DeviceField]) -> None:
    assert with_named_registers(fields) == fields
