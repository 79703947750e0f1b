"""What a host can do to a guest's memory over a reboot: lines or pages of it are older than they were."""

from __future__ import annotations

import numpy as np

from harness.cases.faults import HostFault
from harness.guest.lines import page_bytes
from harness.guest.pattern import read_ledger
from harness.model.errors import PreconditionError
from harness.model.guest import GuestDescription, RamLayout
from harness.model.memory import LINE_SIZE, PAGE_SIZE
from harness.vm.ram import SharedRam

SPOILING = (HostFault.STALE_LINE, HostFault.STALE_PAGE, HostFault.BOOT_PAGE_LOST)

_BOOT_MAGIC = np.frombuffer(b"CVMBOOT1", dtype="<u8")[0]
_LINES = {HostFault.STALE_LINE: 1, HostFault.STALE_PAGE: PAGE_SIZE // LINE_SIZE}
_SEED = slice(16, 24)


def spoil(fault: HostFault, ram: SharedRam, layout: RamLayout, description: GuestDescription) -> None:
    """Apply *fault* to the memory of a guest that is idle."""
    if fault is HostFault.BOOT_PAGE_LOST:
        _lose_boot_page(ram)
        return
    index = description.managed_pages // 3
    gpa = description.page_gpa(index)
    generation = int(read_ledger(ram.view, layout, description)[index])
    start = layout.gpa_to_ram(gpa)
    seed = int.from_bytes(ram.view[start : start + LINE_SIZE][_SEED], "little")
    size_bytes = _LINES[fault] * LINE_SIZE
    ram.view[start : start + size_bytes] = page_bytes(gpa, generation - 1, seed)[:size_bytes]


def _lose_boot_page(ram: SharedRam) -> None:
    """The first line of the page that tells the next boot what to expect becomes what it was when the VM began."""
    first = np.frombuffer(ram.view, dtype="<u8", count=ram.size_bytes // 8)[:: PAGE_SIZE // 8]
    found = np.flatnonzero(first == _BOOT_MAGIC)
    if not found.size:
        raise PreconditionError("no boot page in the guest's memory")
    start = int(found[0]) * PAGE_SIZE
    ram.view[start : start + LINE_SIZE] = bytes(LINE_SIZE)
