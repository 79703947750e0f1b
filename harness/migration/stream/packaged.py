"""What a PACKAGED command holds: commands, then device sections without description, then commands."""

from __future__ import annotations

from harness.migration.stream.elements import Command, Element, TailPiece
from harness.migration.stream.format import CommandCode, SectionType
from harness.migration.stream.parser import StreamParser

TRAILERS = ((CommandCode.POSTCOPY_RUN, 0), (CommandCode.PING, 4))
"""Commands behind the sections, last first, with the length of their payload (postcopy_start in migration.c)."""


def parse_packaged(command: Command) -> list[Element]:
    """The nested elements; the device sections stay one opaque piece. Raises StreamError.

    Offsets count from the first byte of the package.
    """
    sections, trailing = _split(command.packaged)
    parser = StreamParser(nested=True)
    elements: list[Element] = [element for element in parser.feed(sections) if not isinstance(element, TailPiece)]
    if parser.is_in_tail:
        elements.append(TailPiece(data=memoryview(sections)[parser.tail_offset :]))
    return elements + trailing


def _split(data: bytes) -> tuple[bytes, list[Element]]:
    trailing: list[Element] = []
    for code, size in TRAILERS:
        head = bytes([SectionType.COMMAND, 0, code, 0, size])
        at = len(data) - len(head) - size
        while at >= 0 and data.startswith(head, at):
            trailing.insert(0, Command(code=code, payload=data[at + len(head) :]))
            data = data[:at]
            at = len(data) - len(head) - size
    return data, trailing
