"""The smallest multiboot payloads: print a line on COM1, then halt or die."""

from __future__ import annotations

import struct

_BASE = 0x100000
_HEADER_BYTES = 52 + 32
_MULTIBOOT = struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
_HALT = b"\xf4\xeb\xfd"  # hlt; jmp back
_DIE = b"\x0f\x01\x1d\x00\x00\x00\x00\xcc"  # lidt [0]; int3


def payload(line: bytes, *, dies: bool) -> bytes:
    """A 32-bit ELF file for ``-kernel``."""
    code = b"\x66\xba\xf8\x03" + b"".join(b"\xb0" + bytes([byte]) + b"\xee" for byte in line + b"\n")
    body = _MULTIBOOT + code + (_DIE if dies else b"") + _HALT
    entry = _BASE + _HEADER_BYTES + len(_MULTIBOOT)
    size = _HEADER_BYTES + len(body)
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    elf = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    load = struct.pack("<IIIIIIII", 1, 0, _BASE, _BASE, size, size, 7, 0x1000)
    return elf + load + body
