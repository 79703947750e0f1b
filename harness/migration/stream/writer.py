"""Encodes elements to the bytes that the parser would take them from."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.migration.stream import format as wire
from harness.migration.stream.elements import (
    Command,
    Configuration,
    Element,
    Eof,
    Header,
    Opaque,
    PageRecord,
    RamBlock,
    RamBlockList,
    RamMark,
    RamPages,
    SectionFooter,
    SectionHead,
    Tail,
    TailPiece,
    VendorRecords,
)
from harness.migration.stream.format import FLAG_CONTINUE, SectionType


def write(elements: Iterable[Element]) -> bytes:
    """The stream of *elements*. A :class:`Tail` adds nothing: the pieces before it carry its bytes."""
    return b"".join(encode(element) for element in elements)


def encode(element: Element) -> bytes:
    """The bytes of one element."""
    if isinstance(element, VendorRecords):
        return bytes(element.raw)
    return ENCODERS[type(element)](element)


def encode_page(record: PageRecord) -> bytes:
    """One page record, with its block's name unless CONTINUE is among its flags."""
    name = b"" if record.flags & FLAG_CONTINUE else _str8(record.block)
    return b"".join((struct.pack(">Q", record.ram_addr | record.flags), name, record.data))


def _str8(text: str) -> bytes:
    data = text.encode("ascii")
    return bytes([len(data)]) + data


def _section_head(head: SectionHead) -> bytes:
    start = struct.pack(">BI", head.kind, head.section_id)
    if head.kind != SectionType.START:
        return start
    return start + _str8(head.idstr) + struct.pack(">II", head.instance_id, head.version_id)


def _ram_block(block: RamBlock) -> bytes:
    extras = [value for value in (block.page_size, block.gpa) if value is not None]
    return _str8(block.name) + struct.pack(f">{1 + len(extras)}Q", block.used_bytes, *extras)


def _command(command: Command) -> bytes:
    head = struct.pack(">BHH", SectionType.COMMAND, command.code, len(command.payload))
    return head + command.payload + command.packaged


def _configuration(found: Configuration) -> bytes:
    machine = found.machine.encode("ascii")
    parts = [struct.pack(">BI", SectionType.CONFIGURATION, len(machine)), machine]
    for subsection in found.subsections:
        head = bytes([SectionType.SUBSECTION]) + _str8(subsection.name)
        parts += [head, struct.pack(">I", subsection.version), subsection.payload]
    return b"".join(parts)


def _pages(pages: RamPages) -> bytes:
    return b"".join(encode_page(record) for record in pages.records())


def _block_list(found: RamBlockList) -> bytes:
    return struct.pack(">Q", found.word) + b"".join(map(_ram_block, found.blocks))


ENCODERS: Mapping[type, Callable[[Any], bytes]] = {
    Header: lambda header: struct.pack(">II", wire.MAGIC, header.version),
    Configuration: _configuration,
    Command: _command,
    SectionHead: _section_head,
    SectionFooter: lambda footer: struct.pack(">BI", SectionType.FOOTER, footer.section_id),
    RamBlockList: _block_list,
    RamPages: _pages,
    RamMark: lambda mark: struct.pack(">Q", mark.word),
    TailPiece: lambda piece: bytes(piece.data),
    Tail: lambda _: b"",
    Eof: lambda _: bytes([SectionType.EOF]),
    Opaque: lambda opaque: bytes(opaque.data),
}
