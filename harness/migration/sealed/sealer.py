"""The source host's end: QEMU's stream in, the stream between the hosts out.

Private pages of main memory become packets, whatever record they came in; shared ones stay readable, as the host sees
them; other RAM blocks (firmware) are shared. Behind the last page the list goes out and, for an ES guest, the CPU
state: its registers stand in the device sections, so everything from the end of RAM on waits for these.
"""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.guest_context import SendSession, SendTarget
from harness.confidential.soft.packets import PacketRun
from harness.confidential.soft.ring_buffer import WINDOW_PAGES
from harness.confidential.soft.status import CommandRefusedError
from harness.migration.relay.editor import Edited, EditorRefusedError
from harness.migration.sealed.guest import OutgoingGuest, Pages, RamPages, Refusal
from harness.migration.sealed.page_buffers import Buffers, contents_of, named, plain_records, ram_pages_of
from harness.migration.sealed.records import (
    FLAG_ENCRYPTED,
    SessionRecord,
    Subtype,
    VcpuGhcb,
    VcpuPacket,
    cpu_state_record,
    first_record,
    list_record,
    page_records,
)
from harness.migration.sealed.vcpu_state import strip
from harness.migration.sealed.window import Window
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
_OTHER_FLAG = 0x200
"""What OTHER_TREES_FLAGS puts in the place of 0x400: CGS_EPOCH of Intel's TDX tree on 7.2."""


class Sealer:
    """The Editor of the source's relay. One per migration."""

    def __init__(
        self,
        guest: OutgoingGuest,
        target: SendTarget,
        *,
        stop: threading.Event,
        seed: Seed,
        faults: frozenset[SoftFault] = frozenset(),
        main: str = RAM_ID,
        window_pages: int = WINDOW_PAGES,
    ) -> None:
        """*target* is the destination's certificates; *stop* ends a wait for a slow processor."""
        self._guest = guest
        self._target = target
        self._stop = stop
        self._faults = faults
        self._main = main
        self._window = Window(window_pages)
        self._has_session = False
        self._out_block = ""
        self._is_final = False
        self._held: Buffers | None = None
        self._clear_residue = seed.rng("sealed", SoftFault.PRIVATE_IN_CLEAR).randrange(_CLEAR_SHARE)
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
        try:
            return Edited(buffers=self._edit(element))
        except CommandRefusedError as refusal:
            self.refusals.append(Refusal(is_source=True, status=refusal.status, reason=str(refusal)))
            raise EditorRefusedError(f"the source's secure processor refused: {refusal}") from refusal

    def _edit(self, element: Element) -> Buffers:
        match element:
            case elements.RamPages() if element.block == self._main:
                return self._main_memory(element)
            case elements.RamPages():
                return [*self._flush(), *self._as_it_is(element)]
            case Tail() | TailPiece() | Opaque():
                return self._device_sections(element)
            case RamMark(is_end=True) if self._is_final:
                return self._end_of_ram(element)
            case SectionHead(kind=SectionType.END):
                self._is_final = True
        return self._in_turn(encode(element))

    def _in_turn(self, data: bytes) -> Buffers:
        if self._held is None:
            return [*self._flush(), data]
        self._held.append(data)
        return []

    def _device_sections(self, element: Tail | TailPiece | Opaque) -> Buffers:
        """Of an ES guest nothing before all is there, because the registers are among it."""
        if not self._guest.flavour.is_es:
            return [encode(element)]
        if isinstance(element, Opaque):
            raise StreamError(f"no registers can be found: {element.reason}", offset=0)
        return self._end(element) if isinstance(element, Tail) else []

    def _main_memory(self, pages: elements.RamPages) -> Buffers:
        ram_pages = ram_pages_of(pages)
        is_private = self._guest.is_private(ram_pages)
        if self._goes_straight(is_private):
            # The common case: from the socket's buffer into the window, and nowhere else.
            contents_of(pages, self._window.add(ram_pages))
            return []
        contents = np.empty((len(ram_pages), PAGE_SIZE), dtype=np.uint8)
        contents_of(pages, contents)
        is_clear = self._clear(ram_pages, is_private)
        buffers = self._private(ram_pages, contents, is_private & ~is_clear)
        if not is_private.all():
            shared = ~is_private
            buffers += self._plain(ram_pages[shared], self._guest.host_view(ram_pages[shared], contents[shared]))
        if is_clear.any():
            buffers += self._plain(ram_pages[is_clear], contents[is_clear])
        return buffers

    def _goes_straight(self, is_private: NDArray[np.bool_]) -> bool:
        is_simple = self._guest.flavour.batches and self._has_session and SoftFault.PRIVATE_IN_CLEAR not in self._faults
        return is_simple and len(is_private) <= self._window.room and bool(is_private.all())

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
            buffers.append(self._first(ram_pages[:1], contents[:1]))
            ram_pages, contents = ram_pages[1:], contents[1:]
        if not self._guest.flavour.batches:
            return buffers + self._packets(ram_pages, contents, Subtype.PAGE)
        return buffers + self._collect(ram_pages, contents)

    def _collect(self, ram_pages: RamPages, contents: Pages) -> Buffers:
        """Into the window; each that is full goes."""
        buffers: Buffers = []
        while len(ram_pages):
            if not self._window.room:
                buffers += self._flush()
            count = min(self._window.room, len(ram_pages))
            self._window.add(ram_pages[:count])[:] = contents[:count]
            ram_pages, contents = ram_pages[count:], contents[count:]
        return buffers

    def _flush(self) -> Buffers:
        """Send the window, as it is."""
        if not len(self._window):
            return []
        is_full = not self._window.room
        ram_pages, contents = self._window.take()
        if is_full and SoftFault.WINDOW_LOSES_EDGE in self._faults:
            self.struck[SoftFault.WINDOW_LOSES_EDGE] += 1
            ram_pages, contents = ram_pages[:-1], contents[:-1]
        subtypes = np.full(len(ram_pages), Subtype.BATCH, dtype=np.uint32)
        subtypes[-1] = Subtype.BATCH_END
        return self._packets(ram_pages, contents, subtypes)

    def _first(self, ram_page: RamPages, content: Pages) -> bytes:
        session: SendSession = self._guest.send_start(self._target)
        self._has_session = True
        (packet,) = self._guest.seal(ram_page, content)
        self._pace(1)
        self._out_block = self._main
        record = SessionRecord(policy=session.policy.value, pdh=session.pdh, session=session.session)
        ram_addr = int(ram_page[0]) << PAGE_SHIFT
        return first_record(self._main, ram_addr, record, packet.header, packet.data)

    def _packets(self, ram_pages: RamPages, contents: Pages, subtypes: NDArray[np.uint32] | int) -> Buffers:
        if not len(ram_pages):
            return []
        packets = PacketRun.of(self._guest.seal(ram_pages, contents))
        self._pace(len(ram_pages))
        flag = FLAG_ENCRYPTED
        if SoftFault.OTHER_TREES_FLAGS in self._faults:
            self.struck[SoftFault.OTHER_TREES_FLAGS] += len(ram_pages)
            flag = _OTHER_FLAG
        ram_addrs = ram_pages << np.uint64(PAGE_SHIFT)
        return page_records(self._name(), ram_addrs, subtypes, packets.headers, packets.data, flag=flag)

    def _plain(self, ram_pages: RamPages, contents: Pages) -> Buffers:
        return plain_records(self._name(), ram_pages, contents)

    def _name(self) -> str:
        """What the next record of main memory has to name."""
        is_new, self._out_block = self._out_block != self._main, self._main
        return self._main if is_new else ""

    def _as_it_is(self, pages: elements.RamPages) -> Buffers:
        is_named = not pages.words[0] & FLAG_CONTINUE
        must_name = not is_named and self._out_block != pages.block
        self._out_block = pages.block
        return named(pages.block, [pages.raw]) if must_name else [pages.raw]

    def _end_of_ram(self, mark: RamMark) -> Buffers:
        buffers = self._flush()
        shared = self._guest.shared_list()
        if shared is None:
            self.struck[SoftFault.LIST_NOT_SENT] += 1
        else:
            buffers.append(list_record(self._name(), shared))
        if self._guest.flavour.is_es:
            self._held = [encode(mark)]
            return buffers
        return [*buffers, encode(mark)]

    def _end(self, tail: Tail) -> Buffers:
        if self._held is None:
            raise StreamError("device sections before the end of RAM", offset=tail.offset)
        sections, registers = strip(tail)
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

    def _pace(self, pages: int) -> None:
        wait_s = self._guest.pace_s(pages)
        if wait_s > 0:
            self._stop.wait(wait_s)
