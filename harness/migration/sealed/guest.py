"""What the two ends of a sealed wire need of their host's platform, and the word for its refusals.

The platform itself is harness.confidential.soft; an end knows nothing of keys, tables or lists but what is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.processor.guest_context import SendSession, SendTarget
from harness.confidential.soft.processor.packets import Packet

RamPages = NDArray[np.uint64]
"""ram_addr >> 12 of pages of main memory."""
Pages = NDArray[np.uint8]
"""Content of pages, a row of 4096 bytes each."""


class Flavour(Protocol):
    """What a kind of platform does differently."""

    @property
    def is_es(self) -> bool:
        """Registers are encrypted: they travel in VMSA packets, and the GHCB values beside them."""
        ...

    @property
    def batches(self) -> bool:
        """Pages are sent in windows, one command each."""
        ...


class OutgoingGuest(Protocol):
    """A guest on the host that it leaves. Commands of the processor raise CommandRefusedError."""

    @property
    def flavour(self) -> Flavour:
        """Of its platform."""
        ...

    def send_start(self, target: SendTarget) -> SendSession:
        """SEND_START, on the first private page."""
        ...

    def is_private(self, ram_pages: RamPages) -> NDArray[np.bool_]:
        """What the host's list says of each page."""
        ...

    def seal(self, ram_pages: RamPages, contents: Pages, into: Pages | None = None) -> Sequence[Packet]:
        """SEND_UPDATE_DATA of pages that the list calls private; one command when the flavour batches.

        The packets' data is made in the rows of *into*, if it is given: pages with TAG_BYTES of scratch behind each.
        """
        ...

    def host_view(self, ram_pages: RamPages, contents: Pages) -> Pages:
        """What the host reads of pages that the list calls shared."""
        ...

    @property
    def is_firmware_private(self) -> bool:
        """What the host takes the firmware's block for."""
        ...

    def seal_firmware(self, block_pages: RamPages, contents: Pages) -> Sequence[Packet]:
        """SEND_UPDATE_DATA of pages of the firmware's block, which are no pages of main memory."""
        ...

    def firmware_host_view(self, block_pages: RamPages, contents: Pages) -> Pages:
        """What the host reads of them."""
        ...

    def unsure_pages(self) -> RamPages:
        """Pages to be sent once more when the VM has stopped, before the list: they were amid a conversion."""
        ...

    def contents_of(self, ram_pages: RamPages) -> Pages:
        """Guest memory at this moment."""
        ...

    def forgotten(self, ram_pages: RamPages) -> NDArray[np.bool_]:
        """Which of these QEMU leaves out by mistake; none but under a fault."""
        ...

    def shared_list(self) -> bytes | None:
        """The list as it travels; None when it does not."""
        ...

    @property
    def hides_registers(self) -> bool:
        """Whether QEMU finds no registers to put into the stream: they travel in VMSA packets."""
        ...

    def seal_vmsa(self, vcpu: int, page: bytes) -> Packet:
        """SEND_UPDATE_VMSA."""
        ...

    def note_vcpu(self, vcpu: int, *, aux: Mapping[str, int], vmsa: bytes = b"") -> None:
        """Registers as QEMU saved them, for the evidence: the host's, and the pages of the VMSA."""
        ...

    def vcpu_records(self) -> Mapping[int, int]:
        """GHCB value with its flag bits of each vCPU that has one."""
        ...

    def pace_s(self, pages: int) -> float:
        """How long a processor as slow as this one takes for *pages* pages; 0 when it is not slow."""
        ...


class IncomingGuest(Protocol):
    """A guest on the host that it comes to. Commands of the processor raise CommandRefusedError."""

    @property
    def flavour(self) -> Flavour:
        """Of its platform."""
        ...

    def receive_start(self, session: SendSession) -> None:
        """RECEIVE_START, on the first packet."""
        ...

    def open(self, ram_pages: RamPages, packets: Sequence[Packet], into: Pages | None = None) -> Pages:
        """RECEIVE_UPDATE_DATA: content as the guest will see it, in the rows of *into* if it is given."""
        ...

    def open_firmware(self, block_pages: RamPages, packets: Sequence[Packet]) -> Pages:
        """RECEIVE_UPDATE_DATA of pages of the firmware's block."""
        ...

    def firmware_guest_view(self, block_pages: RamPages, contents: Pages) -> Pages:
        """What the guest reads of such pages that came in clear."""
        ...

    def note_kind(self, ram_pages: RamPages, *, private: bool) -> None:
        """These pages came just now, as packets or as plain records."""
        ...

    def take_shared_list(self, data: bytes) -> None:
        """The list that came. StreamError when it is none."""
        ...

    def open_vmsa(self, vcpu: int, packet: Packet) -> bytes:
        """RECEIVE_UPDATE_VMSA."""
        ...

    @property
    def restores_aux(self) -> bool:
        """Whether KVM takes cr0, cr4, efer and cr8 of a protected vCPU from userspace."""
        ...

    def note_vcpu(self, vcpu: int, *, aux: Mapping[str, int], vmsa: bytes = b"") -> None:
        """Registers as QEMU is to load them, for the evidence; no VMSA when none came."""
        ...

    def take_vcpu_record(self, vcpu: int, ghcb: int) -> None:
        """GHCB value that came."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why one end closed the connection."""

    is_source: bool
    reason: str
    status: int = 0
    """Firmware status where a processor refused a command; 0 where the end itself refused what came."""
