"""Counts the 0x400 records of a captured stream, for ``cvmig stream inspect``."""

from __future__ import annotations

from collections import Counter

from harness.migration.sealed.records import CpuStatePart, SealedPages, SharedListPart, Subtype, VcpuGhcb
from harness.migration.stream.elements import VendorRecords


class SealedCounts:
    """Feed it the vendor records of a stream."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, element: VendorRecords) -> None:
        """Take one element."""
        match element:
            case SealedPages():
                self._pages(element)
            case SharedListPart(data=b""):
                self._counts["shared lists"] += 1
            case CpuStatePart():
                for entry in element.entries:
                    self._counts["GHCB values" if isinstance(entry, VcpuGhcb) else "VMSA pages"] += 1

    def counts(self) -> tuple[tuple[str, int], ...]:
        """What there is, and how often."""
        return tuple(self._counts.items())

    def _pages(self, pages: SealedPages) -> None:
        if pages.session is not None:
            self._counts["sessions"] += 1
        self._counts["packets"] += len(pages.ram_addrs)
        if pages.subtype is Subtype.BATCH_END:
            self._counts["batches"] += len(pages.ram_addrs)
