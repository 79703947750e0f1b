"""Frames of the probe's command channel: header, payload, two checksums. See images/probe/PROTOCOL.md.

Header, little endian: magic u32 ``CVMP``, version u8, kind u8, code u16, seq u32, length u32, crc32(payload) u32,
crc32(the 20 bytes before) u32. CRC-32 is that of IEEE 802.3 (zlib).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"CVMP"
VERSION = 1
MAX_PAYLOAD_BYTES = 1 << 16

_HEAD = struct.Struct("<4sBBHIII")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CRC.size


class Kind(IntEnum):
    """Who says what in a frame."""

    REQUEST = 1
    REPLY = 2
    EVENT = 3
    ERROR = 4


_KINDS = frozenset(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One message; *code* is a command, or an event's number."""

    kind: Kind
    code: int
    seq: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes on the wire."""
        head = _HEAD.pack(MAGIC, VERSION, self.kind, self.code, self.seq, len(self.payload), zlib.crc32(self.payload))
        return head + _CRC.pack(zlib.crc32(head)) + self.payload


class FrameReader:
    """Incremental decoder that finds its feet again after garbage, cut frames and repeats."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.garbage_bytes = 0
        """Bytes that belonged to no valid frame."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that *data* completes."""
        self._buffer += data
        frames: list[Frame] = []
        while self._resynchronise():
            frame = self._take()
            if frame is None:
                break
            frames.append(frame)
        return frames

    def _resynchronise(self) -> bool:
        """Drop bytes up to a valid header; False when more bytes are needed for one."""
        while (at := self._next_magic()) >= 0:
            self._drop(at)
            if len(self._buffer) < HEADER_BYTES:
                return False
            if _is_header(self._buffer):
                return True
            self._drop(1)
        return False

    def _next_magic(self) -> int:
        at = self._buffer.find(MAGIC)
        if at < 0:
            self._drop(max(0, len(self._buffer) - len(MAGIC) + 1))
        return at

    def _drop(self, size: int) -> None:
        self.garbage_bytes += size
        del self._buffer[:size]

    def _take(self) -> Frame | None:
        """The frame at the start of the buffer; None when it is not complete yet."""
        while True:
            _, _, kind, code, seq, length, crc = _HEAD.unpack_from(self._buffer)
            end = HEADER_BYTES + length
            if len(self._buffer) < end:
                return None
            payload = bytes(self._buffer[HEADER_BYTES:end])
            if zlib.crc32(payload) == crc:
                del self._buffer[:end]
                return Frame(kind=Kind(kind), code=code, seq=seq, payload=payload)
            self._drop(1)
            if not self._resynchronise():
                return None


def _is_header(data: bytes | bytearray) -> bool:
    _, version, kind, _, _, length, _ = _HEAD.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _HEAD.size)
    sane = version == VERSION and kind in _KINDS and length <= MAX_PAYLOAD_BYTES
    return sane and crc == zlib.crc32(bytes(data[: _HEAD.size]))
