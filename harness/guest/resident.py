"""Finds the probe in the memory of a VM that nobody has talked to: a guest that was loaded from a file.

The heartbeat page tells the seed, the ledger, and how many pages carry the pattern; which ones these are follows from
how the probe divides memory (memory_settle in images/probe/src/memory.c).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from harness.guest.heartbeat import MAGIC, read_heartbeat
from harness.model.errors import ProtocolError
from harness.model.guest import FOUR_GIB, GuestDescription, Heartbeat, RamLayout
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE, GpaRange

_LOW_RESERVED = 1 << 20
"""What is never managed at the start of RAM: a PC's legacy hole, the device tree of Arm's virt."""
_IMAGE_OFFSET = 2 << 20
"""Where the probe is linked to (arch/*/link.ld), from the start of RAM; the MiB below carries the pattern."""
_LOW_PAGES = 0x9FC00 >> PAGE_SHIFT
"""Conventional memory in SeaBIOS' e820 map: not managed, but the ledger has room for it."""
_ENTRY_BYTES = 4
_MAX_VCPUS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A probe that lives in this memory."""

    heartbeat: Heartbeat
    description: GuestDescription
    """As DESCRIBE would answer, without what memory does not tell: versions, clock, RAM ranges."""


def find_probe(ram: memoryview, extents: Iterable[tuple[int, int]], layout: RamLayout) -> Resident | None:
    """The probe in main memory *ram*, of which only *extents* (ranges of ram_addr) were ever written.

    None where there is none, or none that can be understood.
    """
    for gpa in map(layout.ram_to_gpa, _magic_pages(ram, extents)):
        try:
            heartbeat = read_heartbeat(ram, layout, gpa)
        except ProtocolError:
            continue
        managed = _managed(heartbeat, layout)
        if managed and 1 <= len(heartbeat.vcpus) <= _MAX_VCPUS:
            return Resident(heartbeat=heartbeat, description=_description(heartbeat, gpa, layout, managed))
    return None


def _magic_pages(ram: memoryview, extents: Iterable[tuple[int, int]]) -> Iterator[int]:
    words_per_page = PAGE_SIZE // 8
    for start, end in extents:
        count = (end - start) // PAGE_SIZE * words_per_page
        first_words = np.frombuffer(ram, dtype="<u8", count=count, offset=start)[::words_per_page]
        yield from (start + int(page) * PAGE_SIZE for page in np.flatnonzero(first_words == MAGIC))


def _managed(heartbeat: Heartbeat, layout: RamLayout) -> tuple[GpaRange, ...]:
    """The managed ranges, in the ledger's order; empty when the figures do not fit this memory.

    The ledger is as long as there is RAM. On a PC, where RAM below 4 GiB ends follows from the ledger's length, because
    the firmware keeps an unknown bit of it; so both are found together. Arm's virt keeps none.
    """
    low, image = layout.low_gpa + _LOW_RESERVED, layout.low_gpa + _IMAGE_OFFSET
    above_pages = (layout.total_bytes - layout.below_4g_bytes) >> PAGE_SHIFT
    main_pages = heartbeat.managed_pages - above_pages - ((image - low) >> PAGE_SHIFT)
    if main_pages <= 0 or heartbeat.ledger_gpa % PAGE_SIZE or heartbeat.ledger_gpa < image:
        return ()
    low_pages = _LOW_RESERVED >> PAGE_SHIFT if layout.low_gpa else _LOW_PAGES
    ledger_pages, start = 0, 0
    for _ in range(8):
        start = heartbeat.ledger_gpa + ledger_pages * PAGE_SIZE
        ram_pages = low_pages + above_pages + ((start - low) >> PAGE_SHIFT) + main_pages
        ledger_pages, before = -(-ram_pages * _ENTRY_BYTES // PAGE_SIZE), ledger_pages
        if ledger_pages == before:
            break
    end = start + main_pages * PAGE_SIZE
    if end > layout.low_gpa + layout.below_4g_bytes:
        return ()
    above = GpaRange(FOUR_GIB, FOUR_GIB + above_pages * PAGE_SIZE)
    spans = (GpaRange(low, image), GpaRange(start, end), above)
    return tuple(span for span in spans if span.pages)


def _description(heartbeat: Heartbeat, gpa: int, layout: RamLayout, managed: tuple[GpaRange, ...]) -> GuestDescription:
    return GuestDescription(
        protocol_version=0,
        probe_version=0,
        arch=layout.arch,
        vcpus=len(heartbeat.vcpus),
        boot_id=heartbeat.boot_id,
        boot_count=heartbeat.boot_count,
        tsc=0,
        heartbeat_gpa=gpa,
        ledger_gpa=heartbeat.ledger_gpa,
        ram=(),
        managed=managed,
    )
