"""The GHCB: the page through which a guest with encrypted state talks to its host, and the MSR it begins with.

Offsets: struct ghcb of linux arch/x86/include/asm/svm.h. Values, errors: GHCB specification (AMD 56421), standard
protocol version 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from harness.model.memory import PAGE_SIZE

RAX, RCX, RDX, RBX = 0x1F8, 0x308, 0x310, 0x318
EXIT_CODE, EXIT_INFO_1, EXIT_INFO_2, SCRATCH = 0x390, 0x398, 0x3A0, 0x3A8
VALID_BITMAP = 0x3F0
SHARED_BUFFER = 0x800
_SHARED_BUFFER_END = 0xFF0
VERSION, USAGE = 0xFFA, 0xFFC

INFO_MASK = 0xFFF
"""Low bits of the MSR: 0 is the gpa of a page, all else a request or an answer of the MSR protocol."""
SEV_INFO, SEV_INFO_REQUEST = 0x001, 0x002
AP_RESET_HOLD_REQUEST, AP_RESET_HOLD = 0x006, 0x007
REGISTER_REQUEST, REGISTERED = 0x012, 0x013
TERMINATE = 0x100
REJECTED = (1 << 64) - (1 << 12) | REGISTERED
"""Answer to a registration that the host does not take."""
MIN_VERSION, MAX_VERSION = 1, 2


class Exit(IntEnum):
    """SW_EXITCODE, as far as this host knows them."""

    MSR = 0x7C
    VMMCALL = 0x81
    MMIO_READ = 0x80000001
    MMIO_WRITE = 0x80000002
    AP_RESET_HOLD = 0x80000004


class GhcbError(IntEnum):
    """SW_EXITINFO2 when the host refuses what is in a GHCB."""

    NOT_REGISTERED = 1
    INVALID_USAGE = 2
    INVALID_SCRATCH = 3
    MISSING_INPUT = 4
    INVALID_INPUT = 5
    INVALID_EVENT = 6


class GhcbRefusedError(Exception):
    """The host cannot do what the guest's GHCB asks."""

    def __init__(self, error: GhcbError) -> None:
        super().__init__(error.name)
        self.error = error


@dataclass(frozen=True, slots=True)
class Ghcb:
    """One page as the host read it."""

    gpa: int
    page: bytes

    def check(self) -> None:
        """Raises GhcbRefusedError INVALID_USAGE for a page that is no GHCB: ciphertext is none."""
        version, usage = struct.unpack_from("<HI", self.page, VERSION)
        if not MIN_VERSION <= version <= MAX_VERSION or usage:
            raise GhcbRefusedError(GhcbError.INVALID_USAGE)

    def get(self, offset: int) -> int:
        """A field that the guest marked valid. GhcbRefusedError MISSING_INPUT for another."""
        if not self._is_valid(offset):
            raise GhcbRefusedError(GhcbError.MISSING_INPUT)
        return self._word(offset)

    def get_if_valid(self, offset: int) -> int:
        """A field, 0 where the guest did not mark it, as KVM reads registers."""
        return self._word(offset) if self._is_valid(offset) else 0

    def buffer(self, length: int) -> int:
        """Offset of the guest's data in the shared buffer. GhcbRefusedError INVALID_SCRATCH when it is elsewhere."""
        offset = self.get(SCRATCH) - self.gpa
        if not SHARED_BUFFER <= offset <= _SHARED_BUFFER_END - length:
            raise GhcbRefusedError(GhcbError.INVALID_SCRATCH)
        return offset

    def _is_valid(self, offset: int) -> bool:
        bit = offset // 8
        return bool(self.page[VALID_BITMAP + bit // 8] >> bit % 8 & 1)

    def _word(self, offset: int) -> int:
        return int.from_bytes(self.page[offset : offset + 8], "little")


def sev_info(c_bit: int) -> int:
    """Answer to SEV_INFO_REQUEST; *c_bit* is the bit's number."""
    return MAX_VERSION << 48 | MIN_VERSION << 32 | c_bit << 24 | SEV_INFO


assert USAGE + 4 == PAGE_SIZE
