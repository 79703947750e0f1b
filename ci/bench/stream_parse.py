#!/usr/bin/env python3
"""Speed of the stream parser against a plain copy of the same bytes: 128 MiB of pages, fed in 1 MiB chunks."""

from __future__ import annotations

import os
import statistics
import struct
import time
from collections.abc import Callable

from harness.migration.stream import format as wire
from harness.migration.stream.elements import Header, RamBlock, RamBlockList, RamMark, SectionFooter, SectionHead
from harness.migration.stream.format import SectionType
from harness.migration.stream.ledger import PageLedger
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.writer import write
from harness.model.memory import PAGE_SIZE

MEMORY_MIB = 128
CHUNK_BYTES = 1 << 20
ROUNDS = 7


def main() -> None:
    data = stream()
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    parse = statistics.median(timed(lambda: feed(chunks, None)) for _ in range(ROUNDS))
    counted = statistics.median(timed(lambda: feed(chunks, PageLedger())) for _ in range(ROUNDS))
    copy = statistics.median(timed(lambda: [bytearray(chunk) for chunk in chunks]) for _ in range(ROUNDS))
    for name, seconds in (("parse", parse), ("parse and count pages", counted), ("memcpy", copy)):
        print(f"stream {name:22} {len(data) / seconds / 1e6:8.0f} MB/s   {copy / seconds:5.2f} of memcpy")


def stream() -> bytes:
    """Random pages with a zero page after every seventh."""
    pages = MEMORY_MIB << 20 >> 12
    blocks = (RamBlock(name="pc.ram", used_bytes=pages * PAGE_SIZE),)
    listed = RamBlockList(word=pages * PAGE_SIZE | wire.FLAG_MEM_SIZE, blocks=blocks)
    start = SectionHead(kind=SectionType.START, section_id=2, idstr="ram", version_id=4)
    close = [RamMark(word=wire.FLAG_EOS), SectionFooter(section_id=2)]
    part = SectionHead(kind=SectionType.PART, section_id=2)
    page = os.urandom(PAGE_SIZE)
    records = b"".join(record(index, page) for index in range(pages))
    return write([Header(version=3), start, listed, *close, part]) + records + write(close) + b"\0"


def record(index: int, page: bytes) -> bytes:
    flags = (wire.FLAG_PAGE if index % 8 else wire.FLAG_ZERO) | (wire.FLAG_CONTINUE if index else 0)
    name = b"" if index else b"\6pc.ram"
    return struct.pack(">Q", index * PAGE_SIZE | flags) + name + (page if index % 8 else b"\0")


def feed(chunks: list[bytes], ledger: PageLedger | None) -> None:
    parser = StreamParser()
    for chunk in chunks:
        for element in parser.feed(chunk):
            if ledger is not None:
                ledger.add(element)
    parser.close()


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
