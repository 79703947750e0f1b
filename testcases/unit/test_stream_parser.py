"""The parser and the writer on streams made here: every element, every chunking, every kind of damage."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.migration.stream import format as wire
from harness.migration.stream.blocks import small_blocks
from harness.migration.stream.elements import (
    Command,
    Configuration,
    ConfigurationSubsection,
    Element,
    Eof,
    Header,
    Opaque,
    PageKind,
    RamBlock,
    RamBlockList,
    RamMark,
    RamPages,
    SectionFooter,
    SectionHead,
    Tail,
    TailPiece,
)
from harness.migration.stream.format import CommandCode, SectionType
from harness.migration.stream.ledger import PageLedger
from harness.migration.stream.packaged import parse_packaged
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.writer import encode, write
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SIZE

RAM_ID = 2
BLOCKS = {"pc.ram": 64 * PAGE_SIZE, "pc.bios": 8 * PAGE_SIZE}
HEAD = write([Header(version=3), Configuration(machine="pc-q35-7.2")])
FOOTER = encode(SectionFooter(section_id=RAM_ID))
START = encode(SectionHead(kind=SectionType.START, section_id=RAM_ID, idstr="ram", version_id=4))
PART = encode(SectionHead(kind=SectionType.PART, section_id=RAM_ID))
END = encode(SectionHead(kind=SectionType.END, section_id=RAM_ID))
EOS = encode(RamMark(word=wire.FLAG_EOS))


def str8(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def block_list(blocks: dict[str, int] = BLOCKS) -> bytes:
    listed = tuple(RamBlock(name=name, used_bytes=size) for name, size in blocks.items())
    return encode(RamBlockList(word=sum(blocks.values()) | wire.FLAG_MEM_SIZE, blocks=listed))


def setup() -> bytes:
    return HEAD + START + block_list() + EOS + FOOTER


def data_page(index: int, fill: int, block: str | None = None) -> bytes:
    flags = wire.FLAG_PAGE | (0 if block else wire.FLAG_CONTINUE)
    return struct.pack(">Q", index * PAGE_SIZE | flags) + (str8(block) if block else b"") + bytes([fill]) * PAGE_SIZE


def zero_page(index: int, block: str | None = None) -> bytes:
    flags = wire.FLAG_ZERO | (0 if block else wire.FLAG_CONTINUE)
    return struct.pack(">Q", index * PAGE_SIZE | flags) + (str8(block) if block else b"") + b"\0"


def device(name: str, body: bytes, section_id: int = 7) -> bytes:
    head = bytes([SectionType.FULL]) + struct.pack(">I", section_id) + str8(name) + struct.pack(">II", 0, 1)
    return head + body + encode(SectionFooter(section_id=section_id))


def description(devices: list[dict[str, object]]) -> bytes:
    text = json.dumps({"page_size": PAGE_SIZE, "devices": devices}).encode()
    return bytes([SectionType.VMDESCRIPTION]) + struct.pack(">I", len(text)) + text


def whole() -> bytes:
    fields = [{"name": "level", "type": "uint32", "size": 4}]
    described = [{"name": "toy", "instance_id": 0, "vmsd_name": "toy", "version": 1, "fields": fields}]
    pages = data_page(0, 1, "pc.ram") + zero_page(1) + data_page(2, 2) + data_page(0, 3, "pc.bios")
    ram = PART + pages + EOS + FOOTER + END + data_page(2, 4, "pc.ram") + EOS + FOOTER
    return setup() + ram + device("toy", struct.pack(">I", 5)) + bytes([SectionType.EOF]) + description(described)


def parse(data: bytes, chunk_bytes: int = 1 << 20) -> list[Element]:
    parser = StreamParser()
    elements: list[Element] = []
    for start in range(0, len(data), chunk_bytes):
        elements += parser.feed(data[start : start + chunk_bytes])
    return elements + parser.close()


def damage_of(data: bytes, chunk_bytes: int = 1 << 20) -> StreamError | None:
    try:
        parse(data, chunk_bytes)
    except StreamError as error:
        return error
    return None


@pytest.mark.parametrize("chunk_bytes", [1, 2, 7, 100, 4095, 4104, 5000, 1 << 20])
def test_any_chunking_gives_the_same_bytes_back(chunk_bytes: int) -> None:
    elements = parse(whole(), chunk_bytes)
    assert write(elements) == whole()
    assert sum(len(element) for element in elements if isinstance(element, RamPages)) == 5


def test_pages_come_with_their_block_kind_and_content() -> None:
    pages = [record for batch in parse(whole()) if isinstance(batch, RamPages) for record in batch.records()]
    assert [(page.block, page.ram_addr, page.kind) for page in pages] == [
        ("pc.ram", 0, PageKind.DATA),
        ("pc.ram", PAGE_SIZE, PageKind.ZERO),
        ("pc.ram", 2 * PAGE_SIZE, PageKind.DATA),
        ("pc.bios", 0, PageKind.DATA),
        ("pc.ram", 2 * PAGE_SIZE, PageKind.DATA),
    ]
    assert bytes(pages[2].data) == bytes([2]) * PAGE_SIZE


def test_configuration_subsections_are_understood_and_kept() -> None:
    names = ("x-ignore-shared",)
    subsections = (
        ConfigurationSubsection(name="configuration/target-page-bits", version=1, payload=struct.pack(">I", 16)),
        ConfigurationSubsection(
            name="configuration/capabilities", version=1, payload=struct.pack(">I", 1) + str8(names[0])
        ),
        ConfigurationSubsection(name="configuration/uuid", version=1, payload=bytes(range(16))),
    )
    head = write([Header(version=3), Configuration(machine="virt-7.2", subsections=subsections)])
    elements = parse(head + bytes([SectionType.EOF]))
    assert elements[1] == Configuration(
        machine="virt-7.2", subsections=subsections, capabilities=names, target_page_bits=16
    )
    assert write(elements) == head + bytes([SectionType.EOF])


def test_ignore_shared_announces_a_gpa_for_each_block() -> None:
    payload = struct.pack(">I", 1) + str8("x-ignore-shared")
    subsection = ConfigurationSubsection(name="configuration/capabilities", version=1, payload=payload)
    head = write([Header(version=3), Configuration(machine="pc", subsections=(subsection,))])
    blocks = (
        RamBlock(name="ram", used_bytes=PAGE_SIZE, gpa=0),
        RamBlock(name="rom", used_bytes=PAGE_SIZE, gpa=1 << 32),
    )
    listed = RamBlockList(word=2 * PAGE_SIZE | wire.FLAG_MEM_SIZE, blocks=blocks)
    data = head + START + encode(listed) + EOS + FOOTER + PART + data_page(0, 9, "rom") + EOS + FOOTER + b"\0"
    elements = parse(data)
    assert listed in elements
    assert write(elements) == data
    assert small_blocks(data) == {"rom": bytes([9]) * PAGE_SIZE}


def test_postcopy_may_announce_the_page_size_of_a_block() -> None:
    advise = encode(Command(code=CommandCode.POSTCOPY_ADVISE, payload=struct.pack(">QQ", 0x201000, PAGE_SIZE)))
    blocks = (RamBlock(name="huge", used_bytes=1 << 21, page_size=1 << 21), RamBlock(name="rom", used_bytes=PAGE_SIZE))
    listed = RamBlockList(word=((1 << 21) + PAGE_SIZE) | wire.FLAG_MEM_SIZE, blocks=blocks)
    data = HEAD + advise + START + encode(listed) + EOS + FOOTER + b"\0"
    assert listed in parse(data, 3)
    assert write(parse(data)) == data


def test_packaged_command_opens_up() -> None:
    nested = (
        encode(Command(code=CommandCode.POSTCOPY_LISTEN))
        + device("toy", b"1234")
        + encode(Command(code=CommandCode.PING, payload=struct.pack(">I", 3)))
        + encode(Command(code=CommandCode.POSTCOPY_RUN))
    )
    command = Command(code=CommandCode.PACKAGED, payload=struct.pack(">I", len(nested)), packaged=nested)
    data = HEAD + encode(command) + b"\0"
    assert parse(data, 11)[2] == command
    inside = parse_packaged(command)
    assert write(inside) == nested
    assert [type(element) for element in inside] == [Command, TailPiece, Command, Command]


def test_stream_without_description_is_opaque_and_says_so() -> None:
    data = setup() + END + EOS + FOOTER + device("toy", b"1234") + bytes([SectionType.EOF])
    tail = parse(data)[-1]
    assert isinstance(tail, Tail)
    assert tail.description_at is None
    assert "opaque" in tail.note
    with pytest.raises(StreamError, match="inside the device sections"):
        parse(data[:-3] + b"\0")


def test_foreign_iterable_section_is_passed_through() -> None:
    foreign = encode(SectionHead(kind=SectionType.START, section_id=9, idstr="dirty-bitmap", version_id=1)) + b"\1\2\3"
    elements = parse(HEAD + foreign)
    assert isinstance(elements[-1], Opaque)
    assert write(elements) == HEAD + foreign


def test_stream_ends_with_eof_or_not_at_all() -> None:
    assert isinstance(parse(setup() + b"\0")[-1], Eof)
    for cut in (0, 3, 8, 20, len(setup()) - 2):
        with pytest.raises(StreamError, match="ends"):
            parse(setup()[:cut])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x16\x03\x01\x00TLS.", "no migration stream"),
        (struct.pack(">II", wire.MAGIC, 2), "version 2"),
        (HEAD + b"\x55", "unknown section type 0x55"),
        (HEAD + b"\x08\x00\x63\x00\x00", "unknown command 99"),
        (HEAD + PART, "never started"),
        (HEAD + b"\x07", "unknown section type 0x07"),
        (setup() + START, "second RAM"),
        (setup() + PART + data_page(64, 0, "pc.ram"), "lies beyond block pc.ram"),
        (setup() + PART + data_page(0, 0, "nope"), "unknown RAM block nope"),
        (setup() + PART + data_page(0, 0), "none was named"),
        (setup() + PART + data_page(0, 0, "pc.ram") + data_page(99, 0), "lies beyond block pc.ram"),
        (setup() + PART + struct.pack(">Q", 0x80), "unknown flags 0x80"),
        (setup() + PART + struct.pack(">Q", 0x0A), "unknown flags 0xa"),
        (setup() + PART + struct.pack(">Q", 0x30), "belongs to no page"),
        (setup() + PART + struct.pack(">QB", 0x48, 6), "unknown flags 0x48"),
        (setup() + PART + EOS + encode(SectionFooter(section_id=3)), "footer of section 3"),
        (HEAD + START + struct.pack(">Q", 1 << 60 | 4), "beyond any guest"),
        (HEAD + START + struct.pack(">Q", PAGE_SIZE | 4) + str8("a") + struct.pack(">Q", 1 << 40), "breaks at block a"),
        (HEAD + START + struct.pack(">Q", PAGE_SIZE | 4) + b"\1\7" + struct.pack(">Q", 1 << 40), "no printable name"),
        (struct.pack(">II", wire.MAGIC, 3) + b"\x07" + struct.pack(">I", 1 << 30), "machine name of"),
        (HEAD + encode(Command(code=7, payload=struct.pack(">I", 1 << 31))), "PACKAGED command of"),
        (
            setup() + PART + struct.pack(">QB", 0x40, 6) + b"pc.ram" + b"\1" + struct.pack(">H", 60000),
            "encoded page of",
        ),
    ],
)
def test_damage_is_one_clear_error_with_its_offset(data: bytes, message: str) -> None:
    for chunk_bytes in (1, 1 << 20):
        with pytest.raises(StreamError, match=message) as caught:
            parse(data, chunk_bytes)
        assert 0 <= caught.value.offset <= len(data)


def test_bytes_behind_the_end_are_an_error() -> None:
    parser = StreamParser()
    parser.feed(whole())
    assert parser.is_done
    with pytest.raises(StreamError, match="behind the end"):
        parser.feed(b"\0")


def test_mapped_ram_is_refused_with_a_reason() -> None:
    payload = struct.pack(">I", 1) + str8("mapped-ram")
    subsection = ConfigurationSubsection(name="configuration/capabilities", version=1, payload=payload)
    with pytest.raises(StreamError, match="mapped-ram"):
        parse(write([Header(version=3), Configuration(machine="pc", subsections=(subsection,))]) + b"\0")


def test_what_came_before_the_damage_is_salvaged() -> None:
    parser = StreamParser()
    with pytest.raises(StreamError):
        parser.feed(setup() + b"\x55")
    assert write(parser.salvaged) == setup()


RECORDS = st.lists(
    st.tuples(st.sampled_from(list(BLOCKS)), st.integers(0, 7), st.integers(0, 255), st.booleans()), max_size=40
)


def encode_records(records: list[tuple[str, int, int, bool]]) -> bytes:
    parts, current = [], ""
    for block, index, fill, is_zero in records:
        name = None if block == current else block
        parts.append(zero_page(index, name) if is_zero else data_page(index, fill, name))
        current = block
    return b"".join(parts)


@settings(max_examples=60, deadline=None)
@given(records=RECORDS, chunk_bytes=st.integers(1, 20_000))
def test_generated_streams_round_trip(records: list[tuple[str, int, int, bool]], chunk_bytes: int) -> None:
    data = setup() + END + encode_records(records) + EOS + FOOTER + b"\0"
    elements = parse(data, chunk_bytes)
    assert write(elements) == data
    truth = {block: bytearray(size) for block, size in BLOCKS.items() if any(record[0] == block for record in records)}
    for block, index, fill, is_zero in records:
        truth[block][index * PAGE_SIZE : (index + 1) * PAGE_SIZE] = bytes([0 if is_zero else fill]) * PAGE_SIZE
    assert small_blocks(data, without=frozenset()) == truth
    ledger = PageLedger()
    for element in elements:
        ledger.add(element)
    assert sum(int(ledger.counts(block).sum()) for block in BLOCKS) == len(records) == sum(ledger.records_per_pass)


@pytest.mark.parametrize("chunk_bytes", [977, 100_000, 1 << 20])
def test_runs_of_zero_pages_of_any_length_are_counted(chunk_bytes: int) -> None:
    lengths = [*range(1, 40), 4095, 4096, 4097, 9000]
    runs = b"".join(zero_page(1) * length + data_page(2, 7) for length in lengths)
    data = setup() + END + data_page(0, 1, "pc.ram") + runs + EOS + FOOTER + b"\0"
    elements = parse(data, chunk_bytes)
    assert write(elements) == data
    ledger = PageLedger()
    for element in elements:
        ledger.add(element)
    assert ledger.blocks["pc.ram"].zero[1] == sum(lengths)
    assert ledger.blocks["pc.ram"].data[2] == len(lengths)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_streams_end_with_a_stream_error_or_not(data: st.DataObject) -> None:
    broken = bytearray(whole())
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del broken[data.draw(st.integers(1, len(broken))) :]
    error = damage_of(bytes(broken), data.draw(st.sampled_from([3, 1000, 1 << 20])))
    assert error is None or 0 <= error.offset <= len(broken)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_no_stream(noise: bytes) -> None:
    for prefix in (b"", HEAD, setup(), setup() + PART):
        error = damage_of(prefix + noise)
        assert error is None or error.offset <= len(prefix + noise)
