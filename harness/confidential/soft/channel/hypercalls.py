"""Frames of the hypercall channel: what a protected guest asks its host, and the answer. See images/probe/PROTOCOL.md.

Pure: bytes in, values out. Little endian, CRC-32 of IEEE 802.3 (zlib) at the end of each frame.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag

REQUEST_MAGIC = b"CVHC"
REPLY_MAGIC = b"CVHR"
VERSION = 1
_REQUEST = struct.Struct("<4sBBBBIIQQQQQI")
_REPLY = struct.Struct("<4sIQQI")
_CRC = struct.Struct("<I")
REQUEST_BYTES = _REQUEST.size + _CRC.size
REPLY_BYTES = _REPLY.size + _CRC.size
_RESEND = 1
_U64 = (1 << 64) - 1

FEATURE_HC_MAP_GPA_RANGE = 1 << 16
"""KVM CPUID leaf 0x40000001 EAX (Documentation/virt/kvm/x86/cpuid.rst)."""
FEATURE_MIGRATION_CONTROL = 1 << 17
HC_MAP_GPA_RANGE = 12
"""RAX of the hypercall (Documentation/virt/kvm/x86/hypercalls.rst)."""
MSR_MIGRATION_CONTROL = 0x4B564D08
"""Documentation/virt/kvm/x86/msr.rst."""
MSR_GHCB = 0xC0010130
MSR_SEV_STATUS = 0xC0010131
"""Bit 0 SEV, bit 1 SEV-ES (AMD APM volume 2)."""


class Operation(IntEnum):
    """What the guest's lowest layer does in place of an instruction that would leave the guest."""

    HELLO = 1
    """rax: gpa of the cvm page, rbx: gpa of the top page table, rcx: mask of the C-bit. Value: CPUID feature bits."""
    VMMCALL = 2
    """Registers as in hypercalls.rst; value is RAX, extra the key that changed pages are scrambled with (0: none)."""
    WRMSR = 3
    """rcx: the MSR, rax: its value. Value: 0 or a negative errno."""
    RDMSR = 4
    VMGEXIT = 5
    """No registers: the host reads the GHCB."""


class ReplyFlag(IntFlag):
    """Bits of :attr:`HypercallReply.flags`."""

    RETRY = 1
    """A part is done; value is the gpa to go on from."""
    ERROR = 2
    """The GHCB was not usable; value says why."""


_OPERATIONS = frozenset(Operation)
_NO_FLAGS = ReplyFlag(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HypercallRequest:
    """One request."""

    vcpu: int
    operation: Operation
    seq: int
    """Counts all requests of a boot."""
    boot_id: int
    """Low half of the guest's boot id."""
    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    is_resend: bool = False

    def encode(self) -> bytes:
        """The bytes on the wire."""
        flags = _RESEND if self.is_resend else 0
        registers = (self.rax, self.rbx, self.rcx, self.rdx)
        head = (REQUEST_MAGIC, VERSION, self.vcpu, self.operation, flags, self.seq, self.boot_id)
        return _sealed(_REQUEST.pack(*head, *registers, 0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class HypercallReply:
    """The answer to one request; the sequence number is the server's business."""

    value: int = 0
    """May be a negative errno."""
    extra: int = 0
    flags: ReplyFlag = _NO_FLAGS

    def encode(self, seq: int) -> bytes:
        """The bytes on the wire."""
        return _sealed(_REPLY.pack(REPLY_MAGIC, seq, self.value & _U64, self.extra & _U64, self.flags))


def _sealed(body: bytes) -> bytes:
    return body + _CRC.pack(zlib.crc32(body))


class RequestReader:
    """Incremental decoder that finds its feet again after garbage, half frames and repeats."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.garbage_bytes = 0
        """Bytes that belonged to no valid request."""

    @property
    def missing_bytes(self) -> int:
        """How many bytes complete the request that has begun to come in."""
        return REQUEST_BYTES - len(self._buffer)

    def feed(self, data: bytes) -> list[HypercallRequest]:
        """The requests that *data* completes."""
        self._buffer += data
        requests: list[HypercallRequest] = []
        while len(self._buffer) >= REQUEST_BYTES:
            request = decode_request(bytes(self._buffer[:REQUEST_BYTES]))
            if request is None:
                self._drop()
                continue
            requests.append(request)
            del self._buffer[:REQUEST_BYTES]
        return requests

    def _drop(self) -> None:
        """Up to the next byte that may begin a frame."""
        at = self._buffer.find(REQUEST_MAGIC[:1], 1)
        size = at if at > 0 else len(self._buffer)
        self.garbage_bytes += size
        del self._buffer[:size]


def decode_request(frame: bytes) -> HypercallRequest | None:
    """The request in *frame* of :data:`REQUEST_BYTES`; None when it is not a valid one."""
    magic, version, vcpu, operation, flags, seq, boot_id, rax, rbx, rcx, rdx, _, _ = _REQUEST.unpack_from(frame)
    (crc,) = _CRC.unpack_from(frame, _REQUEST.size)
    if magic != REQUEST_MAGIC or version != VERSION or crc != zlib.crc32(frame[: _REQUEST.size]):
        return None
    if operation not in _OPERATIONS:
        return None
    return HypercallRequest(
        vcpu=vcpu,
        operation=Operation(operation),
        seq=seq,
        boot_id=boot_id,
        rax=rax,
        rbx=rbx,
        rcx=rcx,
        rdx=rdx,
        is_resend=bool(flags & _RESEND),
    )


def decode_reply(frame: bytes) -> tuple[int, HypercallReply] | None:
    """Sequence number and reply in *frame* of :data:`REPLY_BYTES`; None when it is not a valid one."""
    magic, seq, value, extra, flags = _REPLY.unpack_from(frame)
    (crc,) = _CRC.unpack_from(frame, _REPLY.size)
    if magic != REPLY_MAGIC or crc != zlib.crc32(frame[: _REPLY.size]):
        return None
    return seq, HypercallReply(value=value, extra=extra, flags=ReplyFlag(flags))
