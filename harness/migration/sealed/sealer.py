"""The source host's end: QEMU's stream in, the stream between the hosts out.

Private pages of main memory become packets, whatever record they came in; shared ones stay readable, as the host sees
them. The firmware's block is private as a whole, other RAM blocks are shared. Behind the last page the list goes out
and, for an ES guest, the CPU state: its registers stand in the device sections, so everything from the end of RAM on
waits for these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.host.outgoing import QemuAbortError
from harness.confidential.soft.memory.firmware import FIRMWARE_BLOCKS
from harness.confidential.soft.processor.guest_context import SendSession, SendTarget
from harness.confidential.soft.processor.packets import Packet, PacketRun
from harness.confidential.soft.processor.ring_buffer import WINDOW_PAGES
from harness.confidential.soft.processor.status import CommandRefusedError
from harness.migration.relay.editor import Edited, EditorRefusedError
from harness.migration.sealed.batch import Batch
from harness.migration.sealed.guest import OutgoingGuest, Pages, RamPages, Refusal
from harness.migration.sealed.page_buffers import (
    Buffers,
    RowMemory,
    contents_in_place,
    contents_of,
    named,
    plain_records,
    ram_pages_of,
)
from harness.migration.sealed.records import (
    FLAG_ENCRYPTED,
    RUN,
    SessionRecord,
    VcpuGhcb,
    VcpuPacket,
    cpu_state_record,
    first_record,
    list_record,
    page_rows,
    sealing_room,
)
from harness.migration.sealed.vcpu_state import auxiliary, strip
from harness.migration.stream import elements
from harness.migration.stream.elements import Element, Opaque, RamMark, SectionHead, Tail, TailPiece
from harness.migration.stream.format import FLAG_CONTINUE, SectionType
from harness.migration.stream.writer import encode
from harness.model.errors import StreamError
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault
from harness.model.wire import AppliedFault
from harness.vm.commandline import RAM_ID

_CLEAR_SHARE = 64
"""PRIVATE_IN_CLEAR strikes one page in so many."""
_SCALED_PAGES = 64
"""Windows under WINDOW_LOSES_EDGE: a small guest on a slow wire never fills one of 4094 before a section ends."""
_WAITING_BYTES = 8 << 20
"""So much of shared pages waits for a window's end; then the window ends."""
_OTHER_FLAG = 0x200
"""What OTHER_TREES_FLAGS puts in the place of 0x400: CGS_EPOCH of Intel's TDX tree on 7.2."""


class Sealer:
    """The Editor of the source's relay. One per migration."""

    def __init__(
        self,
        guest: OutgoingGuest,
        target: SendTarget,
        *,
        seed: Seed,
        faults: frozenset[SoftFault] = frozenset(),
        main: str = RAM_ID,
        window_pages: int = WINDOW_PAGES,
    ) -> None:
        """*target* is the destination's certificates."""
        self._guest = guest
        self._target = target
        self._faults = faults
        self._main = main
        loses_edge = SoftFault.WINDOW_LOSES_EDGE in faults
        self._batch = Batch(min(window_pages, _SCALED_PAGES) - 1 if loses_edge else window_pages)
        self._behind: Buffers = []
        self._rows = RowMemory(RUN)
        self._contents: Pages = np.empty((0, PAGE_SIZE), dtype=np.uint8)
        self._has_session = False
        self._out_block = ""
        self._is_final = False
        self._pause_s = 0.0
        self._held: Buffers | None = None
        self._clear_residue = seed.rng("sealed", SoftFault.PRIVATE_IN_CLEAR).randrange(_CLEAR_SHARE)
        self.abort = ""
        """Why QEMU of the series would have aborted; its driver has to end it then."""
        self.refusals: list[Refusal] = []
        """Why the connection ended, when a command was refused."""
        self.struck: Counter[SoftFault] = Counter()
        """How often each fault did what it does."""

    is_holding = False
    """What waits for the device sections is never given away without them: they hold the registers."""

    def release(self) -> bytes:
        """Nothing: see is_holding."""
        return b""

    def applied(self) -> tuple[AppliedFault, ...]:
        """Nothing: these are no wire faults, see struck."""
        return ()

    def edit(self, element: Element) -> Edited:
        """The bytes for the wire. Raises EditorRefusedError when the processor refuses a command."""
        self._rows.free()
        self._pause_s = 0.0
        try:
            return Edited(buffers=self._edit(element), pause_s=self._pause_s)
        except CommandRefusedError as refusal:
            self.refusals.append(Refusal(is_source=True, status=refusal.status, reason=str(refusal)))
            raise EditorRefusedError(f"the source's secure processor refused: {refusal}") from refusal
        except QemuAbortError as abort:
            self.abort = str(abort)
            raise EditorRefusedError(f"QEMU of the series aborts: {abort}") from abort

    def _edit(self, element: Element) -> Buffers:
        match element:
            case elements.RamPages() if element.block == self._main:
                return self._main_memory(element)
            case elements.RamPages() if element.block in FIRMWARE_BLOCKS:
                return [*self._end_batch(), *self._firmware(element)]
            case elements.RamPages():
                return [*self._end_batch(), *self._as_it_is(element)]
            case Tail() | TailPiece() | Opaque():
                return self._device_sections(element)
            case RamMark(is_end=True) if self._is_final:
                return self._end_of_ram(element)
            case SectionHead(kind=SectionType.END):
                self._is_final = True
        return self._in_turn(encode(element))

    def _in_turn(self, data: bytes) -> Buffers:
        if self._held is None:
            return [*self._end_batch(), data]
        self._held.append(data)
        return []

    def _device_sections(self, element: Tail | TailPiece | Opaque) -> Buffers:
        """Of an ES guest nothing before all is there, because the registers are among it."""
        if not self._guest.hides_registers:
            return [encode(element)]
        if isinstance(element, Opaque):
            raise StreamError(f"no registers can be found: {element.reason}", offset=0)
        return self._end(element) if isinstance(element, Tail) else []

    def _main_memory(self, pages: elements.RamPages) -> Buffers:
        ram_pages = ram_pages_of(pages)
        contents = contents_in_place(pages)
        if contents is None:
            contents = self._room(len(ram_pages))
            contents_of(pages, contents)
        is_kept = ~self._guest.forgotten(ram_pages)
        if not is_kept.all():
            self.struck[SoftFault.DIRTY_FORGOTTEN] += int((~is_kept).sum())
            ram_pages, contents = ram_pages[is_kept], contents[is_kept]
        return self._send(ram_pages, contents)

    def _firmware(self, pages: elements.RamPages) -> Buffers:
        """One kind for the whole block: no batches, it is small."""
        block_pages = ram_pages_of(pages)
        contents = self._room(len(block_pages))
        contents_of(pages, contents)
        if not self._guest.is_firmware_private:
            self.struck[SoftFault.FLASH0_SHARED] += len(block_pages)
            in_clear = self._guest.firmware_host_view(block_pages, contents)
            return self._named(plain_records(block_pages, in_clear), pages.block)
        buffers: Buffers = []
        if not self._has_session:
            buffers.append(self._first(block_pages[:1], contents[:1], pages.block))
            block_pages, contents = block_pages[1:], contents[1:]
        return buffers + self._singly(block_pages, contents, pages.block)

    def _send(self, ram_pages: RamPages, contents: Pages) -> Buffers:
        is_private = self._guest.is_private(ram_pages)
        is_clear = self._clear(ram_pages, is_private)
        buffers = self._private(ram_pages, contents, is_private & ~is_clear)
        if not is_private.all():
            shared = ~is_private
            buffers += self._plain(ram_pages[shared], self._guest.host_view(ram_pages[shared], contents[shared]))
        if is_clear.any():
            buffers += self._plain(ram_pages[is_clear], contents[is_clear])
        return buffers

    def _room(self, pages: int) -> Pages:
        if len(self._contents) < pages:
            self._contents = np.empty((pages, PAGE_SIZE), dtype=np.uint8)
        return self._contents[:pages]

    def _clear(self, ram_pages: RamPages, is_private: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if SoftFault.PRIVATE_IN_CLEAR not in self._faults:
            return np.zeros(len(ram_pages), dtype=np.bool_)
        is_clear: NDArray[np.bool_] = is_private & (ram_pages % np.uint64(_CLEAR_SHARE) == self._clear_residue)
        self.struck[SoftFault.PRIVATE_IN_CLEAR] += int(is_clear.sum())
        return is_clear

    def _private(self, ram_pages: RamPages, contents: Pages, wanted: NDArray[np.bool_]) -> Buffers:
        if not wanted.all():
            ram_pages, contents = ram_pages[wanted], contents[wanted]
        if not len(ram_pages):
            return []
        buffers: Buffers = []
        if not self._has_session:
            buffers.append(self._first(ram_pages[:1], contents[:1], self._main))
            ram_pages, contents = ram_pages[1:], contents[1:]
        if self._guest.flavour.batches:
            return buffers + self._batches(ram_pages, contents)
        return buffers + self._singly(ram_pages, contents, self._main)

    def _singly(self, pages: RamPages, contents: Pages, block: str) -> Buffers:
        if not len(pages):
            return []
        rows = self._seal(pages, contents, block)
        self._pace(len(rows))
        return self._named([rows.view(np.uint8).data], block)

    def _batches(self, ram_pages: RamPages, contents: Pages) -> Buffers:
        """Into windows. Pages are sealed at once, while they are in the cache, and go out up to the last."""
        buffers: Buffers = []
        while len(ram_pages):
            lost = 0
            if not self._batch.room:
                lost = self._lose_edge()
                buffers += self._end_batch()
            part = slice(lost, lost + self._batch.room)
            if len(ram_pages[part]):
                before = self._batch.pages
                rows = self._seal(ram_pages[part], contents[part], self._main)
                buffers += self._named(self._batch.add(rows), self._main)
                self._pace(self._batch.pages, of_which_done=before)
            ram_pages, contents = ram_pages[part.stop :], contents[part.stop :]
        return buffers

    def _lose_edge(self) -> int:
        """Pages lost: with the fault a window is one too small, and the page that should be its last goes nowhere."""
        if SoftFault.WINDOW_LOSES_EDGE not in self._faults:
            return 0
        self.struck[SoftFault.WINDOW_LOSES_EDGE] += 1
        return 1

    def _end_batch(self) -> Buffers:
        """Send the window, as it is, and what waited for its end."""
        buffers, self._behind = [*self._batch.end(), *self._behind], []
        return self._named(buffers, self._main)

    def _first(self, ram_page: RamPages, content: Pages, block: str) -> bytes:
        session: SendSession = self._guest.send_start(self._target)
        self._has_session = True
        (packet,) = self._packets(ram_page, content, block)
        self._pace(1)
        self._out_block = block
        record = SessionRecord(policy=session.policy.value, pdh=session.pdh, session=session.session)
        ram_addr = int(ram_page[0]) << PAGE_SHIFT
        return first_record(block, ram_addr, record, packet.header, packet.data)

    def _packets(self, ram_pages: RamPages, contents: Pages, block: str, into: Pages | None = None) -> Sequence[Packet]:
        if block != self._main:
            return self._guest.seal_firmware(ram_pages, contents)
        return self._guest.seal(ram_pages, contents, into)

    def _seal(self, ram_pages: RamPages, contents: Pages, block: str) -> NDArray[np.void]:
        rows = self._rows.take(len(ram_pages))
        packets = PacketRun.of(self._packets(ram_pages, contents, block, sealing_room(rows)))
        flag = FLAG_ENCRYPTED
        if SoftFault.OTHER_TREES_FLAGS in self._faults:
            self.struck[SoftFault.OTHER_TREES_FLAGS] += len(ram_pages)
            flag = _OTHER_FLAG
        ram_addrs = ram_pages << np.uint64(PAGE_SHIFT)
        return page_rows(ram_addrs, packets.headers, packets.data, flag=flag, memory=rows)

    def _plain(self, ram_pages: RamPages, contents: Pages) -> Buffers:
        """Plain records, which must not stand inside a window: no page comes twice before it ends, so they can wait."""
        buffers = plain_records(ram_pages, contents)
        if not self._batch.pages:
            return self._named(buffers, self._main)
        self._behind += buffers
        return self._end_batch() if sum(map(len, self._behind)) > _WAITING_BYTES else []

    def _named(self, buffers: Buffers, block: str) -> Buffers:
        """Records of *block*, with its name in the first if it is a new one."""
        is_new = bool(buffers) and self._out_block != block
        self._out_block = block if buffers else self._out_block
        return named(block, buffers) if is_new else buffers

    def _name(self) -> str:
        """What the next record of main memory has to name."""
        is_new, self._out_block = self._out_block != self._main, self._main
        return self._main if is_new else ""

    def _as_it_is(self, pages: elements.RamPages) -> Buffers:
        is_named = not int(pages.words[0]) & FLAG_CONTINUE
        must_name = not is_named and self._out_block != pages.block
        self._out_block = pages.block
        return named(pages.block, [pages.raw]) if must_name else [pages.raw]

    def _end_of_ram(self, mark: RamMark) -> Buffers:
        unsure = self._guest.unsure_pages()
        buffers = self._send(unsure, self._guest.contents_of(unsure)) if len(unsure) else []
        buffers += self._end_batch()
        shared = self._guest.shared_list()
        if shared is None:
            self.struck[SoftFault.LIST_NOT_SENT] += 1
        else:
            buffers.append(list_record(self._name(), shared))
        if self._guest.hides_registers:
            self._held = [encode(mark)]
            return buffers
        return [*buffers, encode(mark)]

    def _end(self, tail: Tail) -> Buffers:
        if self._held is None:
            raise StreamError("device sections before the end of RAM", offset=tail.offset)
        sections, registers = strip(tail)
        for vcpu, aux in auxiliary(tail).items():
            self._guest.note_vcpu(vcpu, aux=aux, vmsa=registers.get(vcpu, b""))
        return [self._cpu_state(registers), *self._held, sections]

    def _cpu_state(self, registers: dict[int, bytes]) -> bytes:
        entries: list[VcpuPacket | VcpuGhcb] = []
        for vcpu, pages in self._sent_registers(registers).items():
            for at in range(0, len(pages), PAGE_SIZE):
                packet = self._guest.seal_vmsa(vcpu, pages[at : at + PAGE_SIZE])
                entries.append(VcpuPacket(vcpu=vcpu, header=packet.header, data=packet.data))
        entries += [VcpuGhcb(vcpu=vcpu, value=value) for vcpu, value in self._guest.vcpu_records().items()]
        return cpu_state_record(self._name(), entries)

    def _sent_registers(self, registers: dict[int, bytes]) -> dict[int, bytes]:
        if SoftFault.VMSA_NOT_SENT in self._faults:
            self.struck[SoftFault.VMSA_NOT_SENT] += 1
            return {vcpu: pages for vcpu, pages in registers.items() if vcpu != max(registers)}
        if SoftFault.VMSA_SWAPPED in self._faults and len(registers) > 1:
            self.struck[SoftFault.VMSA_SWAPPED] += 1
            vcpus = list(registers)
            return {vcpu: registers[other] for vcpu, other in zip(vcpus, [*vcpus[1:], vcpus[0]], strict=True)}
        return registers

    def _pace(self, pages: int, *, of_which_done: int = 0) -> None:
        """Take as long as the processor. A window is paced as its pages come, so that QEMU sees it go on."""
        more_s = self._guest.pace_s(pages) - (self._guest.pace_s(of_which_done) if of_which_done else 0.0)
        self._pause_s += max(more_s, 0.0)
