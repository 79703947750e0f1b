"""One guest's memory as its host finds it: content, the guest's tables, what the guest notes of its conversions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.memory.firmware import SHADOW_GFNS
from harness.confidential.soft.memory.guest_tables import GuestTables, TableMap, View, Views, runs_of
from harness.confidential.soft.memory.memory_views import encrypted, pages_of
from harness.confidential.soft.memory.whereabouts import Whereabouts, is_converting
from harness.confidential.soft.processor.processor_guest import ProcessorGuest
from harness.model.address_map import AddressMap
from harness.model.memory import PAGE_SIZE

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]


class GuestMemory:
    """Reads only. What it reads may change meanwhile, as it may for any host."""

    def __init__(self, ram: Contents, addresses: AddressMap, guest: ProcessorGuest, *, c_bit: int) -> None:
        self.addresses = addresses
        self.whereabouts: Whereabouts | None = None
        self._ram, self._guest, self._c_bit = ram, guest, c_bit
        self._pages = pages_of(ram)
        self._tables: GuestTables | None = None

    def know(self, whereabouts: Whereabouts) -> None:
        """Where the guest keeps its tables."""
        self._tables = GuestTables(self._ram, self.addresses, root_gpa=whereabouts.tables_gpa, c_bit=self._c_bit)
        self.whereabouts = whereabouts

    def forget(self) -> None:
        """The machine was reset: there are no tables yet."""
        self._tables = self.whereabouts = None

    def look(self, ram_pages: Pages) -> Views:
        """What the guest's tables say; all unknown before they are known."""
        tables = self._tables
        return tables.look(ram_pages) if tables else np.full(len(ram_pages), View.UNKNOWN, dtype=np.uint8)

    def whole(self) -> TableMap | None:
        """The same of all memory; None before they are known."""
        tables = self._tables
        return tables.whole() if tables else None

    def lost_with_key(self) -> Pages:
        """RAM pages that the tables call private; none before they are known.

        Not the firmware's shadow: a launch encrypts the firmware anew, and that is where a PC's machine keeps it.
        """
        is_lost = self.look(np.arange(len(self._pages), dtype=np.uint64)) == View.PRIVATE
        for start, end in self.addresses.ram_spans(SHADOW_GFNS.start, SHADOW_GFNS.stop):
            is_lost[start:end] = False
        return np.flatnonzero(is_lost).astype(np.uint64)

    def now(self, ram_pages: Pages) -> Contents:
        """Content at this moment, a row each, a copy."""
        return self._pages[ram_pages.astype(np.int64)]

    def spans(self, spans: tuple[tuple[int, int], ...]) -> Contents:
        """The same of spans of RAM pages."""
        parts = [self._pages[start:end] for start, end in spans]
        return np.concatenate(parts) if parts else np.empty((0, PAGE_SIZE), dtype=np.uint8)

    def spans_not_of(self, view: View, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of spans of RAM pages those parts that the tables do not call *view*."""
        found: list[tuple[int, int]] = []
        for start, end in spans:
            kept = self.look(np.arange(start, end, dtype=np.uint64)) != view
            found += [(start + low, start + high) for low, high in runs_of(kept).reshape(-1, 2).tolist()]
        return found

    def read(self, gpa: int) -> bytes | None:
        """The page at *gpa* as the host's CPU reads it, whatever its list says of it; None where no RAM is."""
        spans = self.addresses.ram_spans(gpa >> 12, (gpa >> 12) + 1)
        if not spans:
            return None
        ram_pages = np.array([spans[0][0]], dtype=np.uint64)
        content = self.now(ram_pages)
        if self.look(ram_pages)[0] == View.PRIVATE and self._guest.exists:
            content = encrypted(self._guest.memory, ram_pages, content)
        return content.tobytes()

    def is_converting(self, vcpu: int, *, unsaid: bool = True) -> bool:
        """Whether *vcpu* may be amid a conversion, as far as the guest's cvm page tells; *unsaid* where it does not."""
        page = self.read(self.whereabouts.cvm_gpa) if self.whereabouts else None
        said = is_converting(page, vcpu) if page else None
        return unsaid if said is None else said
