"""Transport packets: one page or one VMSA, encrypted and authenticated under the keys of one session.

Shape as in the SEV API's packet header: 52 bytes, flags u32, iv 16, mac 32. What real firmware feeds into the MAC of a
migration packet is not verified; ours, private to the emulation, is AES-128-GCM under TEK with TIK as what is
authenticated besides: the tag and 16 zeros, with the nonce::

    be40 number of the packet   u8 kind   be48 place

where the API has AES-128-CTR under TEK and HMAC-SHA256 under TIK: the HMAC alone takes 3.5 us of each page on either
side, more than all the rest of the way.

The iv of packet n is n, be128. The nonce binds *place*, the RAM page or vCPU that the packet is for: a packet that is
put elsewhere does not verify.

Runs of packets are worked on where they stand: a page is read once and written once between what came in and what goes
out, for memory is what limits both.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count, repeat
from typing import overload

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus
from harness.model.memory import PAGE_SIZE

HEADER_BYTES = 52
MAC_BYTES = 32
TAG_BYTES = 16
"""Room that sealing wants behind each page."""
_IV_BYTES = 16
_STEP_PAGES = 64
"""Pages that are opened at once: they stay in the cache between their copy and their decryption."""
_TAG_AT = 20
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


def _room(pages: int) -> Bytes:
    """A row for each page, with the tag behind it."""
    return np.empty((pages, PAGE_SIZE + TAG_BYTES), dtype=np.uint8)


class PacketSealer:
    """The sending end of one session: numbers packets from 0."""

    def __init__(self, keys: TransportKeys) -> None:
        self._tik = keys.tik
        # It takes whatever is bytes in memory, rows of arrays too.
        self._encrypt_into: Callable[..., int] = AESGCM(keys.tek).encrypt_into
        self.sent = 0

    def seal(self, kind: PacketKind, place: int, plain: bytes) -> Packet:
        """*plain* (4096 bytes) for RAM page or vCPU *place*. INVALID_LENGTH for another size."""
        _check_length(len(plain), "guest_len")
        return self.seal_run(kind, np.array([place], dtype=np.uint64), plain)[0]

    def seal_run(
        self, kind: PacketKind, places: Places, plain: bytes | memoryview | Bytes, *, into: Bytes | None = None
    ) -> PacketRun:
        """One packet per place; *plain* holds their pages, one behind the other or a row each.

        INVALID_LENGTH for another size, INVALID_ADDRESS for a place beyond 48 bits.

        The packets' data is made in the rows of *into*, if it is given: pages with TAG_BYTES behind, which are
        scratch. A row's tag may lie where nothing is yet of the next.
        """
        pages = plain if isinstance(plain, np.ndarray) else np.frombuffer(plain, dtype=np.uint8)
        _check_length(pages.size, "guest_len", pages=len(places))
        _check_places(places)
        pages, room = pages.reshape(-1, PAGE_SIZE), _room(len(places)) if into is None else into
        numbers = np.arange(self.sent, self.sent + len(places), dtype=np.uint64)
        # What is done page by page is done here, and nothing of it in Python.
        nonces = _nonces(kind, numbers, places)
        deque(map(self._encrypt_into, nonces, pages, repeat(self._tik), room), maxlen=0)
        headers = _headers(numbers, room[:, PAGE_SIZE:])
        self.sent += len(places)
        return PacketRun(headers.view(np.uint8).reshape(-1, HEADER_BYTES), room[:, :PAGE_SIZE])


class PacketOpener:
    """The receiving end of one session: takes each packet once, in order."""

    def __init__(self, keys: TransportKeys) -> None:
        self._gcm, self._tik = AESGCM(keys.tek), keys.tik
        self._decrypt_into: Callable[..., int] = self._gcm.decrypt_into
        self._step = _room(_STEP_PAGES)
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
        self, kind: PacketKind, places: Places, packets: PacketRun, *, into: Bytes | None = None
    ) -> tuple[Bytes, CommandRefusedError | None]:
        """The pages, a row each, of the packets before the first that is refused; and the refusal as :meth:`open`.

        The pages are in the rows of *into*, if it is given.
        """
        _check_places(places)
        pages = np.empty((len(places), PAGE_SIZE), dtype=np.uint8) if into is None else into
        headers = np.ascontiguousarray(packets.headers).view(_HEADER).reshape(-1)
        tags = headers["mac"][:, :TAG_BYTES]
        numbers = np.arange(self.received, self.received + len(places), dtype=np.uint64)
        in_turn = _alike(_headers(numbers, tags), headers)
        nonces = _nonces(kind, numbers, places)
        for start in range(0, in_turn, _STEP_PAGES):
            part = slice(start, min(start + _STEP_PAGES, in_turn))
            sealed = self._step[: part.stop - start]
            sealed[:, :PAGE_SIZE], sealed[:, PAGE_SIZE:] = packets.data[part], tags[part]
            done = self._decrypt(nonces[part], sealed, pages[part])
            self.received += done
            if done < len(sealed):
                return pages[: start + done], self._refusal(kind, packets[start + done], places, start + done)
        if in_turn < len(places):
            return pages[:in_turn], self._refusal(kind, packets[in_turn], places, in_turn)
        return pages, None

    def _decrypt(self, nonces: Sequence[bytes], sealed: Bytes, pages: Bytes) -> int:
        """How many were genuine, before the first that is not."""
        done = count()
        with contextlib.suppress(InvalidTag):
            # zip takes a number only when a page was opened.
            deque(zip(map(self._decrypt_into, nonces, sealed, repeat(self._tik), pages), done, strict=False), maxlen=0)
        return next(done)

    def _refusal(self, kind: PacketKind, packet: Packet, places: Places, index: int) -> CommandRefusedError:
        """Of *packet*, which is for ``places[index]`` and is not what is due: genuine, and out of turn, or not."""
        place = places[index : index + 1]
        number = np.array([packet.sequence], dtype=np.uint64)
        tag = packet.header[_TAG_AT : _TAG_AT + TAG_BYTES]
        claimed = _headers(number, np.frombuffer(tag, dtype=np.uint8).reshape(1, -1))
        try:
            self._gcm.decrypt(_nonces(kind, number, place)[0], packet.data + tag, self._tik)
            is_genuine = claimed.tobytes() == packet.header
        except InvalidTag:
            is_genuine = False
        if is_genuine:
            reason = f"packet {packet.sequence} where {self.received} is due"
            return CommandRefusedError(FirmwareStatus.SECURE_DATA_INVALID, reason)
        return CommandRefusedError(FirmwareStatus.BAD_MEASUREMENT, f"the packet for {int(place[0]):#x} does not verify")


def _headers(numbers: Places, tags: Bytes) -> NDArray[np.void]:
    """Of packets with these numbers and tags. The upper half of an iv is never used."""
    headers = np.zeros(len(numbers), dtype=_HEADER)
    headers["iv"][:, _IV_BYTES // 2 :] = numbers.astype(">u8").view(np.uint8).reshape(-1, _IV_BYTES // 2)
    headers["mac"][:, :TAG_BYTES] = tags
    return headers


def _alike(due: NDArray[np.void], headers: NDArray[np.void]) -> int:
    """How many are what is due, before the first that is not."""
    if due.tobytes() == headers.tobytes():
        return len(due)
    return int(np.flatnonzero(due != headers)[0])


def _sequence(iv: bytes) -> int:
    return int.from_bytes(iv, "big") % _SEQUENCE_LIMIT


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
