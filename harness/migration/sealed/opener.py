"""The destination host's end: the stream between the hosts in, QEMU's stream out.

What is out of order is refused here, what is not genuine by the secure processor. QEMU gets plain records of the
content as the guest will see it, and the device sections with the registers back in place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from enum import IntEnum

import numpy as np

from harness.confidential.soft.memory.firmware import FIRMWARE_BLOCKS
from harness.confidential.soft.processor.guest_context import SendSession
from harness.confidential.soft.processor.packets import HEADER_BYTES, Packet, PacketRun
from harness.confidential.soft.processor.policy import Policy
from harness.confidential.soft.processor.ring_buffer import WINDOW_PAGES
from harness.confidential.soft.processor.status import CommandRefusedError
from harness.migration.relay.editor import Edited, EditorRefusedError
from harness.migration.sealed.guest import IncomingGuest, Pages, RamPages, Refusal
from harness.migration.sealed.page_buffers import (
    DATA,
    Buffers,
    RowMemory,
    contents_of,
    named,
    plain_records,
    ram_pages_of,
)
from harness.migration.sealed.records import (
    CpuStatePart,
    SealedPages,
    SessionRecord,
    SharedListPart,
    Subtype,
    VcpuGhcb,
    VcpuPacket,
)
from harness.migration.sealed.tap import Tap
from harness.migration.sealed.vcpu_state import auxiliary, forget_auxiliary, restore
from harness.migration.stream import elements
from harness.migration.stream.elements import Element, Tail, TailPiece, VendorRecords
from harness.migration.stream.format import FLAG_CONTINUE
from harness.migration.stream.writer import encode
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE
from harness.model.soft_fault import SoftFault
from harness.model.wire import AppliedFault
from harness.vm.commandline import RAM_ID


class _Stage(IntEnum):
    """How far the stream is; it never goes back."""

    PAGES = 0
    LIST = 1
    CPU_STATE = 2


class Opener:
    """The Editor of the destination's relay. One per migration."""

    def __init__(
        self,
        guest: IncomingGuest,
        *,
        tap: Tap,
        main: str = RAM_ID,
    ) -> None:
        self._guest = guest
        self._tap = tap
        self._main = main
        self._batch = 0
        self._rows = RowMemory(DATA)
        self._has_session = False
        self._stage = _Stage.PAGES
        self._list = bytearray()
        self._registers: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._out_block = ""
        self.refusals: list[Refusal] = []
        """Why the connection ended, when something was refused."""
        self.struck: Counter[SoftFault] = Counter()
        """How often each fault did what it does."""

    is_holding = False
    """The device sections are not given away before the registers are back in them."""

    def release(self) -> bytes:
        """Nothing: see is_holding."""
        return b""

    def applied(self) -> tuple[AppliedFault, ...]:
        """Nothing: these are no wire faults, see struck."""
        return ()

    def edit(self, element: Element) -> Edited:
        """The bytes for QEMU. Raises EditorRefusedError for what is out of order or not genuine."""
        self._tap.add(element)
        self._rows.free()
        try:
            return Edited(buffers=self._edit(element))
        except CommandRefusedError as refusal:
            self.refusals.append(Refusal(is_source=False, status=refusal.status, reason=str(refusal)))
            raise EditorRefusedError(f"the destination's secure processor refused: {refusal}") from refusal
        except StreamError as error:
            self.refusals.append(Refusal(is_source=False, reason=str(error)))
            raise EditorRefusedError(f"the destination refused: {error}") from error

    def _edit(self, element: Element) -> Buffers:
        if self._batch and not (isinstance(element, SealedPages) and element.subtype is not Subtype.PAGE):
            raise StreamError("a batch has no end", offset=getattr(element, "offset", 0))
        match element:
            case VendorRecords():
                return self._vendor(element)
            case elements.RamPages():
                return self._plain(element)
            case Tail() | TailPiece() if self._guest.flavour.is_es:
                return [self._sections(element)] if isinstance(element, Tail) else []
        return [encode(element)]

    def _vendor(self, element: VendorRecords) -> Buffers:
        match element:
            case SealedPages():
                return self._packets(element)
            case SharedListPart():
                self._shared_list(element)
            case CpuStatePart():
                self._cpu_state(element)
            case _:
                raise StreamError("a record that no protected guest sends", offset=element.offset)
        return []

    def _packets(self, pages: SealedPages) -> Buffers:
        self._expect(_Stage.PAGES, pages)
        if pages.block not in {self._main, *FIRMWARE_BLOCKS}:
            raise StreamError(f"packets for block {pages.block}, which is shared", offset=pages.offset)
        if pages.session is not None:
            self._start(pages.session)
        if not self._has_session:
            raise StreamError("packets before a session", offset=pages.offset)
        ram_pages = pages.ram_addrs >> np.uint64(PAGE_SHIFT)
        if pages.headers.shape[1] != HEADER_BYTES or pages.data.shape[1] != PAGE_SIZE:
            return self._open(pages.block, ram_pages, _odd(pages))
        if pages.subtype is not Subtype.PAGE:
            self._count(pages)
        return self._open(pages.block, ram_pages, PacketRun(pages.headers, pages.data))

    def _count(self, pages: SealedPages) -> None:
        """Keep to the windows. Their pages are opened as they come: nobody can use them before the guest runs."""
        is_end = pages.subtype is Subtype.BATCH_END
        self._batch += 1 if is_end else len(pages.ram_addrs)
        if self._batch > WINDOW_PAGES:
            raise StreamError(f"a batch of more than {WINDOW_PAGES} pages", offset=pages.offset)
        self._batch = 0 if is_end else self._batch

    def _open(self, block: str, ram_pages: RamPages, packets: PacketRun | list[Packet]) -> Buffers:
        if block != self._main:
            return self._records(block, plain_records(ram_pages, self._guest.open_firmware(ram_pages, packets)))
        rows = self._rows.take(len(ram_pages))
        contents: Pages = self._guest.open(ram_pages, packets, rows["data"])
        self._guest.note_kind(ram_pages, private=True)
        return self._records(block, plain_records(ram_pages, contents, memory=rows))

    def _records(self, block: str, buffers: Buffers) -> Buffers:
        is_new, self._out_block = self._out_block != block, block
        return named(block, buffers) if is_new else buffers

    def _start(self, session: SessionRecord) -> None:
        sent = SendSession(policy=Policy(session.policy), pdh=session.pdh, session=session.session)
        self._guest.receive_start(sent)
        self._has_session = True

    def _plain(self, pages: elements.RamPages) -> Buffers:
        self._expect(_Stage.PAGES, pages)
        if pages.block == self._main:
            self._guest.note_kind(ram_pages_of(pages), private=False)
        elif pages.block in FIRMWARE_BLOCKS:
            return self._firmware_in_clear(pages)
        must_name = bool(int(pages.words[0]) & FLAG_CONTINUE) and self._out_block != pages.block
        self._out_block = pages.block
        return named(pages.block, [pages.raw]) if must_name else [pages.raw]

    def _firmware_in_clear(self, pages: elements.RamPages) -> Buffers:
        block_pages, contents = ram_pages_of(pages), np.empty((len(pages), PAGE_SIZE), dtype=np.uint8)
        contents_of(pages, contents)
        contents = self._guest.firmware_guest_view(block_pages, contents)
        return self._records(pages.block, plain_records(block_pages, contents))

    def _shared_list(self, part: SharedListPart) -> None:
        if not part.data:
            self._expect(_Stage.PAGES, part)
            self._stage = _Stage.LIST
        self._list += part.data
        if part.is_end:
            self._guest.take_shared_list(bytes(self._list))

    def _cpu_state(self, part: CpuStatePart) -> None:
        if not self._guest.flavour.is_es:
            raise StreamError("a CPU state of a guest whose registers are plain", offset=part.offset)
        if not part.entries and not part.is_end and self._stage is _Stage.CPU_STATE:
            raise StreamError("a second CPU state", offset=part.offset)
        self._stage = _Stage.CPU_STATE
        for entry in part.entries:
            self._vcpu(entry)

    def _vcpu(self, entry: VcpuPacket | VcpuGhcb) -> None:
        if isinstance(entry, VcpuGhcb):
            self._guest.take_vcpu_record(entry.vcpu, entry.value)
        else:
            page = self._guest.open_vmsa(entry.vcpu, Packet(entry.header, entry.data))
            self._registers[entry.vcpu] += page

    def _sections(self, tail: Tail) -> bytes:
        registers = {vcpu: bytes(pages) for vcpu, pages in self._registers.items()}
        # What the host knows is not among what is restored, so the tail as it came tells it.
        sections, known = restore(tail, registers), auxiliary(tail)
        if not self._guest.restores_aux:
            self.struck[SoftFault.AUX_NOT_RESTORED] += 1
            sections = forget_auxiliary(tail, sections)
            known = auxiliary(replace(tail, data=sections))
        for vcpu, aux in known.items():
            self._guest.note_vcpu(vcpu, aux=aux, vmsa=registers.get(vcpu, b""))
        return sections

    def _expect(self, stage: _Stage, element: elements.RamPages | VendorRecords) -> None:
        if self._stage is not stage:
            what = "a list" if isinstance(element, SharedListPart) else "a page"
            raise StreamError(f"{what} behind the shared list or the CPU state", offset=element.offset)


def _odd(pages: SealedPages) -> list[Packet]:
    """Packets of sizes that no processor makes: it shall say so itself."""
    rows = zip(pages.headers, pages.data, strict=True)
    return [Packet(header.tobytes(), data.tobytes()) for header, data in rows]
