"""Transport packets: one page or one VMSA, encrypted and authenticated under the keys of one session.

Shape as in the SEV API's packet header (52 bytes: flags u32, iv 16, mac 32; AES-128-CTR, HMAC-SHA256). What real
firmware feeds into the MAC of a migration packet is not verified; ours, private to the emulation, is::

    B kind   u32 flags   16s iv   u32 guest_len   u32 trans_len   u64 place   data

The iv is a sequence number (be64) above a block counter that starts at zero, so no key stream is ever used twice. The
MAC covers *place*, the RAM page or vCPU that the packet is for: a packet that is put elsewhere does not verify.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from enum import IntEnum

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from harness.confidential.soft.status import CommandRefusedError, FirmwareStatus
from harness.model.memory import PAGE_SIZE

HEADER_BYTES = 52
MAC_BYTES = 32
_HEADER = struct.Struct("<I16s32s")
_AUTHENTICATED = struct.Struct("<BI16sIIQ")
_IV = struct.Struct(">QQ")


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
    """HMAC key."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What SEND_UPDATE_* gives: ``hdr`` and ``trans`` of KVM's commands."""

    header: bytes
    data: bytes

    @property
    def sequence(self) -> int:
        """As the header claims; only worth anything once the packet was opened."""
        return int(_IV.unpack_from(self.header, 4)[0])


class _KeyStream:
    """AES-CTR in both directions. One context for all packets: to make a new one costs more than to encrypt a page."""

    def __init__(self, tek: bytes) -> None:
        self._context = Cipher(AES(tek), CTR(bytes(16))).encryptor()

    def apply(self, iv: bytes, data: bytes) -> bytes:
        self._context.reset_nonce(iv)
        return self._context.update(data)


class PacketSealer:
    """The sending end of one session: numbers packets from 0."""

    def __init__(self, keys: TransportKeys) -> None:
        self._stream, self._tik = _KeyStream(keys.tek), keys.tik
        self.sent = 0

    def seal(self, kind: PacketKind, place: int, plain: bytes) -> Packet:
        """*plain* (4096 bytes) for RAM page or vCPU *place*. INVALID_LENGTH for another size."""
        _check_length(len(plain), "guest_len")
        iv = _IV.pack(self.sent, 0)
        data = self._stream.apply(iv, plain)
        self.sent += 1
        return Packet(_HEADER.pack(0, iv, _mac(self._tik, kind, 0, iv, place, data)), data)


class PacketOpener:
    """The receiving end of one session: takes each packet once, in order."""

    def __init__(self, keys: TransportKeys) -> None:
        self._stream, self._tik = _KeyStream(keys.tek), keys.tik
        self.received = 0

    def open(self, kind: PacketKind, place: int, packet: Packet) -> bytes:
        """The plain bytes.

        Raises CommandRefusedError: INVALID_LENGTH for a cut packet; BAD_MEASUREMENT for one that was changed, is for
        another place or kind, or is of another session; SECURE_DATA_INVALID for a genuine one out of turn. A refused
        packet leaves the session as it was.
        """
        if len(packet.header) != HEADER_BYTES:
            raise CommandRefusedError(FirmwareStatus.INVALID_LENGTH, f"hdr_len {len(packet.header)}")
        _check_length(len(packet.data), "trans_len")
        flags, iv, mac = _HEADER.unpack(packet.header)
        if not hmac.compare_digest(mac, _mac(self._tik, kind, flags, iv, place, packet.data)):
            raise CommandRefusedError(FirmwareStatus.BAD_MEASUREMENT, f"the packet for {place:#x} does not verify")
        if packet.sequence != self.received:
            reason = f"packet {packet.sequence} where {self.received} is due"
            raise CommandRefusedError(FirmwareStatus.SECURE_DATA_INVALID, reason)
        self.received += 1
        return self._stream.apply(iv, packet.data)


def _mac(tik: bytes, kind: PacketKind, flags: int, iv: bytes, place: int, data: bytes) -> bytes:
    return hmac.digest(tik, _AUTHENTICATED.pack(kind, flags, iv, PAGE_SIZE, len(data), place) + data, "sha256")


def _check_length(found: int, what: str) -> None:
    if found != PAGE_SIZE:
        raise CommandRefusedError(FirmwareStatus.INVALID_LENGTH, f"{what} {found}, not {PAGE_SIZE}")
