"""Decodes an XBZRLE delta (format of migration/xbzrle.c) against the page content that the destination holds."""

from __future__ import annotations

from harness.model.errors import StreamError

PREFIX_BYTES = 3
"""u8 encoding flag and u16 length stand before the delta."""


def apply(page: bytes, data: bytes | memoryview, *, offset: int = 0) -> bytes:
    """*page* with the delta applied. *data* is a record's data, prefix included; *offset* is for errors only.

    Runs alternate: bytes that stay (a ULEB128 count), then bytes that change (a count and the bytes).
    """
    delta = bytes(data[PREFIX_BYTES:])
    result = bytearray(page)
    pos = at = 0
    while pos < len(delta):
        keep, pos = _uleb128(delta, pos, offset)
        count, pos = _uleb128(delta, pos, offset)
        at += keep
        if count == 0 or at + count > len(result) or pos + count > len(delta):
            raise StreamError("XBZRLE delta reaches beyond its page", offset=offset)
        result[at : at + count] = delta[pos : pos + count]
        at += count
        pos += count
    return bytes(result)


def _uleb128(data: bytes, pos: int, offset: int) -> tuple[int, int]:
    # Two bytes at most, as uleb128_decode_small in util/cutils.c reads them.
    if pos < len(data) and data[pos] < 0x80:
        return data[pos], pos + 1
    if pos + 1 < len(data) and data[pos + 1] < 0x80:
        return (data[pos] & 0x7F) | (data[pos + 1] << 7), pos + 2
    raise StreamError("XBZRLE run length breaks off", offset=offset)
