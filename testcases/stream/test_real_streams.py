"""Streams of real QEMUs, captured here: parsed, written again, decoded, damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.checks.device_state import check_device_state
from harness.migration.stream.blocks import BlockContents, small_blocks
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import Element, RamBlockList, Tail
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.summary import lines, summarise
from harness.migration.stream.writer import write
from harness.model.device_state import DeviceState
from harness.model.errors import StreamError
from harness.model.seed import Seed
from testcases.stream.conftest import capabilities, capture, command, load, run_guest, spec
from testcases.vm.conftest import QEMUS, Lab, qemu_label

pytestmark = pytest.mark.vm


def parse(data: bytes, chunk_bytes: int = 1 << 20) -> list[Element]:
    parser = StreamParser()
    elements: list[Element] = []
    for start in range(0, len(data), chunk_bytes):
        elements += parser.feed(data[start : start + chunk_bytes])
    return elements + parser.close()


def state_of(data: bytes) -> DeviceState:
    (tail,) = [element for element in parse(data) if isinstance(element, Tail)]
    return decode_tail(tail, machine="pc-q35-7.2")


@pytest.mark.parametrize("vcpus", [1, 4])
def test_idle_stream_is_understood_to_the_last_byte(lab: Lab, qemu: Path, vcpus: int) -> None:
    async def story() -> None:
        async with lab.vm(qemu, spec(vcpus=vcpus)) as vm:
            data = await capture(vm, lab)
        for chunk_bytes in (997, 65536, 1 << 20):
            assert write(parse(data, chunk_bytes)) == data
        devices = state_of(data).devices
        assert sum(device.name == "cpu" for device in devices) == vcpus
        registers = next(device for device in devices if device.name == "cpu").fields
        assert {f"env.regs[{number}]" for number in range(16)} <= {register.path for register in registers}
        text = lines(summarise(data))
        assert "machine       pc-q35-7.2" in text
        assert text[-1] == "complete      every byte is accounted for"

    lab.play(story())


@pytest.mark.parametrize("capability", ["", "xbzrle"])
def test_busy_stream_rebuilds_the_memory_of_its_source(lab: Lab, qemu: Path, dirty_guest: str, capability: str) -> None:
    async def story() -> None:
        async with lab.vm(qemu, spec(dirty_guest)) as vm:
            await capabilities(vm, lab, *filter(None, [capability]))
            await run_guest(vm, lab)
            data = await capture(vm, lab, passes=3)
            memory = bytes(vm.ram.buffer)
        elements = parse(data)
        assert write(elements) == data
        contents = BlockContents(max_bytes=len(memory))
        for element in elements:
            contents.add(element)
        (main,) = [block for block in contents.contents().values() if len(block) == len(memory)]
        assert main == memory
        summary = summarise(data)
        biggest = max(summary.blocks, key=lambda block: block.pages)
        assert summary.passes >= 3
        assert biggest.pages_resent > 1000
        assert (biggest.delta_records > 0) == (capability == "xbzrle")

    lab.play(story())


def test_streams_in_their_rarer_shapes(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu, spec(extra_args=("-machine", "suppress-vmdesc=on"))) as vm:
            data = await capture(vm, lab)
        assert write(parse(data)) == data
        assert any("opaque" in warning for warning in summarise(data).warnings)
        async with lab.vm(qemu, spec(extra_args=("-global", "migration.send-section-footer=off"))) as vm:
            data = await capture(vm, lab)
        assert write(parse(data)) == data
        assert len(state_of(data).devices) > 20

    lab.play(story())


def test_stream_without_configuration(lab: Lab) -> None:
    """Only QEMU 7.2: 10.0 dies of an assertion (leave_container in json-writer.c) when it is asked for one."""

    async def story() -> None:
        async with lab.vm(QEMUS[0], spec(extra_args=("-global", "migration.send-configuration=off"))) as vm:
            data = await capture(vm, lab)
        assert write(parse(data)) == data
        assert summarise(data).machine == ""
        assert len(state_of(data).devices) > 20

    lab.play(story())


def test_ignore_shared_leaves_main_memory_out(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu, spec()) as vm:
            whole = await capture(vm, lab)
        async with lab.vm(qemu, spec()) as vm:
            await capabilities(vm, lab, "x-ignore-shared")
            data = await capture(vm, lab)
        elements = parse(data)
        assert write(elements) == data
        (listed,) = [element for element in elements if isinstance(element, RamBlockList)]
        assert all(block.gpa is not None for block in listed.blocks)
        assert small_blocks(data) == small_blocks(whole)
        assert "pc.bios" in small_blocks(data)
        assert len(state_of(data).devices) == len(state_of(whole).devices)

    lab.play(story())


def test_damage_to_a_real_stream_is_a_stream_error_or_harmless(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu, spec()) as vm:
            data = await capture(vm, lab)
        rng = Seed(5).rng("damage")
        for number in range(60):
            broken = bytearray(data)
            # Every other time the device sections, where lengths and names live.
            low = len(data) // 2 if number % 2 else 0
            for _ in range(rng.randint(1, 4)):
                broken[rng.randrange(low, len(data))] ^= 1 << rng.randrange(8)
            if rng.random() < 0.5:
                del broken[rng.randrange(len(data)) :]
            summary = summarise(bytes(broken))
            assert lines(summary)
            assert summary.damage_offset is None or 0 <= summary.damage_offset <= len(data)

    lab.play(story())


@pytest.mark.parametrize("cut_bytes", [1, 5, 1000, 20_000, 60_000, 100_000])
def test_every_cut_is_seen(lab: Lab, cut_bytes: int) -> None:
    async def story() -> None:
        async with lab.vm(QEMUS[0], spec()) as vm:
            data = await capture(vm, lab)
        with pytest.raises(StreamError):
            parse(data[:-cut_bytes])

    lab.play(story())


@pytest.mark.parametrize("vcpus", [1, 4])
@pytest.mark.parametrize("destination", QEMUS, ids=qemu_label)
def test_a_loaded_state_is_saved_again_as_it_was(
    lab: Lab, qemu: Path, destination: Path, dirty_guest: str, vcpus: int
) -> None:
    """All timers armed, interrupts pending; and a field that is changed on the way is found."""

    async def story() -> None:
        async with lab.vm(qemu, spec(dirty_guest, vcpus=vcpus)) as vm:
            await run_guest(vm, lab)
            await command(vm, lab, "stop")
            sent = await capture(vm, lab)
        async with lab.vm(destination, spec(dirty_guest, vcpus=vcpus), role="dst", incoming=True) as vm:
            await load(vm, lab, sent)
            held = await capture(vm, lab)
        assert check_device_state(state_of(sent), state_of(held)) == ()
        assert small_blocks(sent) == small_blocks(held)

    lab.play(story())
