"""The receiving half of one VM's protection: from RECEIVE_START until the guest may run here.

QEMU loads what the relay hands it, and that is what the guest would see if its tables agreed with how each page came.
Where they do not, :meth:`Incoming.finish` does to the stopped VM's memory what silicon would have done to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.caches.stale_lines import StaleLines
from harness.confidential.soft.host.pins import Pins
from harness.confidential.soft.memory.firmware import places_of
from harness.confidential.soft.memory.guest_tables import View, Views, runs_of
from harness.confidential.soft.memory.memory_views import decrypted, encrypted, pages_of
from harness.confidential.soft.processor.guest_context import SendSession
from harness.confidential.soft.processor.packets import Packet
from harness.confidential.soft.processor.processor_guest import ProcessorGuest
from harness.confidential.soft.processor.status import CommandRefusedError
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]

_NEVER, _PLAIN, _PACKET = 0, 1, 2
_CHUNK_PAGES = 4096


class Incoming:
    """Of one VM. Thread-safe."""

    def __init__(self, guest: ProcessorGuest, ram: Contents, pins: Pins, stale: StaleLines | None) -> None:
        self._guest, self._pins, self._stale = guest, pins, stale
        self._ram = pages_of(ram)
        self._kinds = np.full(len(self._ram), _NEVER, dtype=np.uint8)
        self._lock = threading.Lock()

    def start(self, session: SendSession) -> None:
        """RECEIVE_START. CommandRefusedError."""
        with self._lock:
            self._guest.receive_start(session)

    def open(self, ram_pages: Pages, packets: Sequence[Packet], into: Contents | None = None) -> Contents:
        """RECEIVE_UPDATE_DATA. CommandRefusedError of the first that is refused."""
        with self._lock:
            if self._stale:
                self._stale.note(ram_pages, self._kinds[ram_pages.astype(np.int64)] != _NEVER)
            return self._open(ram_pages, packets, into)

    def open_firmware(self, block_pages: Pages, packets: Sequence[Packet]) -> Contents:
        """RECEIVE_UPDATE_DATA of pages of the firmware's block."""
        with self._lock:
            return self._open(places_of(block_pages), packets)

    def firmware_guest_view(self, block_pages: Pages, contents: Contents) -> Contents:
        """What the guest reads of firmware that the host wrote. CommandRefusedError INVALID_GUEST without a session."""
        with self._lock:
            return decrypted(self._guest.memory, places_of(block_pages), contents)

    def _open(self, places: Pages, packets: Sequence[Packet], into: Contents | None = None) -> Contents:
        self._pins.pin(places)
        try:
            contents = self._guest.open(places, packets, into)
        except CommandRefusedError:
            self._pins.failed()
            raise
        self._pins.unpin()
        return contents

    def open_vmsa(self, vcpu: int, packet: Packet) -> bytes:
        """RECEIVE_UPDATE_VMSA."""
        with self._lock:
            return self._guest.open_vmsa(vcpu, packet)

    def note_kind(self, ram_pages: Pages, *, private: bool) -> None:
        """Their latest record was a packet, or a plain one."""
        with self._lock:
            self._kinds[ram_pages.astype(np.int64)] = _PACKET if private else _PLAIN

    def kinds(self) -> tuple[PageMap, PageSet]:
        """The stream as a witness: a page whose latest record was plain is shared; RAM pages that had any record."""
        with self._lock:
            plain, known = runs_of(self._kinds == _PLAIN), runs_of(self._kinds != _NEVER)
        page_map = PageMap(total_pages=len(self._ram), shared=PageSet.from_edges(plain))
        return page_map, PageSet.from_edges(known)

    def finish(self, look: Callable[[Pages], Views]) -> int:
        """RECEIVE_FINISH with the VM stopped; pages that were changed, because *look* (its tables) disagrees."""
        with self._lock:
            self._guest.receive_finish()
            if self._stale:
                self._stale.fall()
            return self._settle(look)

    def _settle(self, look: Callable[[Pages], Views]) -> int:
        views = look(np.arange(len(self._ram), dtype=np.uint64))
        as_cipher = np.flatnonzero((self._kinds == _PLAIN) & (views == View.PRIVATE)).astype(np.uint64)
        as_plain = np.flatnonzero((self._kinds == _PACKET) & (views == View.SHARED)).astype(np.uint64)
        for pages, transform in ((as_cipher, decrypted), (as_plain, encrypted)):
            for start in range(0, len(pages), _CHUNK_PAGES):
                part = pages[start : start + _CHUNK_PAGES]
                index = part.astype(np.int64)
                self._ram[index] = transform(self._guest.memory, part, self._ram[index])
        return len(as_cipher) + len(as_plain)
