"""Incremental parser of the main channel: bytes in, in pieces of any size; elements out.

The RAM part is cut into records as they come. Device sections carry no length, so from the first of them on everything
is the *tail*: it is passed on in pieces, and given once more, whole, when its description (VMDESCRIPTION) has come or
the stream ends; :mod:`harness.migration.stream.devices` decodes it then.

::

    parser = StreamParser()
    for chunk in chunks:
        for element in parser.feed(chunk):
            ...
    elements = parser.close()      # StreamError if the stream ended too early
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.migration.stream import configuration
from harness.migration.stream import format as wire
from harness.migration.stream.cursor import Cursor, NeedMoreError
from harness.migration.stream.elements import (
    Command,
    Configuration,
    Element,
    Eof,
    Header,
    Opaque,
    RamMark,
    SectionFooter,
    SectionHead,
    Tail,
    TailPiece,
)
from harness.migration.stream.format import RAM_RECORDS, CommandCode, RamRecord, SectionType
from harness.migration.stream.ram import RamScanner, RecordReader
from harness.migration.stream.tail import find_description
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SIZE

COMMAND_CODES = frozenset(CommandCode)

Step = Callable[[memoryview, int, list[Element]], int]


class StreamParser:
    """Parses one stream. After a StreamError it is spent; what came before it is in *salvaged*."""

    def __init__(
        self,
        *,
        ram_records: Mapping[int, RamRecord] = RAM_RECORDS,
        ram_readers: Sequence[RecordReader] = (),
        nested: bool = False,
    ) -> None:
        """*nested* parses the inside of a PACKAGED command, which has no header."""
        self._ram_records = ram_records
        self._ram_readers = tuple(ram_readers)
        self._page_size = PAGE_SIZE
        self._has_gpa = False
        self._is_postcopy = False
        self._ram: RamScanner | None = None
        self._ram_id: int | None = None
        self._open_section: int | None = None
        self._has_footers = False
        self._step: Step = self._element if nested else self._header
        self._held = bytearray()
        self._base = 0
        self._tail = bytearray()
        self._tail_offset = 0
        self._searched = 0
        self._opaque_reason = ""
        self._done = False
        self.salvaged: list[Element] = []
        """What the last chunk gave, also when :meth:`feed` raised on it."""

    @property
    def offset(self) -> int:
        """Stream offset behind the last element."""
        return self._base

    @property
    def is_done(self) -> bool:
        """True when the description has come: a precopy stream is complete then."""
        return self._done

    @property
    def is_in_ram(self) -> bool:
        """True inside a part of the RAM section: page records may come, and may be inserted."""
        return self._step == self._ram_record

    @property
    def unknown_flags(self) -> tuple[int, ...]:
        """Flags of the RAM record at which the stream was not understood any more."""
        return tuple(self._ram.unknown_flags) if self._ram else ()

    @property
    def is_in_tail(self) -> bool:
        """True from the first device section on."""
        return self._step == self._tail_piece

    @property
    def tail_offset(self) -> int:
        """Stream offset of the first device section, when :attr:`is_in_tail`."""
        return self._tail_offset

    def feed(self, chunk: bytes | bytearray | memoryview) -> list[Element]:
        """The elements that *chunk* completes. Batches and pieces are views into *chunk*."""
        elements, used = self.cut(chunk)
        self._held += memoryview(chunk)[used:]
        return elements

    def cut(self, chunk: bytes | bytearray | memoryview) -> tuple[list[Element], int]:
        """As :meth:`feed`, but what is begun in *chunk* and not ended is not kept: also how many bytes were used.

        Give the rest again, with more behind it: so no batch is torn where two chunks meet.
        """
        view = memoryview(chunk).toreadonly()
        elements = self.salvaged = []
        pos = self._complete_held(view, elements) if self._held else 0
        if self._held:
            return elements, len(view)
        end, _ = self._scan(view[pos:], elements)
        return elements, pos + end

    def close(self) -> list[Element]:
        """The end of the stream: the tail if it had no description. Raises StreamError in the middle of an element."""
        if self._held:
            raise StreamError("stream ends in the middle of an element", offset=self._base + len(self._held))
        if self._step == self._tail_piece and not self._done:
            return [self._tail_without_description()]
        if self._step not in {self._after_eof, self._opaque} and not self._done:
            raise StreamError("stream ends too early", offset=self._base, hint=f"it was {self._place()}")
        return []

    def _place(self) -> str:
        if self._step == self._header:
            return "before its header"
        return "inside the RAM section" if self.is_in_ram else "between two sections"

    def _complete_held(self, view: memoryview, elements: list[Element]) -> int:
        """Complete the unit that the last chunk left open with as few bytes of *view* as it takes."""
        pos, need = 0, len(self._held) + 1
        while pos < len(view):
            take = need - len(self._held)
            self._held += view[pos : pos + take]
            pos = min(pos + take, len(view))
            if len(self._held) < need:
                break
            # A copy, because views of a bytearray would forbid to resize it.
            end, need = self._scan(memoryview(bytes(self._held)), elements)
            if end == len(self._held):
                self._held.clear()
                break
            del self._held[:end]
        return pos

    def _scan(self, view: memoryview, elements: list[Element]) -> tuple[int, int]:
        """Append all complete elements of *view*; return where they end and the size the next one has at least."""
        pos = 0
        try:
            while pos < len(view):
                pos = self._step(view, pos, elements)
        except NeedMoreError as need:
            return self._advance(pos), need.total
        return self._advance(pos), 1

    def _advance(self, count: int) -> int:
        self._base += count
        return count

    def _cursor(self, view: memoryview, pos: int) -> Cursor:
        return Cursor(view, pos, len(view), base=self._base)

    def _header(self, view: memoryview, pos: int, elements: list[Element]) -> int:
        cursor = self._cursor(view, pos)
        if (magic := cursor.u32()) != wire.MAGIC:
            hint = "a TLS stream?" if magic >> 16 == 0x1603 else "expected QEVM, 0x5145564d"
            raise StreamError(f"no migration stream: it begins with {magic:#010x}", offset=self._base, hint=hint)
        if (version := cursor.u32()) != wire.VERSION:
            raise StreamError(f"stream version {version} is not {wire.VERSION}", offset=self._base + 4)
        elements.append(Header(version=version))
        self._step = self._configuration
        return cursor.pos

    def _configuration(self, view: memoryview, pos: int, elements: list[Element]) -> int:
        cursor = self._cursor(view, pos)
        if cursor.peek_u8() != SectionType.CONFIGURATION:
            self._step = self._element
            return pos
        cursor.u8()
        found = configuration.parse(cursor)
        self._adopt(cursor, found)
        elements.append(found)
        self._step = self._element
        return cursor.pos

    def _adopt(self, cursor: Cursor, found: Configuration) -> None:
        if wire.CAPABILITY_MAPPED_RAM in found.capabilities:
            raise cursor.error("a mapped-ram file has no page records", hint="not supported: save without mapped-ram")
        self._has_gpa = wire.CAPABILITY_IGNORE_SHARED in found.capabilities
        if found.target_page_bits is not None:
            self._page_size = 1 << found.target_page_bits

    def _element(self, view: memoryview, pos: int, elements: list[Element]) -> int:
        cursor = self._cursor(view, pos)
        kind = cursor.u8()
        if kind == SectionType.COMMAND:
            elements.append(self._command(cursor))
        elif kind == SectionType.FOOTER:
            elements.append(self._footer(cursor))
        elif kind == SectionType.EOF:
            elements.append(Eof())
            self._step = self._after_eof
        elif kind in {SectionType.START, SectionType.PART, SectionType.END}:
            return self._section(cursor, SectionType(kind), pos, elements)
        elif kind == SectionType.FULL:
            self._begin_tail(pos)
            return pos
        else:
            raise StreamError(f"unknown section type {kind:#04x}", offset=self._base + pos)
        return cursor.pos

    def _command(self, cursor: Cursor) -> Command:
        code = cursor.u16()
        payload = bytes(cursor.take(cursor.u16()))
        if code not in COMMAND_CODES:
            raise cursor.error(f"unknown command {code}")
        if code == CommandCode.POSTCOPY_ADVISE:
            self._is_postcopy = len(payload) > 0
        return Command(code=code, payload=payload, packaged=self._packaged(cursor, code, payload))

    def _packaged(self, cursor: Cursor, code: int, payload: bytes) -> bytes:
        if code != CommandCode.PACKAGED:
            return b""
        length = int.from_bytes(payload, "big")
        if len(payload) != 4 or length > wire.MAX_PACKAGED_BYTES:
            raise cursor.error(f"PACKAGED command of {length:#x} bytes")
        return bytes(cursor.take(length))

    def _footer(self, cursor: Cursor) -> SectionFooter:
        section_id = cursor.u32()
        if section_id != self._open_section:
            raise cursor.error(f"footer of section {section_id}, expected {self._open_section}")
        self._open_section = None
        self._has_footers = True
        return SectionFooter(section_id=section_id)

    def _section(self, cursor: Cursor, kind: SectionType, pos: int, elements: list[Element]) -> int:
        head = self._section_head(cursor, kind)
        is_ram = head.idstr == "ram" if kind == SectionType.START else head.section_id == self._ram_id
        if not is_ram:
            if kind != SectionType.START and self._ram_id is None:
                raise cursor.error(f"part of section {head.section_id}, which never started")
            self._opaque_reason = f"section {head.section_id} {head.idstr} is iterable and has no length".replace(
                "  ", " "
            )
            self._step = self._opaque
            return pos
        if kind == SectionType.START:
            self._start_ram(cursor, head)
        self._open_section = head.section_id
        elements.append(head)
        self._step = self._ram_record
        return cursor.pos

    def _section_head(self, cursor: Cursor, kind: SectionType) -> SectionHead:
        section_id = cursor.u32()
        if kind != SectionType.START:
            return SectionHead(kind=kind, section_id=section_id)
        idstr = cursor.str8("section name")
        instance_id, version_id = cursor.u32(), cursor.u32()
        return SectionHead(
            kind=kind, section_id=section_id, idstr=idstr, instance_id=instance_id, version_id=version_id
        )

    def _start_ram(self, cursor: Cursor, head: SectionHead) -> None:
        if self._ram_id is not None:
            raise cursor.error("a second RAM section starts")
        if head.version_id != 4:
            raise cursor.error(f"RAM section of version {head.version_id}, expected 4")
        self._ram_id = head.section_id
        self._ram = RamScanner(
            page_size=self._page_size, has_gpa=self._has_gpa, records=self._ram_records, readers=self._ram_readers
        )
        self._ram.is_postcopy_advised = self._is_postcopy

    def _ram_record(self, view: memoryview, pos: int, elements: list[Element]) -> int:
        assert self._ram is not None
        element, end = self._ram.scan(view, pos, base=self._base)
        elements.append(element)
        if isinstance(element, RamMark) and element.is_end:
            self._step = self._element
        return end

    def _begin_tail(self, pos: int) -> None:
        self._tail_offset = self._base + pos
        self._step = self._tail_piece

    def _tail_piece(self, view: memoryview, pos: int, elements: list[Element]) -> int:
        if self._done:
            raise StreamError("bytes behind the end of the stream", offset=self._base + pos)
        if len(self._tail) + len(view) - pos > wire.MAX_TAIL_BYTES:
            raise StreamError("device sections without end", offset=self._base + pos)
        elements.append(TailPiece(data=view[pos:]))
        self._tail += view[pos:]
        found, self._searched = find_description(self._tail, self._searched)
        if found is not None:
            elements.append(Tail(data=bytes(self._tail), offset=self._tail_offset, description_at=found))
            self._done = True
        return len(view)

    def _tail_without_description(self) -> Tail:
        note = "opaque: the stream carries no description of its devices (suppress-vmdesc, or postcopy)"
        # Where footers are sent, the last thing before EOF is one.
        if self._tail[-1] != SectionType.EOF or (self._has_footers and self._tail[-6:-5] != b"\x7e"):
            raise StreamError("stream ends inside the device sections", offset=self._base)
        return Tail(data=bytes(self._tail), offset=self._tail_offset, description_at=None, note=note)

    def _after_eof(self, view: memoryview, pos: int, elements: list[Element]) -> int:
        if view[pos] != SectionType.VMDESCRIPTION:
            raise StreamError("bytes behind the end of the stream", offset=self._base + pos)
        self._begin_tail(pos)
        return self._tail_piece(view, pos, elements)

    def _opaque(self, view: memoryview, pos: int, elements: list[Element]) -> int:
        elements.append(Opaque(data=view[pos:], reason=self._opaque_reason))
        return len(view)
