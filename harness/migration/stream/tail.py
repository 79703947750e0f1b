"""Finds where the device sections end: the description of the devices stands last and is JSON."""

from __future__ import annotations

import re

SIGNATURE = re.compile(rb"\x00\x06(?s:....)\s*\{\s*\"(?:configuration|page_size|devices)\"")
"""EOF, VMDESCRIPTION, its u32 length, and a first member that QEMU writes."""
SIGNATURE_MAX_BYTES = 64
"""What the pattern can span at most in what QEMU writes; that much is searched again when more bytes come."""
MAX_DESCRIPTION_BYTES = 64 << 20


def find_description(tail: bytearray | bytes, searched: int) -> tuple[int | None, int]:
    """Index of the VMDESCRIPTION element that ends exactly where *tail* ends, and from where to search next time.

    The bytes of a device may look like a description; so the one that counts is the one that ends the stream.
    """
    next_search = max(searched, len(tail) - SIGNATURE_MAX_BYTES)
    for match in SIGNATURE.finditer(tail, searched):
        length = int.from_bytes(tail[match.start() + 2 : match.start() + 6], "big")
        end = match.start() + 6 + length
        if end == len(tail):
            return match.start() + 1, next_search
        if len(tail) < end and length <= MAX_DESCRIPTION_BYTES:
            next_search = min(next_search, match.start())
    return None, next_search
