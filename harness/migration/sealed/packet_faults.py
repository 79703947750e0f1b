"""What can happen to packets between two hosts: the Editor of a relay between source side and destination side.

Each fault strikes one packet of a page, behind the first and not the last of its batch, so that what follows it shows
that it is missing or out of turn. Which one is drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.processor.packets import PacketKind, PacketSealer, TransportKeys
from harness.migration.relay.editor import Edited
from harness.migration.sealed.records import RUN, SealedPages
from harness.migration.stream.elements import Element, Tail
from harness.migration.stream.format import FLAG_CONTINUE
from harness.migration.stream.writer import encode
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault
from harness.model.wire import AppliedFault

FIRST_PACKET, LAST_PACKET = 8, 256
"""The packet that is struck is at or behind one of these, by number."""
_CUT_BYTES = 64

Rows = NDArray[np.void]


@dataclass(frozen=True, slots=True, kw_only=True)
class StruckPacket:
    """What one fault did."""

    name: SoftFault
    times: int
    """0: it never struck, and the case proves nothing."""
    ram_addr: int | None = None
    detail: str = ""


class PacketFaultEditor:
    """All packet faults of one wire, each at a packet of its own."""

    def __init__(self, faults: Sequence[SoftFault], seed: Seed) -> None:
        """*faults* that are none of packets are left out."""
        self._waiting = {
            fault: seed.rng("packet", fault).randrange(FIRST_PACKET, LAST_PACKET) for fault in faults if fault in HOW
        }
        self._rng = seed.rng("packet-place")
        self._seen = 0
        self._struck: list[StruckPacket] = []

    is_holding = False
    """Nothing is held back."""

    def release(self) -> bytes:
        """Nothing."""
        return b""

    def applied(self) -> tuple[AppliedFault, ...]:
        """Nothing: see struck."""
        return ()

    def struck(self) -> tuple[StruckPacket, ...]:
        """What each fault did, or that it never did."""
        missing = (
            StruckPacket(name=name, times=0, detail=f"only {self._seen} packets were sent") for name in self._waiting
        )
        return (*self._struck, *missing)

    def edit(self, element: Element) -> Edited:
        """The bytes to send for *element*."""
        if not isinstance(element, SealedPages):
            return Edited(buffers=[b"" if isinstance(element, Tail) else encode(element)])
        before, self._seen = self._seen, self._seen + len(element.ram_addrs)
        due = [name for name, number in self._waiting.items() if number < self._seen]
        if not due or not _is_uniform(element):
            return Edited(buffers=[element.raw])
        name = due[0]
        index = min(max(self._waiting.pop(name) - before, 0), len(element.ram_addrs) - 2)
        rows = np.frombuffer(element.raw, dtype=RUN).copy()
        ram_addr = int(element.ram_addrs[index])
        data = HOW[name](rows, index, self._rng.randrange(PAGE_SIZE * 8))
        self._struck.append(StruckPacket(name=name, times=1, ram_addr=ram_addr, detail=f"packet {before + index}"))
        return Edited(buffers=[data])


def _is_uniform(pages: SealedPages) -> bool:
    """Two packets or more that are records with CONTINUE: any of them can be taken out or moved."""
    return len(pages.ram_addrs) > 1 and len(pages.raw) == len(pages.ram_addrs) * RUN.itemsize


def _tamper(rows: Rows, index: int, bit: int) -> bytes:
    rows["trans"][index, bit // 8] ^= 1 << bit % 8
    return rows.tobytes()


def _replay(rows: Rows, index: int, _: int) -> bytes:
    return rows[[*range(index + 1), *range(index, len(rows))]].tobytes()


def _reorder(rows: Rows, index: int, _: int) -> bytes:
    rows[[index, index + 1]] = rows[[index + 1, index]]
    return rows.tobytes()


def _truncate(rows: Rows, index: int, _: int) -> bytes:
    """The packet says 4096 bytes less some, and has so many: the stream around it stays in step."""
    short = PAGE_SIZE - _CUT_BYTES
    rows["trans_len"][index] = short
    return rows[: index + 1].tobytes()[:-_CUT_BYTES] + rows[index + 1 :].tobytes()


def _misplace(rows: Rows, index: int, _: int) -> bytes:
    """Two packets carry each other's address."""
    rows["word"][[index, index + 1]] = rows["word"][[index + 1, index]]
    return rows.tobytes()


def _drop(rows: Rows, index: int, _: int) -> bytes:
    return np.delete(rows, index).tobytes()


def _of_other_session(rows: Rows, index: int, bit: int) -> bytes:
    """As genuine as a packet of the same guest's earlier session: right number, right page, other keys."""
    key = bit.to_bytes(16, "big")
    sealer = PacketSealer(TransportKeys(key, key))
    sealer.sent = int.from_bytes(rows["hdr"][index, 4:20].tobytes(), "big") // (PAGE_SIZE // 16)
    place = (int(rows["word"][index]) & ~FLAG_CONTINUE) >> PAGE_SHIFT
    packet = sealer.seal(PacketKind.DATA, place, rows["trans"][index].tobytes())
    rows["hdr"][index] = np.frombuffer(packet.header, dtype=np.uint8)
    rows["trans"][index] = np.frombuffer(packet.data, dtype=np.uint8)
    return rows.tobytes()


HOW: MappingProxyType[SoftFault, Callable[[Rows, int, int], bytes]] = MappingProxyType(
    {
        SoftFault.PACKET_TAMPERED: _tamper,
        SoftFault.PACKET_REPLAYED: _replay,
        SoftFault.PACKET_REORDERED: _reorder,
        SoftFault.PACKET_TRUNCATED: _truncate,
        SoftFault.PACKET_MISPLACED: _misplace,
        SoftFault.PACKET_DROPPED: _drop,
        SoftFault.PACKET_OF_OTHER_SESSION: _of_other_session,
    }
)
"""Rows of one run, the index of the one that is struck, and a drawn number -> what goes on."""
