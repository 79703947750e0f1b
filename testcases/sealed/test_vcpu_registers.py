"""Registers leave the device sections of real QEMUs and come back, for every number of vCPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.migration.resave import save_devices
from harness.migration.sealed.vcpu_state import auxiliary, forget_auxiliary, restore, strip
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import Tail
from harness.migration.stream.parser import StreamParser
from harness.model.errors import StreamError
from harness.model.machine import MachineSpec
from harness.model.memory import PAGE_SIZE
from testcases.vm.conftest import Lab

pytestmark = pytest.mark.vm

PLAIN = {"env.cr[0]", "env.cr[4]", "env.efer"}


def tail_of(lab: Lab, qemu: Path, vcpus: int) -> Tail:
    found: list[Tail] = []

    async def story() -> None:
        async with lab.vm(qemu, MachineSpec(memory_mib=32, vcpus=vcpus)) as vm:
            data = await save_devices(vm, lab.folder, deadline=lab.deadline)
            parser = StreamParser()
            found.extend(item for item in [*parser.feed(data), *parser.close()] if isinstance(item, Tail))

    lab.play(story())
    return found[0]


@pytest.mark.parametrize("vcpus", [1, 3, 8])
def test_registers_go_and_come_back(lab: Lab, qemu: Path, vcpus: int) -> None:
    tail = tail_of(lab, qemu, vcpus)
    sections, registers = strip(tail)
    assert sorted(registers) == list(range(vcpus))
    assert all(len(pages) % PAGE_SIZE == 0 for pages in registers.values())
    stripped = replace(tail, data=sections)
    for before, after in zip(decode_tail(tail).devices, decode_tail(stripped).devices, strict=True):
        if before.name != "cpu":
            assert before == after
            continue
        fields = {field.path: field for field in after.fields}
        assert not any(fields["env.eip"].raw + fields["env.idt.limit"].raw + fields["env.cr[3]"].raw)
        assert {path: fields[path].raw for path in PLAIN} == {
            field.path: field.raw for field in before.fields if field.path in PLAIN
        }
    assert sections != tail.data
    assert restore(stripped, registers) == tail.data


def test_swapped_registers_end_in_the_other_vcpu(lab: Lab, qemu: Path) -> None:
    tail = tail_of(lab, qemu, 2)
    sections, registers = strip(tail)
    stripped = replace(tail, data=sections)
    swapped = replace(tail, data=restore(stripped, {0: registers[1], 1: registers[0]}))
    assert strip(swapped)[1] == {0: registers[1], 1: registers[0]}
    assert strip(replace(tail, data=restore(stripped, {0: registers[0]})))[1][0] == registers[0]


def test_the_hosts_registers_are_told_and_forgotten(lab: Lab, qemu: Path) -> None:
    tail = tail_of(lab, qemu, 2)
    told = auxiliary(tail)
    assert set(told) == {0, 1}
    assert set(told[0]) == {"cr0", "cr4", "cr8", "efer", "apic_base"}
    assert told[0]["apic_base"] == 0xFEE00900
    assert told[1]["apic_base"] == 0xFEE00800
    data = bytearray(tail.data)
    (at,) = (
        device.offset - tail.offset + field.offset + field.size_bytes - 1
        for device in decode_tail(tail).devices
        if device.label == "apic/1"
        for field in device.fields
        if field.path == "tpr"
    )
    data[at] = 0x50
    changed = replace(tail, data=bytes(data))
    assert auxiliary(changed)[1]["cr8"] == 5
    forgotten = auxiliary(replace(tail, data=forget_auxiliary(changed, changed.data)))
    assert forgotten[1] == {"cr0": 0x60000010, "cr4": 0, "cr8": 0, "efer": 0, "apic_base": 0xFEE00800}


def test_what_does_not_fit_is_refused(lab: Lab, qemu: Path) -> None:
    tail = tail_of(lab, qemu, 1)
    sections, registers = strip(tail)
    stripped = replace(tail, data=sections)
    with pytest.raises(StreamError, match="has no section"):
        restore(stripped, {5: registers[0]})
    with pytest.raises(StreamError, match="do not fit"):
        restore(stripped, {0: b"x" + registers[0][1:]})
    with pytest.raises(StreamError, match="do not fit"):
        restore(stripped, {0: b""})
    with pytest.raises(StreamError, match="no description"):
        strip(Tail(data=tail.data, offset=0, description_at=None))
