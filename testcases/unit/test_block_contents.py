"""What a stream says of the small RAM blocks, from records in runs and alone."""

from __future__ import annotations

import numpy as np

from harness.migration.stream.blocks import BlockContents
from harness.migration.stream.elements import RamBlock, RamBlockList, RamPages
from harness.migration.stream.format import FLAG_MEM_SIZE, FLAG_PAGE
from harness.migration.stream.ram import NEXT_DATA_PAGE, NEXT_ZERO_PAGE
from harness.model.memory import PAGE_SIZE

USED_BYTES = 4 * PAGE_SIZE + 100
"""The last page is cut short."""


def block_list(**blocks: int) -> RamBlockList:
    found = tuple(RamBlock(name=name, used_bytes=used, page_size=None, gpa=None) for name, used in blocks.items())
    return RamBlockList(word=sum(blocks.values()) | FLAG_MEM_SIZE, blocks=found)


def pages(block: str, *records: tuple[int, int, bytes]) -> RamPages:
    """*records*: page number, flags, and what follows the word."""
    wire, starts, words = bytearray(), [], []
    for page, flags, data in records:
        starts.append(len(wire))
        words.append(page * PAGE_SIZE | flags)
        wire += words[-1].to_bytes(8, "big") + data
    return RamPages(
        block=block,
        buffer=memoryview(bytes(wire)),
        words=np.array(words, dtype=np.uint64),
        starts=np.array(starts, dtype=np.intp),
        end=len(wire),
        offset=0,
        page_size=PAGE_SIZE,
    )


def test_runs_of_either_kind_and_a_named_record() -> None:
    contents = BlockContents()
    contents.add(block_list(rom=USED_BYTES))
    a, b, c = (bytes([fill]) * PAGE_SIZE for fill in b"abc")
    contents.add(
        pages(
            "rom",
            (2, FLAG_PAGE, b"\x03rom" + a),
            (0, NEXT_DATA_PAGE, b),
            (4, NEXT_DATA_PAGE, c),
            (1, NEXT_ZERO_PAGE, b"\x00"),
            (3, NEXT_ZERO_PAGE, b"z"),
            (0, NEXT_DATA_PAGE, c),
            (0, NEXT_DATA_PAGE, a),
        )
    )
    assert contents.contents() == {"rom": a + bytes(PAGE_SIZE) + a + b"z" * PAGE_SIZE + c[:100]}


def test_a_second_list_begins_anew() -> None:
    contents = BlockContents()
    contents.add(block_list(rom=PAGE_SIZE, acpi=PAGE_SIZE))
    for name in ("rom", "acpi"):
        contents.add(pages(name, (0, NEXT_DATA_PAGE, bytes(PAGE_SIZE))))
    contents.add(block_list(rom=2 * PAGE_SIZE))
    contents.add(pages("rom", (1, NEXT_DATA_PAGE, b"x" * PAGE_SIZE)))
    assert contents.contents() == {"rom": bytes(PAGE_SIZE) + b"x" * PAGE_SIZE}
