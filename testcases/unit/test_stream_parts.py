"""Device sections, the return path, XBZRLE, passes and the summary, on bytes made here."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.migration.stream import xbzrle
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import (
    Header,
    RamBlock,
    RamBlockList,
    RamMark,
    RamPages,
    SectionFooter,
    SectionHead,
    Tail,
)
from harness.migration.stream.format import (
    FLAG_CONTINUE,
    FLAG_EOS,
    FLAG_MEM_SIZE,
    FLAG_PAGE,
    FLAG_ZERO,
    ReturnType,
    SectionType,
)
from harness.migration.stream.ledger import PageLedger
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.return_path import BITMAP_END, ReturnMessage, ReturnPathParser, encode_return
from harness.migration.stream.summary import lines, summarise
from harness.migration.stream.writer import write
from harness.model.errors import SetupError, StreamError
from harness.model.memory import PAGE_SIZE


def str8(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def section(name: str, body: bytes, instance_id: int = 0) -> bytes:
    head = bytes([SectionType.FULL]) + struct.pack(">I", 7) + str8(name) + struct.pack(">II", instance_id, 3)
    return head + body + bytes([SectionType.FOOTER]) + struct.pack(">I", 7)


def tail(sections: bytes, devices: list[dict[str, Any]]) -> Tail:
    text = json.dumps({"devices": devices}).encode()
    data = sections + b"\0\x06" + struct.pack(">I", len(text)) + text
    return Tail(data=data, offset=1000, description_at=len(sections) + 1)


def entry(name: str, fields: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": name, "instance_id": 0, "vmsd_name": name, "version": 3, "fields": fields, **more}


FIELDS = [
    {"name": "level", "type": "int32", "size": 4},
    {"name": "regs", "type": "uint16", "size": 2, "array_len": 3},
    {"name": "pin", "index": 0, "type": "struct", "size": 2, "struct": {"fields": [
        {"name": "up", "type": "bool", "size": 1}, {"name": "id", "type": "uint8", "size": 1}]}},
    # QEMU 10.0 leaves the index of the last item out.
    {"name": "pin", "type": "struct", "size": 1, "struct": {"fields": [{"name": "up", "type": "bool", "size": 1}]}},
    {"name": "none", "index": 0, "type": "nullptr", "size": 1},
    {"name": "fifo", "type": "buffer", "size": 4},
    {"name": "queue", "type": "uint8", "size": 1, "array_len": 300},
]  # fmt: skip
BODY = struct.pack(">i3H", -5, 1, 2, 3) + b"\1\7" + b"\0" + b"0" + b"abcd" + bytes(300)
SUBSECTION = b"\x05" + str8("toy/more") + struct.pack(">I", 1) + struct.pack(">Q", 99)
MORE = [{"vmsd_name": "toy/more", "version": 1, "fields": [{"name": "far", "type": "uint64", "size": 8}]}]


def test_every_field_gets_its_path_value_and_offset() -> None:
    state = decode_tail(tail(section("toy", BODY + SUBSECTION), [entry("toy", FIELDS, subsections=MORE)]), machine="pc")
    device = state.find("toy/0")
    assert device is not None
    assert (device.version, device.vmsd, device.subsections) == (3, "toy", ("toy/more",))
    assert [(field.path, field.value) for field in device.fields] == [
        ("level", -5),
        ("regs[0]", 1),
        ("regs[1]", 2),
        ("regs[2]", 3),
        ("pin[0].up", 1),
        ("pin[0].id", 7),
        ("pin[1].up", 0),
        ("none[0]", None),
        ("fifo", None),
        ("queue", None),
        ("toy/more:far", 99),
    ]
    assert device.fields[9].type == "uint8[300]"
    head_bytes = len(section("toy", b"")) - 5
    assert (device.offset, device.fields[0].offset) == (1000, head_bytes)


@pytest.mark.parametrize(
    ("sections", "devices", "message"),
    [
        (section("toy", BODY), [entry("toy", FIELDS, subsections=MORE)], "expected subsection toy/more"),
        (section("toy", BODY), [entry("boy", FIELDS)], "described as boy"),
        (section("toy", BODY + b"!"), [entry("toy", FIELDS)], "expected|footer|section"),
        (section("toy", b"\0"), [entry("toy", FIELDS)], "shorter than their description"),
        (section("toy", BODY) * 2, [entry("toy", FIELDS)], "expected the end"),
        (section("toy", b"\0"), [entry("toy", [{"name": "x", "type": "uint8", "size": -1}])], "no size"),
        (section("toy", b"\0"), [entry("toy", [{"name": "x", "type": "u", "size": 0, "array_len": 1 << 40}])], "array"),
        (section("toy", b"\0"), [entry("toy", "many")], "no list of objects"),  # type: ignore[arg-type]
        (
            section("toy", b"\0"),
            [entry("toy", [{"name": "x", "size": 2, "struct": {"fields": [{"name": "y", "size": 1}]}}])],
            "took 1 bytes",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_a_stream_error(
    sections: bytes, devices: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(StreamError, match=message):
        decode_tail(tail(sections, devices))


def test_a_description_without_end_is_not_followed() -> None:
    """Arrays of arrays, of nothing or of more than was sent: an error at once, and no memory for what is not there."""
    for size in (0, 1):
        inner: dict[str, Any] = {"name": "x", "size": size, "type": "uint8"}
        for _ in range(4):
            inner = {"name": "x", "array_len": 1 << 20, "size": size, "struct": {"fields": [inner] if size else []}}
            inner = {"name": "x", "size": size, "struct": {"fields": [inner]}}
        message = "shorter than their description" if size else "more fields than any machine has"
        with pytest.raises(StreamError, match=message):
            decode_tail(tail(section("toy", BODY), [entry("toy", [inner])]))


def test_what_a_description_told_before_is_read_from_the_data_anew() -> None:
    one, other = bytearray(section("toy", BODY)), bytearray(section("toy", BODY))
    at = bytes(other).index(BODY)
    other[at] ^= 0x40
    states = [decode_tail(tail(bytes(data), [entry("toy", FIELDS)])) for data in (one, other, one)]
    first, second, third = (state.devices[0].fields[0].raw for state in states)
    assert first == third != second


@pytest.mark.parametrize("text", [b"{", b"[1]", b"[" * 100_000, b'{"devices": 3}', b"\xff"])
def test_a_description_that_is_no_description(text: bytes) -> None:
    data = b"\0\x06" + struct.pack(">I", len(text)) + text
    with pytest.raises(StreamError):
        decode_tail(Tail(data=data, offset=0, description_at=1))


def test_no_description_no_devices_but_a_note() -> None:
    state = decode_tail(Tail(data=b"\4\0", offset=0, description_at=None, note="opaque: for the test"))
    assert (state.devices, state.note) == ((), "opaque: for the test")


MESSAGES = [
    ReturnMessage(type=ReturnType.PONG, payload=struct.pack(">I", 1)),
    ReturnMessage(type=ReturnType.REQ_PAGES_ID, payload=struct.pack(">QI", 4096, 4096) + str8("pc.ram")),
    ReturnMessage(type=ReturnType.REQ_PAGES, payload=struct.pack(">QI", 8192, 4096)),
    ReturnMessage(
        type=ReturnType.RECV_BITMAP,
        payload=str8("pc.ram"),
        bitmap=struct.pack(">Q", 8) + bytes(8) + struct.pack(">Q", BITMAP_END),
    ),
    ReturnMessage(type=ReturnType.SWITCHOVER_ACK),
    ReturnMessage(type=ReturnType.SHUT, payload=struct.pack(">I", 0)),
]


@pytest.mark.parametrize("chunk_bytes", [1, 3, 1000])
def test_return_path_round_trip(chunk_bytes: int) -> None:
    data = b"".join(map(encode_return, MESSAGES))
    parser = ReturnPathParser()
    seen: list[ReturnMessage] = []
    for start in range(0, len(data), chunk_bytes):
        seen += parser.feed(data[start : start + chunk_bytes])
    parser.close()
    assert seen == MESSAGES
    assert str(seen[-1]) == "SHUT 0x0"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack(">HH", 0, 4), "unknown message 0"),
        (struct.pack(">HH", 1, 2), "SHUT of 2 bytes"),
        (struct.pack(">HHQ", 5, 0, 1 << 40), "bitmap of"),
        (struct.pack(">HHQQ", 5, 0, 0, 7), "bitmap ends with"),
    ],
)
def test_return_path_damage(data: bytes, message: str) -> None:
    with pytest.raises(StreamError, match=message):
        ReturnPathParser().feed(data)


def test_return_path_that_breaks_off() -> None:
    parser = ReturnPathParser()
    assert parser.feed(b"\0\1\0\4\0") == []
    with pytest.raises(StreamError, match="middle"):
        parser.close()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_return_path_noise(noise: bytes) -> None:
    with contextlib.suppress(StreamError):
        parser = ReturnPathParser()
        parser.feed(noise)
        parser.close()


def test_xbzrle_delta_is_applied() -> None:
    page = bytes(range(256)) * 16
    delta = b"\x02\x03XYZ" + b"\x80\x01\x01!"
    changed = bytearray(page)
    changed[2:5] = b"XYZ"
    changed[5 + 128] = ord("!")
    assert xbzrle.apply(page, b"\1" + struct.pack(">H", len(delta)) + delta) == bytes(changed)


@pytest.mark.parametrize("delta", [b"\x01", b"\x01\x00", b"\x01\x09ab", b"\xff\xff", b"\xff\x7f\x01a"])
def test_xbzrle_damage(delta: bytes) -> None:
    with pytest.raises(StreamError):
        xbzrle.apply(bytes(PAGE_SIZE), b"\1" + struct.pack(">H", len(delta)) + delta)


def batch(block: str, indexes: list[int], flag: int = FLAG_PAGE) -> RamPages:
    words = np.array([index * PAGE_SIZE | flag for index in indexes], dtype=np.uint64)
    starts = np.zeros(len(words), dtype=np.intp)
    return RamPages(
        block=block, buffer=memoryview(b""), words=words, starts=starts, end=0, offset=0, page_size=PAGE_SIZE
    )


def test_passes_are_told_from_the_order_of_pages() -> None:
    ledger = PageLedger()
    blocks = (RamBlock(name="ram", used_bytes=8 * PAGE_SIZE), RamBlock(name="rom", used_bytes=2 * PAGE_SIZE))
    ledger.add(RamBlockList(word=4, blocks=blocks))
    ledger.add(batch("ram", [0, 1, 2]))
    ledger.add(batch("ram", [3, 7], FLAG_ZERO))
    ledger.add(batch("rom", [0, 1]))
    ledger.add(batch("ram", [1, 3, 1]))
    ledger.add(SectionHead(kind=SectionType.END, section_id=2))
    ledger.add(batch("ram", [2]))
    ledger.add(batch("ram", [1]))
    assert ledger.records_per_pass == [7, 2, 1, 2]
    assert ledger.counts("ram").tolist() == [1, 4, 2, 2, 0, 0, 0, 1]
    assert ledger.blocks["ram"].first_pass.tolist() == [1, 1, 1, 1, 0, 0, 0, 1]
    assert ledger.blocks["ram"].last_pass.tolist() == [1, 4, 4, 2, 0, 0, 0, 1]
    account = ledger.accounts()[0]
    assert (account.data_records, account.zero_records, account.pages_sent, account.pages_resent) == (8, 2, 5, 3)


def test_summary_of_what_is_no_stream(tmp_path: Path) -> None:
    assert summarise(b"").damage.startswith("stream ends too early")
    summary = summarise(b"hello, hello, hello")
    assert summary.damage_offset == 0
    assert any("no migration stream" in line for line in lines(summary))
    with pytest.raises(SetupError, match="cannot read"):
        summarise(tmp_path / "absent")


def stream_of(words: list[int]) -> bytes:
    """A RAM section with a record of data or of zeros per word, whose page begins with its index in *words*."""
    used_bytes = 4096 * PAGE_SIZE
    listed = RamBlockList(word=used_bytes | FLAG_MEM_SIZE, blocks=(RamBlock(name="ram", used_bytes=used_bytes),))
    start = SectionHead(kind=SectionType.START, section_id=2, idstr="ram", version_id=4)
    part = SectionHead(kind=SectionType.PART, section_id=2)
    mark, footer = RamMark(word=FLAG_EOS), SectionFooter(section_id=2)
    records = []
    for index, word in enumerate(words):
        named = struct.pack(">Q", word) + (b"" if word & FLAG_CONTINUE else b"\3ram")
        body = index.to_bytes(8, "big") + bytes(PAGE_SIZE - 8) if word & FLAG_PAGE else b"\0"
        records.append(named + body)
    head = write([Header(version=3), start, listed, mark, footer, part])
    return head + b"".join(records) + write([mark, footer]) + b"\0"


@st.composite
def long_words(draw: st.DrawFn) -> list[int]:
    """Runs of data in a row, short and long, with zeros, jumps and named records between them."""
    words = [FLAG_PAGE]
    for _ in range(draw(st.integers(1, 6))):
        first = draw(st.integers(0, 4000))
        flag = draw(st.sampled_from([FLAG_PAGE, FLAG_PAGE, FLAG_ZERO]))
        named = draw(st.booleans())
        for index in range(first, first + draw(st.integers(1, 60))):
            is_named = named and index == first
            words.append(index * PAGE_SIZE | flag | (0 if is_named else FLAG_CONTINUE))
    return words


@settings(max_examples=60, deadline=None)
@given(words=long_words(), piece=st.integers(500, 200_000), cuts=st.booleans())
def test_long_runs_are_cut_and_counted_as_single_records_are(words: list[int], piece: int, cuts: bool) -> None:
    data = stream_of(words)
    parser, fast, slow = StreamParser(), PageLedger(), PageLedger()
    found, held = [], b""
    for start in range(0, len(data), piece):
        chunk = held + data[start : start + piece]
        elements, used = parser.cut(chunk) if cuts else (parser.feed(chunk), len(chunk))
        held = chunk[used:]
        for element in elements:
            fast.add(element)
            if isinstance(element, RamPages):
                records = list(element.records())
                found += [(record.ram_addr | record.flags, bytes(record.data[:8])) for record in records]
                for record in records:
                    slow.add(batch("ram", [record.ram_addr // PAGE_SIZE], record.flags))
            else:
                slow.add(element)
    bodies = [index.to_bytes(8, "big") if word & FLAG_PAGE else b"\0" for index, word in enumerate(words)]
    assert found == list(zip(words, bodies, strict=True))
    assert fast.records_per_pass == slow.records_per_pass
    for name in ("data", "zero", "delta", "first_pass", "last_pass"):
        assert getattr(fast.blocks["ram"], name).tolist() == getattr(slow.blocks["ram"], name).tolist()
