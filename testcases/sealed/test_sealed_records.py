"""The codec of the 0x400 records: any cut of the bytes gives the same, and nonsense is one clear error."""

from __future__ import annotations

import struct
from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.confidential.soft.processor.packets import PacketKind, PacketOpener, PacketSealer, TransportKeys
from harness.migration.sealed.page_buffers import RowMemory
from harness.migration.sealed.records import (
    RUN,
    CpuStatePart,
    SealedPages,
    SessionRecord,
    SharedListPart,
    Subtype,
    VcpuGhcb,
    VcpuPacket,
    cpu_state_record,
    first_record,
    list_record,
    page_rows,
    sealing_room,
)
from harness.migration.sealed.sides import sealed_parser
from harness.migration.stream import format as wire
from harness.migration.stream.elements import Element
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.summary import lines, summarise
from harness.migration.stream.writer import write
from harness.model.address_map import AddressMap, Window
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SIZE
from harness.model.page_map import PageMap
from harness.model.page_map_wire import parse, serialise
from harness.model.page_set import PageSet
from testcases.sealed.hosts import CSV, Host
from testcases.sealed.pipeline import MAIN, elements_of, sealed, stream

PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
PAGES = 64
SHARED = PageSet.from_ranges([(at, at + 1) for at in range(3, PAGES, 7)])
ADDRESSES = AddressMap(windows=(Window(0, 0, PAGES),), unmapped=PageSet.empty())
ENTRIES = (
    VcpuPacket(vcpu=0, header=bytes(range(52)), data=b"a" * PAGE_SIZE),
    VcpuPacket(vcpu=0, header=bytes(52), data=b"b" * PAGE_SIZE),
    VcpuPacket(vcpu=7, header=bytes(52), data=b"c" * PAGE_SIZE),
    VcpuGhcb(vcpu=7, value=1 << 63 | 0x1000),
)


@cache
def whole() -> bytes:
    """A stream with every kind of record; windows are small, so there are many."""
    source, target = Host(CSV, PAGES, shared=SHARED).launch(), Host(CSV, PAGES, number=2)
    data = sealed(source, target, stream(PAGES), window_pages=9)
    # An ES guest's registers come from device sections, which this stream has not: its CPU state is made here.
    cut = data.rindex(struct.pack(">Q", wire.FLAG_EOS))
    return data[:cut] + cpu_state_record("", ENTRIES) + data[cut:]


def packets_of(elements: list[Element]) -> list[object]:
    """All packets, however they were cut."""
    return [
        (int(addr), header.tobytes(), data.tobytes(), element.subtype, element.session)
        for element in elements
        if isinstance(element, SealedPages)
        for addr, header, data in zip(element.ram_addrs, element.headers, element.data, strict=True)
    ]


def list_of(elements: list[Element]) -> bytes:
    return b"".join(element.data for element in elements if isinstance(element, SharedListPart))


def vcpus_of(elements: list[Element]) -> list[VcpuPacket | VcpuGhcb]:
    return [entry for element in elements if isinstance(element, CpuStatePart) for entry in element.entries]


@PROPERTY
@given(st.lists(st.integers(1, 9000), max_size=40))
def test_any_cut_of_the_bytes_gives_the_same(cuts: list[int]) -> None:
    data, sizes = whole(), [*cuts, 30_011]
    parser, at, step, size = sealed_parser(), 0, iter(sizes), sizes[0]
    packets: list[object] = []
    vcpus: list[VcpuPacket | VcpuGhcb] = []
    shared, again = b"", b""
    while at < len(data):
        size = next(step, size)
        elements = parser.feed(data[at : at + size])
        packets += packets_of(elements)
        shared += list_of(elements)
        vcpus += vcpus_of(elements)
        again += write(elements)
        at += size
    expected = elements_of(data)
    assert again == data
    assert packets == packets_of(expected)
    assert shared == list_of(expected) == serialise(PageMap(total_pages=PAGES, shared=SHARED), ADDRESSES)
    assert vcpus == vcpus_of(expected) == list(ENTRIES)


def test_one_byte_at_a_time() -> None:
    source, target = Host(CSV, 8).launch(), Host(CSV, 8, number=2)
    data = sealed(source, target, stream(8, passes=1))
    assert write(elements_of(data, [1])) == data


def test_windows_end_with_their_last_page() -> None:
    found = [element for element in elements_of(whole()) if isinstance(element, SealedPages)]
    assert found[0].session is not None
    assert found[0].subtype is Subtype.PAGE
    subtypes = [element.subtype for element in found[1:] for _ in element.ram_addrs]
    assert set(subtypes) == {Subtype.BATCH, Subtype.BATCH_END}
    text = "".join("E" if subtype is Subtype.BATCH_END else "b" for subtype in subtypes)
    assert all(len(window) <= 8 for window in text.split("E"))
    assert "bbbbbbbbE" in text
    assert text.endswith("E")


def test_a_list_of_very_many_ranges_is_taken_in_pieces() -> None:
    pages = 200_000
    shared = PageSet.from_ranges([(at, at + 1) for at in range(0, pages, 2)])
    addresses = AddressMap(windows=(Window(0, 0, pages),), unmapped=PageSet.empty())
    data = serialise(PageMap(total_pages=pages, shared=shared), addresses)
    head = stream(8, passes=1)
    cut = head.rindex(struct.pack(">Q", wire.FLAG_EOS))
    elements = elements_of(head[:cut] + list_record("", data) + head[cut:], [1 << 16])
    came = b"".join(element.data for element in elements if isinstance(element, SharedListPart))
    assert parse(came, addresses)[0].shared == shared


def after_block_list(record: bytes, *, parser: StreamParser | None = None) -> None:
    """Feed a parser a stream whose first record is *record*."""
    data = stream(8, passes=1)
    start = data.index(struct.pack(">Q", wire.FLAG_PAGE | PAGE_SIZE | wire.FLAG_CONTINUE))
    (parser or sealed_parser()).feed(data[:start] + record)


SESSION = SessionRecord(policy=4, pdh=b"p" * 100, session=b"s" * 128)


GOOD = first_record(MAIN, PAGE_SIZE, SESSION, bytes(52), bytes(PAGE_SIZE))
SUBTYPE_AT = 8 + 1 + len(MAIN)
BROKEN = {
    "subtype": GOOD[:SUBTYPE_AT] + struct.pack(">I", 3) + GOOD[SUBTYPE_AT + 4 :],
    "pdh_len": GOOD[: SUBTYPE_AT + 8] + struct.pack(">I", 1 << 20) + GOOD[SUBTYPE_AT + 12 :],
    "beyond": first_record(MAIN, 8 * PAGE_SIZE, SESSION, bytes(52), bytes(PAGE_SIZE)),
    "unknown RAM block": first_record("nobody", 0, SESSION, bytes(52), bytes(PAGE_SIZE)),
    "tag 0x7 in a shared": list_record("", struct.pack(">I", 7)),
    "tag 0x9 in a CPU": cpu_state_record("", ())[:-4] + struct.pack(">I", 9),
    "cpu_index": cpu_state_record("", ())[:-4] + struct.pack(">III", 1, 8, 0),
}


@pytest.mark.parametrize("what", list(BROKEN))
def test_nonsense_is_one_clear_error(what: str) -> None:
    with pytest.raises(StreamError, match=what):
        after_block_list(BROKEN[what])


@pytest.mark.parametrize(("flag", "words"), [(0x200, "CGS_EPOCH"), (0x800, "8.1"), (0x100 | 0x400, "ENCRYPTED")])
def test_flags_of_other_trees_are_recognised(flag: int, words: str) -> None:
    parser = sealed_parser()
    with pytest.raises(StreamError, match="unknown flags") as caught:
        after_block_list(struct.pack(">Q", flag | wire.FLAG_CONTINUE), parser=parser)
    assert words in caught.value.hint
    assert parser.unknown_flags == (flag,)


def test_a_stock_parser_names_the_series() -> None:
    with pytest.raises(StreamError, match="unknown flags") as caught:
        after_block_list(struct.pack(">Q", 0x400 | wire.FLAG_CONTINUE), parser=StreamParser())
    assert "SEV and CSV" in caught.value.hint


def test_the_summary_counts_records_by_subtype() -> None:
    summary = summarise(whole())
    assert summary.is_complete, summary.damage
    text = "\n".join(lines(summary))
    sent = 2 * (PAGES - sum(end - start for start, end in SHARED.ranges()))
    assert f"packets {sent}" in text
    assert "sessions 1" in text
    assert "VMSA pages 3, GHCB values 1" in text


@PROPERTY
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_pages_sealed_into_their_records_do_not_touch_each_other(runs: list[int]) -> None:
    keys, memory = TransportKeys(bytes(16), bytes(range(16))), RowMemory(RUN)
    sealer, records = PacketSealer(keys), []
    plain = np.arange(sum(runs) * PAGE_SIZE, dtype=np.uint64).astype(np.uint8).reshape(-1, PAGE_SIZE)
    places = np.arange(len(plain), dtype=np.uint64)
    for start, count in zip(np.cumsum([0, *runs]).tolist(), runs, strict=False):
        part, rows = slice(start, start + count), memory.take(count)
        packets = sealer.seal_run(PacketKind.DATA, places[part], plain[part], into=sealing_room(rows))
        records.append(page_rows(places[part] << np.uint64(12), packets.headers, packets.data, memory=rows))
    again, opener = PacketSealer(keys), PacketOpener(keys)
    wire_rows = np.concatenate(records)
    apart = again.seal_run(PacketKind.DATA, places, plain)
    assert wire_rows["trans"].tobytes() == apart.data.tobytes()
    assert wire_rows["hdr"].tobytes() == apart.headers.tobytes()
    assert set(wire_rows["trans_len"].tolist()) == {PAGE_SIZE}
    assert opener.open_run(PacketKind.DATA, places, apart)[0].tobytes() == plain.tobytes()


@PROPERTY
@given(st.integers(31, 3 * PAGE_SIZE))
@example(7)
def test_what_is_cut_and_given_again_is_what_is_fed(step: int) -> None:
    data, parser, found = whole(), sealed_parser(), []
    kept = b""
    for at in range(0, len(data), step):
        chunk = kept + data[at : at + step]
        elements, used = parser.cut(chunk)
        found += packets_of(elements)
        kept = chunk[used:]
    parser.feed(kept)
    assert found == packets_of(elements_of(data))
