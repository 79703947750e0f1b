"""Wire faults applied to a stream made here: what the destination would hold, page by page."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

import pytest

from harness.migration.relay.editor import StreamEditor
from harness.migration.relay.faults import CATALOGUE
from harness.migration.stream import format as wire
from harness.migration.stream.blocks import small_blocks
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import (
    Configuration,
    Header,
    RamBlock,
    RamBlockList,
    RamMark,
    SectionFooter,
    SectionHead,
    Tail,
)
from harness.migration.stream.format import SectionType
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.writer import encode, write
from harness.model.errors import StreamError
from harness.model.memory import LINE_SIZE, PAGE_SIZE
from harness.model.seed import Seed
from harness.model.wire import TABLE_FAULTS, AppliedFault, WireFault
from harness.model.wire import WireFaultName as Name

RAM_PAGES = 64
HOT = range(20, 40)
PASSES = 3
SEED = Seed(7)
NAMES = list(Name)


def content(index: int, generation: int) -> bytes:
    lines = (struct.pack(">4Q", index, generation, line, 0x5EED) * 2 for line in range(PAGE_SIZE // LINE_SIZE))
    return b"".join(lines)


def str8(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def record(block: str, index: int, data: bytes, *, is_named: bool) -> bytes:
    flags = wire.FLAG_PAGE | (0 if is_named else wire.FLAG_CONTINUE)
    return struct.pack(">Q", index * PAGE_SIZE | flags) + (str8(block) if is_named else b"") + data


def walk(generation: int, pages: Sequence[int]) -> bytes:
    """One pass: hot pages, and the small block in the middle, so that block names change."""
    middle = len(pages) // 2
    parts = [
        record("ram", page, content(page, generation), is_named=place in {0, middle})
        for place, page in enumerate(pages)
    ]
    parts.insert(middle, record("rom", generation % 4, content(99, generation), is_named=True))
    return b"".join(parts)


def devices() -> bytes:
    body = b"".join(struct.pack(">Q", value) for value in range(16))
    fields = [{"name": "env.regs", "type": "uint64", "size": 8, "array_len": 16}]
    head = bytes([SectionType.FULL]) + struct.pack(">I", 7) + str8("cpu") + struct.pack(">II", 0, 12)
    text = json.dumps(
        {"devices": [{"name": "cpu", "instance_id": 0, "vmsd_name": "cpu", "version": 12, "fields": fields}]}
    ).encode()
    footer = encode(SectionFooter(section_id=7))
    return head + body + footer + b"\0\x06" + struct.pack(">I", len(text)) + text


def stream() -> bytes:
    blocks = (RamBlock(name="ram", used_bytes=RAM_PAGES * PAGE_SIZE), RamBlock(name="rom", used_bytes=4 * PAGE_SIZE))
    total = sum(block.used_bytes for block in blocks)
    close = [RamMark(word=wire.FLAG_EOS), SectionFooter(section_id=2)]
    head = [Header(version=3), Configuration(machine="pc"), SectionHead(
        kind=SectionType.START, section_id=2, idstr="ram", version_id=4),
        RamBlockList(word=total | wire.FLAG_MEM_SIZE, blocks=blocks), *close]  # fmt: skip
    part = encode(SectionHead(kind=SectionType.PART, section_id=2))
    end = encode(SectionHead(kind=SectionType.END, section_id=2))
    data = write(head) + part + walk(0, range(RAM_PAGES)) + write(close)
    for generation in range(1, PASSES):
        data += part + walk(generation, HOT) + write(close)
    return data + end + walk(PASSES, HOT) + write(close) + devices()


STREAM = stream()
TRUTH = small_blocks(STREAM, without=frozenset())


def deliver(
    faults: Sequence[WireFault], *, seed: Seed = SEED, chunk_bytes: int = 50_000, data: bytes = STREAM
) -> tuple[bytes, tuple[AppliedFault, ...]]:
    """What a destination would get, as the relay's pump would send it."""
    editor, parser = StreamEditor(faults, seed), StreamParser()
    sent = bytearray()
    for start in range(0, len(data), chunk_bytes):
        for element in parser.feed(data[start : start + chunk_bytes]):
            edited = editor.edit(element)
            for buffer in edited.buffers:
                sent += buffer
            if edited.strike is not None:
                return bytes(sent), editor.applied()
    for element in parser.close():
        for buffer in editor.edit(element).buffers:
            sent += buffer
    return bytes(sent), editor.applied()


def damaged(held: Mapping[str, bytes]) -> dict[int, bytes]:
    """Page index -> what is held, for each wrong page of ram; nothing else may be wrong."""
    assert held["rom"] == TRUTH["rom"]
    pages = {index: held["ram"][index * PAGE_SIZE : (index + 1) * PAGE_SIZE] for index in range(RAM_PAGES)}
    return {
        index: page
        for index, page in pages.items()
        if page != TRUTH["ram"][index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
    }


def strike(name: Name, *, targets: tuple[int, ...] = (), count: int = 1) -> tuple[dict[int, bytes], list[AppliedFault]]:
    sent, applied = deliver([WireFault(name=name, targets=targets, count=count)])
    return damaged(small_blocks(sent, without=frozenset())), list(applied)


TARGETS = tuple(page * PAGE_SIZE for page in HOT)
OLD, NEW = 0, PASSES


def expected_content(name: Name, index: int, held: bytes) -> bool:
    old, new = content(index, OLD), content(index, NEW)
    half = PAGE_SIZE // 2
    wrong_bits = (int.from_bytes(held, "big") ^ int.from_bytes(new, "big")).bit_count()
    wrong_lines = [
        held[at : at + LINE_SIZE] for at in range(0, PAGE_SIZE, LINE_SIZE)
        if held[at : at + LINE_SIZE] != new[at : at + LINE_SIZE]
    ]  # fmt: skip
    return {
        Name.DROP_PAGE: held == old,
        Name.STALE_PAGE: held == old,
        Name.DUPLICATE_PAGE: held == old,
        Name.TEAR_PAGE: held in {new[:half] + old[half:], old[:half] + new[half:]},
        Name.FLIP_BIT: wrong_bits == 1,
        Name.ZERO_PAGE: held == bytes(PAGE_SIZE),
        Name.LOST_LINE: wrong_lines == [bytes(LINE_SIZE)],
        Name.SHIFT_PAGE: held == new[-LINE_SIZE:] + new[:-LINE_SIZE],
        Name.RANDOM_PAGE: len(wrong_lines) == PAGE_SIZE // LINE_SIZE,
    }[name]


PAGE_FAULTS = [name for name in NAMES if CATALOGUE[name].is_page_fault and name not in {Name.SWAP_PAGES, *TABLE_FAULTS}]
"""Those of tables change bits that whoever switches them on has found: test_gic_edits.py."""


@pytest.mark.parametrize("targets", [TARGETS, ()], ids=["given", "chosen"])
@pytest.mark.parametrize("name", PAGE_FAULTS)
def test_page_fault_hits_one_page_as_it_says(name: Name, targets: tuple[int, ...]) -> None:
    wrong, (applied,) = strike(name, targets=targets)
    assert applied.times > 0
    assert applied.is_harmful
    assert applied.ram_addr is not None
    ((index, held),) = wrong.items()
    assert (applied.block, applied.ram_addr) == ("ram", index * PAGE_SIZE)
    if index in HOT:
        assert expected_content(name, index, held)


@pytest.mark.parametrize("targets", [TARGETS, ()], ids=["given", "chosen"])
def test_swap_exchanges_two_pages(targets: tuple[int, ...]) -> None:
    wrong, applied = strike(Name.SWAP_PAGES, targets=targets)
    one, other = (fault.ram_addr // PAGE_SIZE for fault in applied if fault.ram_addr is not None)
    ram = TRUTH["ram"]
    assert wrong == {
        one: ram[other * PAGE_SIZE : (other + 1) * PAGE_SIZE],
        other: ram[one * PAGE_SIZE : (one + 1) * PAGE_SIZE],
    }
    assert all(fault.is_harmful for fault in applied)


def test_count_hits_that_many_pages() -> None:
    for name in PAGE_FAULTS:
        wrong, applied = strike(name, targets=TARGETS, count=5)
        assert sorted(wrong) == sorted(fault.ram_addr // PAGE_SIZE for fault in applied if fault.ram_addr is not None)
        assert len(wrong) == 5


@pytest.mark.parametrize("page", HOT)
def test_dropping_any_record_leaves_all_others_in_their_block(page: int) -> None:
    """A record that names its block is dropped too: the next one must not land in another block."""
    wrong, (applied,) = strike(Name.DROP_PAGE, targets=(page * PAGE_SIZE,))
    assert list(wrong) == [page]
    assert applied.times == PASSES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_same_seed_same_place_whatever_the_chunks(name: Name, chunk_bytes: int) -> None:
    first = deliver([WireFault(name=name)])
    assert deliver([WireFault(name=name)], chunk_bytes=chunk_bytes) == first


def test_another_seed_another_place() -> None:
    places = {deliver([WireFault(name=Name.FLIP_BIT)], seed=Seed(seed))[1][0].ram_addr for seed in range(8)}
    assert len(places) > 3


def test_no_fault_no_change() -> None:
    assert deliver([]) == (STREAM, ())


def test_a_fault_that_never_strikes_says_so() -> None:
    for name in (Name.FLIP_BIT, Name.DROP_PAGE, Name.CORRUPT_DEVICE):
        (applied,) = silent(name)
        assert applied.times == 0


def silent(name: Name) -> tuple[AppliedFault, ...]:
    """A stream of nothing but a header: no page, no device."""
    return deliver([WireFault(name=name)], data=write([Header(version=3), Configuration(machine="pc")]) + b"\0")[1]


def test_resend_of_the_same_content_does_no_harm_and_says_so() -> None:
    page = record("ram", 30, content(30, 0), is_named=True)
    start = STREAM.index(encode(SectionHead(kind=SectionType.PART, section_id=2)))
    close = write([RamMark(word=wire.FLAG_EOS), SectionFooter(section_id=2)])
    part = encode(SectionHead(kind=SectionType.PART, section_id=2)) + page + close
    data = STREAM[:start] + part + part + b"\0"
    (applied,) = deliver([WireFault(name=Name.DROP_PAGE, targets=(30 * PAGE_SIZE,))], data=data)[1]
    assert (applied.times, applied.is_harmful) == (1, False)


def test_corrupt_header_is_no_stream_any_more() -> None:
    sent, (applied,) = deliver([WireFault(name=Name.CORRUPT_HEADER)])
    assert applied.times == 1
    assert sent[4:] == STREAM[4:]
    with pytest.raises(StreamError, match="no migration stream"):
        StreamParser().feed(sent)


def test_truncate_ends_in_the_middle_of_a_record() -> None:
    sent, (applied,) = deliver([WireFault(name=Name.TRUNCATE, at_fraction=0.5)])
    assert applied.times == 1
    assert STREAM.startswith(sent)
    parser = StreamParser()
    parser.feed(sent)
    with pytest.raises(StreamError, match="middle of an element"):
        parser.close()


def test_corrupt_device_flips_one_bit_of_one_field() -> None:
    fault = WireFault(name=Name.CORRUPT_DEVICE, device="cpu/*", field="env.regs[[]5[]]")
    sent, (applied,) = deliver([fault], chunk_bytes=999)
    assert applied.detail == "cpu/0 env.regs[5]"
    (tail,) = [element for element in StreamParser().feed(sent) if isinstance(element, Tail)]
    values = [field.value for field in decode_tail(tail).devices[0].fields]
    assert [index for index, value in enumerate(values) if value != index] == [5]
    assert ((values[5] or 0) ^ 5).bit_count() == 1


def test_several_faults_at_once_keep_out_of_each_others_way() -> None:
    faults = [WireFault(name=name, targets=TARGETS) for name in (Name.FLIP_BIT, Name.DROP_PAGE, Name.SHIFT_PAGE)]
    sent, applied = deliver(faults)
    assert len({fault.ram_addr for fault in applied}) == 3
    assert len(damaged(small_blocks(sent, without=frozenset()))) == 3


def test_the_catalogue_names_every_fault() -> None:
    assert set(CATALOGUE) == set(Name)
    assert all(entry.does and entry.caught_as for entry in CATALOGUE.values())
