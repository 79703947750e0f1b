"""What a migration stream is made of, in the order of the wire.

:class:`RamPages` is the one element that is a batch: a run of page records of one RAM block that share one buffer,
because a Python object per page would cost more than the copy of the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from harness.migration.stream.format import FLAG_CONTINUE, FLAG_EOS, RAM_RECORDS, SectionType


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """First eight bytes: the magic and the version."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationSubsection:
    """One optional part of the configuration, its payload as it came."""

    name: str
    version: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Machine type name and what both sides have to agree on."""

    machine: str
    subsections: tuple[ConfigurationSubsection, ...] = ()
    capabilities: tuple[str, ...] = ()
    """Names in ``configuration/capabilities``: x-ignore-shared, mapped-ram."""
    target_page_bits: int | None = None
    """From ``configuration/target-page-bits`` (Arm); None when the machine does not send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A QEMU_VM_COMMAND. *packaged* holds the nested elements of PACKAGED, which follow its payload."""

    code: int
    payload: bytes = b""
    packaged: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionHead:
    """The start of a section whose content the parser understands: START, PART or END of the RAM section."""

    kind: SectionType
    section_id: int
    idstr: str = ""
    """Given in START only, as the instance and the version are."""
    instance_id: int = 0
    version_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionFooter:
    """QEMU_VM_SECTION_FOOTER, which repeats the section's id."""

    section_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RamBlock:
    """One entry of the MEM_SIZE list."""

    name: str
    used_bytes: int
    page_size: int | None = None
    """Sent for postcopy where the block's page is not the host's."""
    gpa: int | None = None
    """Sent with x-ignore-shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RamBlockList:
    """The MEM_SIZE record: all migratable RAM blocks and their lengths."""

    word: int
    blocks: tuple[RamBlock, ...]


class PageKind(StrEnum):
    """What a page record carries."""

    ZERO = "zero"
    DATA = "data"
    XBZRLE = "xbzrle"
    COMPRESSED = "compressed"
    OTHER = "other"
    """A kind that the flag table of the caller added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRecord:
    """One page of one block."""

    block: str
    ram_addr: int
    """Offset in the block."""
    flags: int
    data: bytes | memoryview
    """What follows the word and the block name: the page, the fill byte of a zero page, a prefixed delta."""

    @property
    def kind(self) -> PageKind:
        """Kind by the flag table of QEMU itself."""
        record = RAM_RECORDS.get(self.flags & ~FLAG_CONTINUE)
        return PageKind(record.name) if record and record.has_block else PageKind.OTHER

    @property
    def is_named(self) -> bool:
        """True when the record repeats the block's name on the wire."""
        return not self.flags & FLAG_CONTINUE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RamPages:
    """Consecutive page records of one block. Valid until the parser is fed again, when the caller reuses its buffer."""

    block: str
    buffer: memoryview
    words: NDArray[np.uint64]
    """ram_addr | flags of each record."""
    starts: NDArray[np.intp]
    """Where in *buffer* each record's word begins."""
    end: int
    """Where in *buffer* the last record ends."""
    offset: int
    """Offset of the first record in the stream."""
    page_size: int

    def __len__(self) -> int:
        return len(self.words)

    @property
    def raw(self) -> memoryview:
        """All records as they stand on the wire."""
        return self.buffer[int(self.starts[0]) : self.end]

    def records(self) -> Iterator[PageRecord]:
        """Each record as a value; for tests and slow paths."""
        for index in range(len(self.words)):
            yield self.record(index)

    def record(self, index: int) -> PageRecord:
        """Record number *index*; its data is a view into the batch's buffer."""
        word = int(self.words[index])
        flags = word & (self.page_size - 1)
        start = int(self.starts[index]) + 8
        if not flags & FLAG_CONTINUE:
            start += 1 + self.buffer[start]
        data = self.buffer[start : self.end_of(index)]
        return PageRecord(block=self.block, ram_addr=word - flags, flags=flags, data=data)

    def end_of(self, index: int) -> int:
        """Where in *buffer* record number *index* ends."""
        return int(self.starts[index + 1]) if index + 1 < len(self.starts) else self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class RamMark:
    """A word that belongs to no page: the end of this part of the section, or a multifd flush."""

    word: int

    @property
    def is_end(self) -> bool:
        """True for RAM_SAVE_FLAG_EOS: what follows is the footer or the next element."""
        return bool(self.word & FLAG_EOS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VendorRecords:
    """Records of a flag that a vendor tree adds, cut by a RecordReader (ram.py), which gives a class of its own.

    Valid as long as :class:`RamPages` are.
    """

    block: str
    raw: memoryview = field(repr=False)
    """As they stand on the wire."""
    offset: int
    """Offset of the first byte in the stream."""

    @property
    def last_ram_addr(self) -> int:
        """The highest page that is named; 0 where none is."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TailPiece:
    """Bytes of the device sections as they come; :class:`Tail` repeats them all at the end."""

    data: memoryview = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Everything from the first device section on: sections without lengths, EOF, the description if there is one."""

    data: bytes = field(repr=False)
    """Raw bytes, complete, EOF and VMDESCRIPTION included."""
    offset: int
    """Offset of the first byte in the stream."""
    description_at: int | None
    """Index in *data* of the VMDESCRIPTION element; None when the stream has none."""
    note: str = ""
    """Why the sections cannot be decoded, when they cannot: opaque."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eof:
    """QEMU_VM_EOF seen outside a tail: a stream without device sections after its RAM (postcopy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """Bytes that cannot be cut into elements because they belong to an iterable section that is not RAM."""

    data: memoryview = field(repr=False)
    reason: str


Element = (
    Header
    | Configuration
    | Command
    | SectionHead
    | SectionFooter
    | RamBlockList
    | RamPages
    | RamMark
    | VendorRecords
    | TailPiece
    | Tail
    | Eof
    | Opaque
)
