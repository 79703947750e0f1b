"""Tables of LPIs and of the ITS in guest memory: pure readers over a function that reads guest memory.

Pending tables: Arm IHI 0069, 5.1.2: bit N % 8 of byte N / 8 is INTID N; the first KiB, which would be INTIDs below
8192, belongs to the implementation and is never looked at. Tables of the ITS have a format of the implementation's own;
QEMU's is read here (hw/intc/gicv3_internal.h: DTE, CTE, ITE_L and VTE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from harness.migration.stream.gic_state import FIRST_LPI, VALID, Its, LpiTables
from harness.model.memory import PAGE_SIZE
from harness.model.translation import Translation

ReadMemory = Callable[[int, int], bytes]
"""Bytes at a gpa: (gpa, size)."""

_TYPE_DEVICES, _TYPE_COLLECTIONS, _TYPE_VPES = 1, 4, 2
_BASER_TYPE_SHIFT, _BASER_GPA, _BASER_PAGES = 56, 0x0000_FFFF_FFFF_F000, 0xFF
_PAGE_BYTES = {0: 0x1000, 1: 0x4000, 2: 0x10000, 3: 0x10000}
_ENTRY_BYTES, _ITE_BYTES = 8, 12
_VIRTUAL = 0
_CBASER_PAGES, _COMMAND_BYTES, _INT = 0xFF, 32, 0x03


def pending_lpis(tables: LpiTables, read: ReadMemory) -> frozenset[int]:
    """The INTIDs that a pending table has, none below 8192."""
    first, end = FIRST_LPI // 8, (1 << tables.id_bits) // 8
    if end <= first:
        return frozenset()
    data = read(tables.pending_gpa + first, end - first)
    return frozenset(
        (first + at) * 8 + bit for at, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1
    )


def vpe_tables(its: Its, read: ReadMemory) -> tuple[LpiTables, ...]:
    """Virtual pending tables of all vPEs that are mapped, resident or not; who configures them is not told here."""
    return tuple(
        LpiTables(pending_gpa=(entry >> 6 & (1 << 36) - 1) << 16, configuration_gpa=0, id_bits=(entry >> 1 & 0x1F) + 1)
        for entry in _tables_of(its, read).get(_TYPE_VPES, ())
        if entry & 1
    )


def translations(its: Its, read: ReadMemory) -> frozenset[Translation]:
    """All that QEMU's ITS would translate, from its flat tables in guest memory; empty for one that is not set up."""
    tables = _tables_of(its, read)
    found = (
        _translation(device, event, entry, tables)
        for device, dte in enumerate(tables.get(_TYPE_DEVICES, ()))
        if dte & 1
        for event, entry in _events(dte, read)
    )
    return frozenset(one for one in found if one is not None)


def collection_gpa(its: Its, read: ReadMemory, device: int, event: int) -> int:
    """Where the entry of a mapped *event* of *device* names its collection: two bytes, the ICID."""
    return _itt_gpa(_tables_of(its, read)[_TYPE_DEVICES][device]) + event * _ITE_BYTES + 4


def waiting_events(its: Its, read: ReadMemory) -> frozenset[tuple[int, int]]:
    """Device and event of each INT command that waits in the queue (Arm IHI 0069, 5.3: 32 bytes each)."""
    if not its.queue & VALID:
        return frozenset()
    size = ((its.queue & _CBASER_PAGES) + 1) * PAGE_SIZE
    queue = read(its.queue & _BASER_GPA, size)
    at, found = its.read_at, set()
    while at != its.written_to and at + _COMMAND_BYTES <= len(queue):
        first, second = (int.from_bytes(queue[at + 8 * word : at + 8 * word + 8], "little") for word in range(2))
        if first & 0xFF == _INT:
            found.add((first >> 32, second & 0xFFFF_FFFF))
        at = (at + _COMMAND_BYTES) % size
    return frozenset(found)


def _tables_of(its: Its, read: ReadMemory) -> dict[int, tuple[int, ...]]:
    """Entries by the type of their table."""
    return {baser >> _BASER_TYPE_SHIFT & 7: _table(baser, read) for baser in its.tables}


def _table(baser: int, read: ReadMemory) -> tuple[int, ...]:
    pages, page_bytes = (baser & _BASER_PAGES) + 1, _PAGE_BYTES[baser >> 8 & 3]
    data = read(baser & _BASER_GPA, pages * page_bytes)
    return tuple(int.from_bytes(data[at : at + _ENTRY_BYTES], "little") for at in range(0, len(data), _ENTRY_BYTES))


def _events(dte: int, read: ReadMemory) -> Iterator[tuple[int, int]]:
    """Valid entries of a device's interrupt translation table: the low 8 of their 12 bytes."""
    count = 2 << (dte >> 1 & 0x1F)
    data = read(_itt_gpa(dte), count * _ITE_BYTES)
    for event in range(count):
        entry = int.from_bytes(data[event * _ITE_BYTES : event * _ITE_BYTES + 8], "little")
        if entry & 1:
            yield event, entry


def _itt_gpa(dte: int) -> int:
    return (dte >> 6 & (1 << 44) - 1) << 8


def _translation(device: int, event: int, entry: int, tables: dict[int, tuple[int, ...]]) -> Translation | None:
    is_virtual = entry >> 1 & 1 == _VIRTUAL
    number = entry >> 48 & 0xFFFF if is_virtual else entry >> 32 & 0xFFFF
    targets = tables.get(_TYPE_VPES if is_virtual else _TYPE_COLLECTIONS, ())
    target = targets[number] if number < len(targets) else 0
    if not target & 1:
        return None
    vcpu = target >> 42 & 0xFFFF if is_virtual else target >> 1 & 0xFFFF
    return Translation(device, event, entry >> 2 & 0xFF_FFFF, vcpu, is_virtual)
