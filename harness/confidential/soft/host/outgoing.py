"""The sending half of one VM's protection: from SEND_START to SEND_FINISH or SEND_CANCEL, attempt after attempt."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.host.pins import Pins
from harness.confidential.soft.memory.conversions import Unfinished
from harness.confidential.soft.memory.firmware import places_of
from harness.confidential.soft.memory.memory_views import MemoryViews, encrypted
from harness.confidential.soft.processor.guest_context import SendSession, SendTarget
from harness.confidential.soft.processor.packets import Packet, PacketRun
from harness.confidential.soft.processor.processor_guest import ProcessorGuest
from harness.confidential.soft.processor.status import CommandRefusedError
from harness.model.page_map import PageMap
from harness.model.soft_fault import SoftFault

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]

FILE_NAME = b"pdh.cert.b64"
"""What CERTIFICATE_AS_FILE_NAME hands over in the place of what is in that file."""
_TWICE = 2
_NEVER, _PLAIN, _PACKET = 0, 1, 2


class QemuAbortError(Exception):
    """QEMU of the series would abort here, in g_malloc(): whoever drives it ends it with SIGABRT, as it would end.

    Class B30: a length query of SEND_START fails, the function returns -1, and that is taken for a length.
    """


class Outgoing:
    """Of one VM. Thread-safe, but for one relay at a time."""

    def __init__(
        self, guest: ProcessorGuest, views: MemoryViews, pins: Pins, *, pages: int, faults: AbstractSet[SoftFault]
    ) -> None:
        self._guest, self._views, self._pins, self._faults = guest, views, pins, faults
        self._lock = threading.Lock()
        self._times_sealed = np.zeros(pages, dtype=np.uint8)
        self._forgotten = np.zeros(pages, dtype=np.bool_)
        self._kinds = np.full(pages, _NEVER, dtype=np.uint8)

    def start(self, target: SendTarget) -> SendSession:
        """SEND_START. CommandRefusedError; QemuAbortError."""
        if SoftFault.CERTIFICATE_AS_FILE_NAME in self._faults:
            target = replace(target, pdh=FILE_NAME)
        with self._lock:
            if SoftFault.LENGTH_QUERY_IGNORED in self._faults:
                raise QemuAbortError("QEMU took a failed length query of SEND_START for a length of 2**64 - 1")
            return self._guest.send_start(target)

    def seal(self, ram_pages: Pages, contents: Contents, into: Contents | None = None) -> PacketRun:
        """SEND_UPDATE_DATA of all of them."""
        with self._lock:
            plain = self._views.to_seal(ram_pages, contents, lambda: self._guest.memory)
            packets = self._seal(ram_pages, plain, into)
            self._count(ram_pages)
            return packets

    def seal_firmware(self, block_pages: Pages, contents: Contents) -> PacketRun:
        """SEND_UPDATE_DATA of pages of the firmware's block."""
        with self._lock:
            return self._seal(places_of(block_pages), contents)

    def _seal(self, places: Pages, plain: Contents, into: Contents | None = None) -> PacketRun:
        self._pins.pin(places)
        try:
            packets = self._guest.seal(places, plain, into)
        except CommandRefusedError:
            self._pins.failed()
            raise
        self._pins.unpin()
        return packets

    def host_view(self, ram_pages: Pages, contents: Contents, unfinished: Iterable[Unfinished]) -> Contents:
        """What the host reads of pages that its list calls shared."""
        with self._lock:
            self._kinds[ram_pages.astype(np.int64)] = _PLAIN
            return self._views.in_clear(ram_pages, contents, lambda: self._guest.memory, unfinished)

    def firmware_host_view(self, block_pages: Pages, contents: Contents) -> Contents:
        """Ciphertext, always."""
        with self._lock:
            return encrypted(self._guest.memory, places_of(block_pages), contents)

    def unsure(self, page_map: PageMap) -> Pages:
        """See MemoryViews.unsure; and pages that went as what they are not any more by *page_map*, the host's list."""
        is_shared = np.zeros(len(self._kinds), dtype=np.bool_)
        for start, end in page_map.shared.ranges():
            is_shared[start:end] = True
        with self._lock:
            is_other = self._kinds == np.where(is_shared, _PACKET, _PLAIN)
            return np.union1d(self._views.unsure(), np.flatnonzero(is_other).astype(np.uint64))

    def seal_vmsa(self, vcpu: int, page: bytes) -> Packet:
        """SEND_UPDATE_VMSA."""
        with self._lock:
            return self._guest.seal_vmsa(vcpu, page)

    def finish(self) -> None:
        """The guest has moved."""
        with self._lock:
            if self._guest.is_sending:
                self._guest.send_finish()
            self._pins.unpin()
            self._begin_anew()

    def cancel(self) -> None:
        """The attempt failed or was cancelled: the guest goes on here."""
        with self._lock:
            self._pins.cancelled()
            if self._guest.is_sending:
                self._give_up()
            self._begin_anew()

    def _give_up(self) -> None:
        if SoftFault.FINISH_ON_FAILURE in self._faults:
            self._guest.send_finish()
            return
        self._guest.send_cancel()
        if SoftFault.DIRTY_FORGOTTEN in self._faults:
            # Nothing was sealed twice yet when an attempt ends while its later passes are still on their way here.
            twice = self._times_sealed >= _TWICE
            self._forgotten |= twice if twice.any() else self._times_sealed > 0

    def _begin_anew(self) -> None:
        """What was sent so far was of an attempt that is over; its first shared pages may go before SEND_START."""
        self._times_sealed[:] = 0
        self._kinds[:] = _NEVER
        self._views.forget()

    def take_forgotten(self, ram_pages: Pages) -> NDArray[np.bool_]:
        """Pages that QEMU leaves out now, because it lost that they were written since; each is asked for once."""
        with self._lock:
            index = ram_pages.astype(np.int64)
            found = self._forgotten[index]
            self._forgotten[index] = False
            return found

    def _count(self, ram_pages: Pages) -> None:
        index = ram_pages.astype(np.int64)
        self._kinds[index] = _PACKET
        self._times_sealed[index] = np.minimum(self._times_sealed[index] + 1, _TWICE)
