"""A stream with one record per page, made after the fact: what a destination was given, without the history.

Recording every byte of every pass costs a clean run more than the migration itself. So the relay keeps small parts
(head, block list, device sections), and main memory's final content is in the RAM of the stopped source, or of the
destination that has not run. Only a case that failed pays for writing the two as one loadable stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from harness.migration.stream.elements import (
    Configuration,
    Element,
    Header,
    PageRecord,
    RamBlockList,
    RamMark,
    SectionFooter,
    SectionHead,
)
from harness.migration.stream.format import FLAG_CONTINUE, FLAG_EOS, FLAG_PAGE, FLAG_ZERO, SectionType
from harness.migration.stream.writer import encode, encode_page
from harness.model.memory import PAGE_SIZE

_RUN_PAGES = 256
"""Pages that are encoded at once."""

_ZERO_PAGE = bytes(PAGE_SIZE)


class Frame:
    """Keeps the elements before the first page: header, configuration, start of the RAM section, block list."""

    def __init__(self) -> None:
        self.elements: list[Element] = []
        self.section_id: int | None = None

    def add(self, element: Element) -> None:
        """Take one element of the stream; all but the first parts leave no trace."""
        match element:
            case Header() | Configuration() | RamBlockList():
                self.elements.append(element)
            case SectionHead(kind=SectionType.START) if self.section_id is None:
                self.section_id = element.section_id
                self.elements.append(element)

    @property
    def is_whole(self) -> bool:
        """True once the block list was seen."""
        return any(isinstance(element, RamBlockList) for element in self.elements)


def settled_stream(
    frame: Frame,
    *,
    main: str,
    ram: NDArray[np.uint8],
    extents: Iterable[tuple[int, int]],
    blocks: Mapping[str, bytes],
    tail: bytes,
) -> Iterator[bytes]:
    """The stream in pieces: *ram* is the content of the block *main*, of which only *extents* are not zero.

    *frame* must be whole. *tail* is everything from the first device section on.
    """
    assert frame.section_id is not None
    mark = encode(RamMark(word=FLAG_EOS)) + encode(SectionFooter(section_id=frame.section_id))
    yield b"".join(map(encode, frame.elements)) + mark
    yield encode(SectionHead(kind=SectionType.END, section_id=frame.section_id))
    name = main
    for start, end in extents:
        for at in range(start, end, _RUN_PAGES * PAGE_SIZE):
            piece = ram[at : min(at + _RUN_PAGES * PAGE_SIZE, end)]
            yield _records(name, at, piece.tobytes())
            name = ""
    for block, data in blocks.items():
        yield _records(block, 0, data)
    yield mark + tail


def _records(block: str, ram_addr: int, data: bytes) -> bytes:
    """Page records of *data*; *block* is named in the first, or empty when the block goes on."""
    parts = []
    for at in range(0, len(data), PAGE_SIZE):
        page = data[at : at + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")
        flags, content = (FLAG_ZERO, b"\0") if page == _ZERO_PAGE else (FLAG_PAGE, page)
        flags |= 0 if block and at == 0 else FLAG_CONTINUE
        parts.append(encode_page(PageRecord(block=block, ram_addr=ram_addr + at, flags=flags, data=content)))
    return b"".join(parts)
