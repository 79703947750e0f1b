"""The return path: what the destination tells the source on the same connection (mig_rp_message_type, migration.c)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.migration.stream.cursor import Cursor, NeedMoreError
from harness.migration.stream.format import ReturnType
from harness.model.errors import StreamError

BITMAP_END = 0x0123456789ABCDEF
MAX_BITMAP_BYTES = 1 << 32
PAYLOAD_BYTES = {
    ReturnType.SHUT: 4,
    ReturnType.PONG: 4,
    ReturnType.REQ_PAGES: 12,
    ReturnType.RESUME_ACK: 4,
    ReturnType.SWITCHOVER_ACK: 0,
}
"""Fixed lengths (rp_cmd_args in migration.c); the other kinds carry a block name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnMessage:
    """One message. *bitmap* is what follows RECV_BITMAP: a length, a bitmap, an end mark."""

    type: ReturnType
    payload: bytes = b""
    bitmap: bytes = b""

    @property
    def value(self) -> int | None:
        """The number of SHUT (0: loaded), PONG and RESUME_ACK."""
        return int.from_bytes(self.payload, "big") if len(self.payload) == 4 else None

    def __str__(self) -> str:
        return self.type.name if self.value is None else f"{self.type.name} {self.value:#x}"


class ReturnPathParser:
    """Incremental parser; the messages are few and small."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._base = 0

    def feed(self, chunk: bytes | bytearray | memoryview) -> list[ReturnMessage]:
        """The messages that *chunk* completes. Raises StreamError on a message that is none."""
        self._held += chunk
        view = memoryview(bytes(self._held))
        messages: list[ReturnMessage] = []
        pos = 0
        try:
            while pos < len(view):
                cursor = Cursor(view, pos, len(view), base=self._base)
                messages.append(_message(cursor))
                pos = cursor.pos
        except NeedMoreError:
            pass
        del self._held[:pos]
        self._base += pos
        return messages

    def close(self) -> None:
        """Raises StreamError when the path ends in the middle of a message."""
        if self._held:
            raise StreamError("return path ends in the middle of a message", offset=self._base + len(self._held))


def encode_return(message: ReturnMessage) -> bytes:
    """The bytes of *message*."""
    return struct.pack(">HH", message.type, len(message.payload)) + message.payload + message.bitmap


def _message(cursor: Cursor) -> ReturnMessage:
    kind = _known_type(cursor)
    length = cursor.u16()
    if PAYLOAD_BYTES.get(kind, length) != length:
        raise cursor.error(f"{kind.name} of {length} bytes on the return path")
    payload = bytes(cursor.take(length))
    bitmap = _bitmap(cursor) if kind == ReturnType.RECV_BITMAP else b""
    return ReturnMessage(type=kind, payload=payload, bitmap=bitmap)


def _known_type(cursor: Cursor) -> ReturnType:
    number = cursor.u16()
    try:
        return ReturnType(number)
    except ValueError:
        raise cursor.error(f"unknown message {number} on the return path") from None


def _bitmap(cursor: Cursor) -> bytes:
    size = cursor.u64()
    if size > MAX_BITMAP_BYTES:
        raise cursor.error(f"bitmap of {size:#x} bytes")
    bits = cursor.take(size)
    if (mark := cursor.u64()) != BITMAP_END:
        raise cursor.error(f"bitmap ends with {mark:#x}")
    return struct.pack(">Q", size) + bytes(bits) + struct.pack(">Q", mark)
