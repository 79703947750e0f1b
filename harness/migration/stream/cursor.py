"""Reads big-endian fields from a buffer that may end in the middle of one."""

from __future__ import annotations

import struct
from typing import Final

from harness.model.errors import StreamError

U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")


class NeedMoreError(Exception):
    """The unit that is being read goes on beyond the buffer. Stays inside this package.

    *total* is how many bytes the unit has at least, counted from its first byte.
    """

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.total = total


class Cursor:
    """A position in a buffer. Reading past the end raises :class:`NeedMoreError`; damage raises StreamError."""

    __slots__ = ("_base", "_end", "_start", "_view", "pos")

    def __init__(self, view: memoryview, pos: int, end: int, *, base: int) -> None:
        """*base* is the stream offset of ``view[0]``."""
        self._view = view
        self._start = pos
        self._end = end
        self._base = base
        self.pos = pos

    @property
    def offset(self) -> int:
        """Stream offset of the position."""
        return self._base + self.pos

    @property
    def left_bytes(self) -> int:
        """Bytes between the position and the end of the buffer."""
        return self._end - self.pos

    def error(self, message: str, *, hint: str = "") -> StreamError:
        """A StreamError at the position."""
        return StreamError(message, offset=self.offset, hint=hint)

    def take(self, count: int) -> memoryview:
        """The next *count* bytes, as a view."""
        stop = self.pos + count
        if stop > self._end:
            raise NeedMoreError(stop - self._start)
        data = self._view[self.pos : stop]
        self.pos = stop
        return data

    def peek_u8(self) -> int:
        """The next byte, which stays unread."""
        if self.pos >= self._end:
            raise NeedMoreError(self.pos + 1 - self._start)
        return self._view[self.pos]

    def u8(self) -> int:
        """One byte."""
        value = self.peek_u8()
        self.pos += 1
        return value

    def u16(self) -> int:
        """Two bytes, big-endian."""
        return int(U16.unpack(self.take(2))[0])

    def u32(self) -> int:
        """Four bytes, big-endian."""
        return int(U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        """Eight bytes, big-endian."""
        return int(U64.unpack(self.take(8))[0])

    def peek_u64(self) -> int:
        """The next eight bytes, big-endian, which stay unread."""
        value = self.u64()
        self.pos -= U64.size
        return value

    def str8(self, what: str) -> str:
        """A length byte and that many characters; *what* names the field in an error."""
        at = self.pos
        return self._text(bytes(self.take(self.u8())), what, at)

    def text(self, count: int, what: str) -> str:
        """*count* characters."""
        at = self.pos
        return self._text(bytes(self.take(count)), what, at)

    def _text(self, data: bytes, what: str, at: int) -> str:
        if not data or not data.isascii() or not data.decode("ascii").isprintable():
            raise StreamError(f"{what} is no printable name: {data[:32]!r}", offset=self._base + at)
        return data.decode("ascii")
