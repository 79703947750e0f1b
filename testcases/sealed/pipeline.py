"""Both ends without sockets and without QEMU: a stream of our own goes through the editors, in pieces of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import numpy as np

from harness.migration.relay.editor import Editor
from harness.migration.sealed.sealer import Sealer
from harness.migration.sealed.sides import sealed_parser
from harness.migration.stream import format as wire
from harness.migration.stream.blocks import BlockContents
from harness.migration.stream.elements import (
    Configuration,
    Element,
    Eof,
    Header,
    PageRecord,
    RamBlock,
    RamBlockList,
    RamMark,
    SectionFooter,
    SectionHead,
)
from harness.migration.stream.format import FLAG_CONTINUE, SectionType
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.writer import encode, encode_page, write
from harness.model.memory import PAGE_SIZE
from harness.model.seed import Seed
from testcases.sealed.hosts import Host

MAIN, ROM = "pc.ram", "pc.rom"
ROM_PAGES = 4


def page_of(number: int, version: int) -> bytes:
    """Content; every fifth page is zero."""
    return bytes(PAGE_SIZE) if number % 5 == 0 else Random(number << 8 | version).randbytes(PAGE_SIZE)


def stream(pages: int, passes: int = 2, *, other: str = ROM) -> bytes:
    """What QEMU sends: *pages* pages of main memory and a small block, in *passes* passes, without device sections."""
    blocks = (RamBlock(name=MAIN, used_bytes=pages * PAGE_SIZE), RamBlock(name=other, used_bytes=ROM_PAGES * PAGE_SIZE))
    start = SectionHead(kind=SectionType.START, section_id=2, idstr="ram", version_id=4)
    listed = RamBlockList(word=(pages + ROM_PAGES) * PAGE_SIZE | wire.FLAG_MEM_SIZE, blocks=blocks)
    close = write([RamMark(word=wire.FLAG_EOS), SectionFooter(section_id=2)])
    data = write([Header(version=3), Configuration(machine="pc"), start, listed]) + close
    for version in range(passes):
        kind = SectionType.END if version == passes - 1 else SectionType.PART
        data += encode(SectionHead(kind=kind, section_id=2))
        data += b"".join(records(MAIN, pages, version)) + b"".join(records(other, ROM_PAGES, version)) + close
    return data + encode(Eof())


def records(block: str, pages: int, version: int) -> Iterator[bytes]:
    for number in range(pages):
        page = page_of(number, version)
        flags, data = (wire.FLAG_PAGE, page) if any(page) else (wire.FLAG_ZERO, b"\0")
        flags |= FLAG_CONTINUE if number else 0
        yield encode_page(PageRecord(block=block, ram_addr=number * PAGE_SIZE, flags=flags, data=data))


def through(parser: StreamParser, editor: Editor, data: bytes, sizes: Iterable[int] = ()) -> bytes:
    """*data* in pieces of *sizes*, the last of them again and again."""
    out, at, size = bytearray(), 0, len(data)
    wanted = iter(sizes)
    while at < len(data):
        size = next(wanted, size)
        for element in parser.feed(data[at : at + size]):
            for buffer in editor.edit(element).buffers:
                out += buffer
        at += size
    for element in parser.close():
        out += b"".join(editor.edit(element).buffers)
    return bytes(out)


def sealed(source: Host, target: Host, data: bytes, *, sizes: Iterable[int] = (), **more: Any) -> bytes:
    """The stream between the hosts."""
    sealer = Sealer(source, target.certificates(), seed=Seed(5), **more)
    return through(StreamParser(), sealer, data, sizes)


def elements_of(data: bytes, sizes: Iterable[int] = ()) -> list[Element]:
    """What a parser of the wire cuts *data* into."""
    parser, found, at, size = sealed_parser(), [], 0, len(data)
    wanted = iter(sizes)
    while at < len(data):
        size = next(wanted, size)
        found += parser.feed(data[at : at + size])
        at += size
    return found + parser.close()


def memory_of(data: bytes, block: str = MAIN) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Main memory, or another block, of a destination that loaded *data*, a row for each page."""
    parser, blocks = StreamParser(), BlockContents()
    for element in [*parser.feed(data), *parser.close()]:
        blocks.add(element)
    return np.frombuffer(blocks.contents()[block], dtype=np.uint8).reshape(-1, PAGE_SIZE)
