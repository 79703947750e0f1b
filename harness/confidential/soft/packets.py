"""Transport packets: one page or one VMSA, encrypted and authenticated under the keys of one session.

Shape as in the SEV API's packet header: 52 bytes, flags u32, iv 16, mac 32; AES-128-CTR under TEK, a MAC under TIK.
What real firmware feeds into the MAC of a migration packet is not verified; ours, private to the emulation, is
AES-128-GMAC of the data, 16 bytes and 16 zeros, with the nonce::

    be40 number of the packet   u8 kind   be48 place

where the API has HMAC-SHA256: that takes 3.5 us of each page on either side, more than all the rest of the way.

The iv of packet n is the number, be128, of its first AES block when all packets of the session stand one behind the
other: so no key stream is ever used twice, and a run of packets is one pass of AES-CTR. The nonce binds *place*, the
RAM page or vCPU that the packet is for: a packet that is put elsewhere does not verify.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import repeat
from typing import overload

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from harness.confidential.soft.status import CommandRefusedError, FirmwareStatus
from harness.model.memory import PAGE_SIZE

HEADER_BYTES = 52
MAC_BYTES = 32
_TAG_BYTES = 16
_IV_BYTES = 16
_STEP_PAGES = 64
"""Pages that are worked on at once: they stay in the cache between encryption and MAC."""
_BLOCKS_PER_PAGE = PAGE_SIZE // 16
_BLOCKS_SHIFT = _BLOCKS_PER_PAGE.bit_length() - 1
_HEADER = np.dtype([("flags", "<u4"), ("iv", "u1", (_IV_BYTES,)), ("mac", "u1", (MAC_BYTES,))])
_NONCE = np.dtype([("sequence", ">u8"), ("place", ">u8")])
_NONCE_BYTES = 12
PLACE_LIMIT = 1 << 48
"""RAM pages, and vCPUs, that a nonce can name."""
_SEQUENCE_LIMIT = 1 << 40

Bytes = NDArray[np.uint8]
Places = NDArray[np.uint64]


class PacketKind(IntEnum):
    """First byte of what is authenticated: a data packet is no VMSA packet."""

    SECRET = 0x01
    DATA = 0x02
    VMSA = 0x03


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """Of one SEND_START."""

    tek: bytes = field(repr=False)
    """AES-128 key."""
    tik: bytes = field(repr=False)
    """Key of the MAC."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What SEND_UPDATE_* gives: ``hdr`` and ``trans`` of KVM's commands."""

    header: bytes
    data: bytes

    @property
    def sequence(self) -> int:
        """As the header claims; only worth anything once the packet was opened."""
        return _sequence(self.header[4 : 4 + _IV_BYTES])


class PacketRun(Sequence[Packet]):
    """Packets of whole pages as two arrays, row by row; to make an object of each would cost more than to seal it."""

    def __init__(self, headers: Bytes, data: Bytes) -> None:
        """*headers* has HEADER_BYTES columns, *data* PAGE_SIZE; ValueError else."""
        if headers.shape != (len(headers), HEADER_BYTES) or data.shape != (len(headers), PAGE_SIZE):
            raise ValueError(f"packets of {headers.shape} and {data.shape}")
        self.headers = headers
        self.data = data

    @classmethod
    def of(cls, packets: Sequence[Packet]) -> PacketRun:
        """*packets* as arrays. CommandRefusedError INVALID_LENGTH for one that is cut."""
        if isinstance(packets, PacketRun):
            return packets
        for packet in packets:
            _check_packet(packet)
        headers = np.frombuffer(b"".join(packet.header for packet in packets), dtype=np.uint8)
        data = np.frombuffer(b"".join(packet.data for packet in packets), dtype=np.uint8)
        return cls(headers.reshape(-1, HEADER_BYTES), data.reshape(-1, PAGE_SIZE))

    def __len__(self) -> int:
        return len(self.headers)

    @overload
    def __getitem__(self, index: int) -> Packet: ...
    @overload
    def __getitem__(self, index: slice) -> PacketRun: ...
    def __getitem__(self, index: int | slice) -> Packet | PacketRun:
        if isinstance(index, slice):
            return PacketRun(self.headers[index], self.data[index])
        return Packet(self.headers[index].tobytes(), self.data[index].tobytes())


class _Engine:
    """Both keys of a session, as contexts: to make new ones costs more than to encrypt a page."""

    def __init__(self, keys: TransportKeys) -> None:
        self._stream = Cipher(AES(keys.tek), CTR(bytes(_IV_BYTES))).encryptor()
        self._mac = AESGCM(keys.tik)

    def apply(self, sequence: int, data: Bytes, out: Bytes) -> None:
        """AES-CTR, either way, of packets from *sequence* on; *out* has 15 bytes of room behind what is written."""
        self._stream.reset_nonce((sequence << _BLOCKS_SHIFT).to_bytes(_IV_BYTES, "big"))
        self._stream.update_into(data.reshape(-1).data, out.data)

    def macs(self, nonces: Sequence[bytes], pages: Sequence[memoryview]) -> Bytes:
        """One row for each page. What is done page by page is done here, and nothing of it in Python."""
        tags = b"".join(map(self._mac.encrypt, nonces, repeat(b""), pages))
        macs = np.zeros((len(pages), MAC_BYTES), dtype=np.uint8)
        macs[:, :_TAG_BYTES] = np.frombuffer(tags, dtype=np.uint8).reshape(-1, _TAG_BYTES)
        return macs


class _Room:
    """Memory for pages, the same each time: a window is 16 MiB, and fresh memory costs more than to encrypt it."""

    def __init__(self) -> None:
        self.bytes: Bytes = np.empty(0, dtype=np.uint8)
        """All of it, with room behind it that update_into() wants."""
        self.views: list[memoryview] = []
        """Of each page."""

    def take(self, pages: int) -> Bytes:
        """Rows for *pages* pages; they are the first of :attr:`bytes`."""
        if len(self.views) < pages:
            self.bytes = np.empty(pages * PAGE_SIZE + _IV_BYTES, dtype=np.uint8)
            self.views = [self.bytes.data[at : at + PAGE_SIZE] for at in range(0, pages * PAGE_SIZE, PAGE_SIZE)]
        return self.bytes[: pages * PAGE_SIZE].reshape(pages, PAGE_SIZE)


class PacketSealer:
    """The sending end of one session: numbers packets from 0."""

    def __init__(self, keys: TransportKeys) -> None:
        self._engine, self._room = _Engine(keys), _Room()
        self.sent = 0

    def seal(self, kind: PacketKind, place: int, plain: bytes) -> Packet:
        """*plain* (4096 bytes) for RAM page or vCPU *place*. INVALID_LENGTH for another size."""
        _check_length(len(plain), "guest_len")
        return self.seal_run(kind, np.array([place], dtype=np.uint64), plain)[0]

    def seal_run(self, kind: PacketKind, places: Places, plain: bytes | memoryview | Bytes) -> PacketRun:
        """One packet per place; *plain* holds their pages one behind the other.

        INVALID_LENGTH for another size, INVALID_ADDRESS for a place beyond 48 bits.

        What is returned is valid until the next call.
        """
        pages = np.frombuffer(plain, dtype=np.uint8)
        _check_length(pages.size, "guest_len", pages=len(places))
        _check_places(places)
        pages, data = pages.reshape(-1, PAGE_SIZE), self._room.take(len(places))
        headers = np.zeros(len(places), dtype=_HEADER)
        numbers = np.arange(self.sent, self.sent + len(places), dtype=np.uint64)
        headers["iv"] = _ivs(numbers)
        nonces = _nonces(kind, numbers, places)
        for start in range(0, len(places), _STEP_PAGES):
            part = slice(start, min(start + _STEP_PAGES, len(places)))
            self._engine.apply(self.sent + start, pages[part], self._room.bytes[start * PAGE_SIZE :])
            headers["mac"][part] = self._engine.macs(nonces[part], self._room.views[part])
        self.sent += len(places)
        return PacketRun(headers.view(np.uint8).reshape(-1, HEADER_BYTES), data)


class PacketOpener:
    """The receiving end of one session: takes each packet once, in order."""

    def __init__(self, keys: TransportKeys) -> None:
        self._engine, self._room, self._step = _Engine(keys), _Room(), _Room()
        self.received = 0

    def open(self, kind: PacketKind, place: int, packet: Packet) -> bytes:
        """The plain bytes.

        Raises CommandRefusedError: INVALID_LENGTH for a cut packet; BAD_MEASUREMENT for one that was changed, is for
        another place or kind, or is of another session; SECURE_DATA_INVALID for a genuine one out of turn. A refused
        packet leaves the session as it was.
        """
        pages, refusal = self.open_run(kind, np.array([place], dtype=np.uint64), PacketRun.of([packet]))
        if refusal is not None:
            raise refusal
        return pages.tobytes()

    def open_run(
        self, kind: PacketKind, places: Places, packets: PacketRun
    ) -> tuple[Bytes, CommandRefusedError | None]:
        """The pages, a row each, of the packets before the first that is refused; and the refusal as :meth:`open`.

        The pages are valid until the next call.
        """
        _check_places(places)
        pages, first = self._room.take(len(places)), self.received
        headers = np.ascontiguousarray(packets.headers).view(_HEADER).reshape(-1)
        numbers = np.arange(first, first + len(places), dtype=np.uint64)
        due = np.zeros(len(places), dtype=_HEADER)
        due["iv"] = _ivs(numbers)
        nonces = _nonces(kind, numbers, places)
        for start in range(0, len(places), _STEP_PAGES):
            part = slice(start, min(start + _STEP_PAGES, len(places)))
            data = self._step.take(part.stop - start)
            data[:] = packets.data[part]
            due["mac"][part] = self._engine.macs(nonces[part], self._step.views[: len(data)])
            done = _alike(due[part], headers[part])
            self._engine.apply(self.received, data[:done], self._room.bytes[start * PAGE_SIZE :])
            self.received += done
            if done < len(data):
                at = start + done
                return pages[:at], self._refusal(kind, headers[at : at + 1], places[at : at + 1], packets.data[at])
        return pages, None

    def _refusal(
        self, kind: PacketKind, header: NDArray[np.void], place: Places, data: Bytes
    ) -> CommandRefusedError:
        """Of a packet that is not what is due: genuine, and out of turn, or not."""
        number = _sequence(header["iv"][0].tobytes())
        claimed, numbers = np.zeros(1, dtype=_HEADER), np.array([number], dtype=np.uint64)
        claimed["iv"] = _ivs(numbers)
        claimed["mac"] = self._engine.macs(_nonces(kind, numbers, place), [memoryview(data.tobytes())])
        if claimed.tobytes() != header.tobytes():
            reason = f"the packet for {int(place[0]):#x} does not verify"
            return CommandRefusedError(FirmwareStatus.BAD_MEASUREMENT, reason)
        reason = f"packet {number} where {self.received} is due"
        return CommandRefusedError(FirmwareStatus.SECURE_DATA_INVALID, reason)


def _alike(due: NDArray[np.void], headers: NDArray[np.void]) -> int:
    """How many are what is due, before the first that is not."""
    if due.tobytes() == headers.tobytes():
        return len(due)
    return int(np.flatnonzero(due != headers)[0])


def _sequence(iv: bytes) -> int:
    return (int.from_bytes(iv, "big") >> _BLOCKS_SHIFT) % _SEQUENCE_LIMIT


def _ivs(numbers: Places) -> Bytes:
    """One row per packet. The upper half is never used: 2**64 blocks are beyond any session."""
    rows = np.zeros((len(numbers), 2), dtype=">u8")
    rows[:, 1] = numbers << np.uint64(_BLOCKS_SHIFT)
    return rows.view(np.uint8).reshape(-1, _IV_BYTES)


def _nonces(kind: PacketKind, numbers: Places, places: Places) -> list[bytes]:
    rows = np.empty(len(places), dtype=_NONCE)
    rows["sequence"], rows["place"] = numbers, places | np.uint64(kind << 48)
    # be40 and be56 out of two be64: what lies between the two, and before them, is zero.
    nonces = rows.view(np.uint8).reshape(-1, _NONCE.itemsize)[:, [*range(3, 8), *range(9, 16)]]
    found: list[bytes] = np.ascontiguousarray(nonces).view(f"V{_NONCE_BYTES}").reshape(-1).tolist()
    return found


def _check_places(places: Places) -> None:
    if len(places) and int(places.max()) >= PLACE_LIMIT:
        raise CommandRefusedError(FirmwareStatus.INVALID_ADDRESS, f"page or vCPU {int(places.max()):#x}")


def _check_packet(packet: Packet) -> None:
    if len(packet.header) != HEADER_BYTES:
        raise CommandRefusedError(FirmwareStatus.INVALID_LENGTH, f"hdr_len {len(packet.header)}")
    _check_length(len(packet.data), "trans_len")


def _check_length(found: int, what: str, *, pages: int = 1) -> None:
    if found != pages * PAGE_SIZE:
        raise CommandRefusedError(FirmwareStatus.INVALID_LENGTH, f"{what} {found}, not {pages * PAGE_SIZE}")
