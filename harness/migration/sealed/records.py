"""Records with flag 0x400 of the AMD and Hygon series (RAM_SAVE_FLAG_ENCRYPTED_DATA in their migration/ram.c).

All integers are big-endian but for the cpu_index, which is the host's (x86: little)::

    be64 ram_addr | 0x400 [| CONTINUE]   [block name]   be32 subtype
     1 page        the first of the stream only: be32 policy, be32 pdh_len, pdh, be32 session_len, session
                   then be32 hdr_len, hdr, be32 trans_len, trans
     2 list        shared ranges up to END, see harness.model.page_map_wire
     4 batch, 5 the last of a batch        as 1 without a session
     6 CPU state   repeat { be32 1, be32 4, cpu_index, be32 hdr_len, hdr, be32 trans_len, trans }, be32 2

Of our own, beside the list's: in a CPU state, tag 0x101 { be32 cpu_index, be64 value } is the GHCB value of a vCPU with
its flag bits. The series sends it as subsection cpu/svm_msr_ghcb_gpa, which a stock QEMU would refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from harness.confidential.soft.processor.packets import TAG_BYTES
from harness.migration.stream.cursor import Cursor, NeedMoreError
from harness.migration.stream.elements import VendorRecords
from harness.migration.stream.format import FLAG_CONTINUE, FLAG_MULTIFD_FLUSH, RAM_RECORDS
from harness.model.memory import PAGE_SIZE
from harness.model.page_map_wire import CONT, END, UNMAPPED, WIDE

FLAG_ENCRYPTED: Final = 0x400
HEADER_BYTES: Final = 52
"""hdr_len of every packet here; on every firmware: not verified."""
GHCB = 0x101
"""Our own tag in a CPU state."""
CPU_INDEX_BYTES = 4
MAX_BLOB_BYTES = 16 << 10
"""KVM's bound on each blob of SEND_START (arch/x86/kvm/svm/sev.c, SEV_FW_BLOB_MAX_SIZE)."""
MAX_LIST_BYTES = 64 << 20
MAX_CPU_ENTRIES = 1 << 16
"""Bounds of ours."""

RECORDS = MappingProxyType({flag: record for flag, record in RAM_RECORDS.items() if flag != FLAG_MULTIFD_FLUSH})
"""Plain records of a tree with the series: it knows no multifd, so 0x200 means nothing there."""

RUN: Final = np.dtype(
    [
        ("word", ">u8"),
        ("subtype", ">u4"),
        ("hdr_len", ">u4"),
        ("hdr", "u1", (HEADER_BYTES,)),
        ("trans_len", ">u4"),
        ("trans", "u1", (PAGE_SIZE,)),
    ]
)
"""A page record with CONTINUE and without a session: nearly all of them, so they are read and written as an array."""

_LIST_BODY_BYTES = {CONT: 8, WIDE: 16, UNMAPPED: 16}
_U32 = struct.Struct(">I")
_GHCB = struct.Struct(">IIQ")

Bytes = NDArray[np.uint8]
Addresses = NDArray[np.uint64]


class Subtype(IntEnum):
    """be32 behind the word."""

    PAGE = 1
    SHARED_LIST = 2
    BATCH = 4
    BATCH_END = 5
    CPU_STATE = 6


_SUBTYPES = frozenset(int(subtype) for subtype in Subtype)
PAGE_SUBTYPES = frozenset({Subtype.PAGE, Subtype.BATCH, Subtype.BATCH_END})


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """What the first page brings with it: the sender's policy, PDH certificate and session."""

    policy: int
    pdh: bytes = field(repr=False)
    session: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SealedPages(VendorRecords):
    """Consecutive packets of one subtype, views into the buffer: row i belongs to ram_addrs[i]."""

    subtype: Subtype
    ram_addrs: Addresses
    headers: Bytes
    data: Bytes
    session: SessionRecord | None = None
    """With the first record of the stream, which then is alone."""

    @property
    def last_ram_addr(self) -> int:
        """The highest page."""
        return int(self.ram_addrs.max())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedListPart(VendorRecords):
    """A part of a shared-regions list; *data* is what page_map_wire.parse takes, part after part."""

    data: bytes
    is_end: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuPacket:
    """One page of a vCPU's VMSA."""

    vcpu: int
    header: bytes = field(repr=False)
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuGhcb:
    """GHCB value of a vCPU, flag bits 62 and 63 included."""

    vcpu: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CpuStatePart(VendorRecords):
    """A part of the CPU state."""

    entries: tuple[VcpuPacket | VcpuGhcb, ...]
    is_end: bool


class SealedReader:
    """The RecordReader of these records; one per stream, because only the first page brings a session."""

    flag = FLAG_ENCRYPTED

    def __init__(self) -> None:
        self._has_session = False
        self._body: Subtype | None = None
        self._block = ""
        self._taken = 0

    @property
    def is_open(self) -> bool:
        """True inside a list or a CPU state."""
        return self._body is not None

    def read(self, view: memoryview, pos: int, *, base: int, block: str) -> tuple[VendorRecords, int]:
        """See RecordReader."""
        cursor = Cursor(view, pos, len(view), base=base)
        word = cursor.u64()
        if not word & FLAG_CONTINUE:
            block = cursor.str8("RAM block name")
        if not block:
            raise cursor.error("encrypted record continues a block, but none was named yet")
        value = cursor.u32()
        if value not in _SUBTYPES:
            raise cursor.error(f"encrypted record of unknown subtype {value}")
        subtype = Subtype(value)
        if subtype not in PAGE_SUBTYPES:
            return self._begin(cursor, subtype, view[pos : cursor.pos], base + pos, block)
        has_session = subtype is Subtype.PAGE and not self._has_session
        if not has_session and word & FLAG_CONTINUE and (run := _run(view, pos, subtype)) is not None:
            return _of_run(run, view, pos, base=base, block=block, subtype=subtype)
        pages = _single(cursor, word, subtype, view, pos, base=base, block=block, has_session=has_session)
        self._has_session = self._has_session or has_session
        return pages, cursor.pos

    def resume(self, view: memoryview, pos: int, *, base: int) -> tuple[VendorRecords, int]:
        """See RecordReader: whole entries only."""
        cursor = Cursor(view, pos, len(view), base=base)
        return self._list(cursor, view, pos) if self._body is Subtype.SHARED_LIST else self._cpus(cursor, view, pos)

    def _begin(
        self, cursor: Cursor, subtype: Subtype, raw: memoryview, offset: int, block: str
    ) -> tuple[VendorRecords, int]:
        self._body, self._block, self._taken = subtype, block, 0
        if subtype is Subtype.SHARED_LIST:
            return SharedListPart(block=block, raw=raw, offset=offset, data=b"", is_end=False), cursor.pos
        return CpuStatePart(block=block, raw=raw, offset=offset, entries=(), is_end=False), cursor.pos

    def _list(self, cursor: Cursor, view: memoryview, pos: int) -> tuple[VendorRecords, int]:
        end, is_end = pos, False
        try:
            while not is_end:
                is_end = (tag := cursor.u32()) == END
                if not is_end and tag not in _LIST_BODY_BYTES:
                    raise cursor.error(f"unknown tag {tag:#x} in a shared-regions list")
                cursor.take(_LIST_BODY_BYTES.get(tag, 0))
                end = cursor.pos
        except NeedMoreError:
            if end == pos:
                raise
        raw = view[pos:end]
        self._count(len(raw), MAX_LIST_BYTES, cursor, is_end=is_end)
        offset = cursor.offset - (cursor.pos - pos)
        return SharedListPart(block=self._block, raw=raw, offset=offset, data=bytes(raw), is_end=is_end), end

    def _cpus(self, cursor: Cursor, view: memoryview, pos: int) -> tuple[VendorRecords, int]:
        entries: list[VcpuPacket | VcpuGhcb] = []
        end, is_end = pos, False
        try:
            while not is_end:
                is_end = (tag := cursor.u32()) == END
                if not is_end:
                    entries.append(_cpu_entry(cursor, tag))
                end = cursor.pos
        except NeedMoreError:
            if end == pos:
                raise
        self._count(len(entries), MAX_CPU_ENTRIES, cursor, is_end=is_end)
        offset = cursor.offset - (cursor.pos - pos)
        part = CpuStatePart(block=self._block, raw=view[pos:end], offset=offset, entries=tuple(entries), is_end=is_end)
        return part, end

    def _count(self, more: int, limit: int, cursor: Cursor, *, is_end: bool) -> None:
        self._taken += more
        if self._taken > limit:
            raise cursor.error("a list or a CPU state without end")
        if is_end:
            self._body = None


def page_rows(
    ram_addrs: Addresses, headers: Bytes, data: Bytes, *, flag: int = FLAG_ENCRYPTED, memory: NDArray[np.void]
) -> NDArray[np.void]:
    """Records of packets, row by row, all with CONTINUE and subtype 1, made in the first rows of *memory*.

    *data* may stand there already, see :func:`sealing_room`. Another *flag* makes them records of another tree.
    """
    rows = memory[: len(ram_addrs)]
    rows["word"] = ram_addrs | np.uint64(flag | FLAG_CONTINUE)
    rows["subtype"], rows["hdr_len"], rows["trans_len"] = Subtype.PAGE, HEADER_BYTES, PAGE_SIZE
    rows["hdr"] = headers
    if not np.may_share_memory(rows, data):
        rows["trans"] = data
    return rows


def sealing_room(rows: NDArray[np.void]) -> Bytes:
    """The page of each of *rows* with the tag's room behind it, which is the head of the next row: to be written later.

    The memory of *rows* has to have one row more behind them.
    """
    return as_strided(rows["trans"], shape=(len(rows), PAGE_SIZE + TAG_BYTES))


def first_record(block: str, ram_addr: int, session: SessionRecord, header: bytes, data: bytes) -> bytes:
    """The first page of a stream, with its session."""
    parts = [struct.pack(">Q", ram_addr | FLAG_ENCRYPTED), _str8(block), _U32.pack(Subtype.PAGE)]
    parts += [_U32.pack(session.policy), _blob(session.pdh), _blob(session.session), _blob(header), _blob(data)]
    return b"".join(parts)


def list_record(block: str, data: bytes) -> bytes:
    """The shared list; *data* as page_map_wire.serialise gives it. *block* empty: it goes on."""
    return _head(block, Subtype.SHARED_LIST) + data


def cpu_state_record(block: str, entries: Sequence[VcpuPacket | VcpuGhcb]) -> bytes:
    """The vCPUs' state. *block* empty: it goes on."""
    return _head(block, Subtype.CPU_STATE) + b"".join(map(_cpu_bytes, entries)) + _U32.pack(END)


def _head(block: str, subtype: Subtype) -> bytes:
    flags = FLAG_ENCRYPTED if block else FLAG_ENCRYPTED | FLAG_CONTINUE
    return struct.pack(">Q", flags) + (_str8(block) if block else b"") + _U32.pack(subtype)


def _cpu_bytes(entry: VcpuPacket | VcpuGhcb) -> bytes:
    if isinstance(entry, VcpuGhcb):
        return _GHCB.pack(GHCB, entry.vcpu, entry.value)
    index = _U32.pack(CONT) + _U32.pack(CPU_INDEX_BYTES) + entry.vcpu.to_bytes(CPU_INDEX_BYTES, "little")
    return index + _blob(entry.header) + _blob(entry.data)


def _cpu_entry(cursor: Cursor, tag: int) -> VcpuPacket | VcpuGhcb:
    if tag == GHCB:
        return VcpuGhcb(vcpu=cursor.u32(), value=cursor.u64())
    if tag != CONT:
        raise cursor.error(f"unknown tag {tag:#x} in a CPU state")
    if (length := cursor.u32()) != CPU_INDEX_BYTES:
        raise cursor.error(f"cpu_index of {length} bytes")
    vcpu = int.from_bytes(cursor.take(CPU_INDEX_BYTES), "little")
    return VcpuPacket(vcpu=vcpu, header=bytes(_take(cursor, "hdr_len")), data=bytes(_take(cursor, "trans_len")))


def _run(view: memoryview, pos: int, subtype: Subtype) -> NDArray[np.void] | None:
    """The uniform records of *subtype* at *pos*; None when not even the first is one."""
    count = (len(view) - pos) // RUN.itemsize
    rows = np.frombuffer(view, dtype=RUN, count=count, offset=pos)
    is_alike = (rows["word"] & np.uint64(PAGE_SIZE - 1)) == FLAG_ENCRYPTED | FLAG_CONTINUE
    is_alike &= rows["subtype"] == subtype
    is_alike &= (rows["hdr_len"] == HEADER_BYTES) & (rows["trans_len"] == PAGE_SIZE)
    others = np.flatnonzero(~is_alike)
    rows = rows[: others[0]] if len(others) else rows
    return rows if len(rows) else None


def _of_run(
    rows: NDArray[np.void], view: memoryview, pos: int, *, base: int, block: str, subtype: Subtype
) -> tuple[SealedPages, int]:
    end = pos + len(rows) * RUN.itemsize
    pages = SealedPages(
        block=block,
        raw=view[pos:end],
        offset=base + pos,
        subtype=subtype,
        ram_addrs=(rows["word"] & ~np.uint64(PAGE_SIZE - 1)).astype(np.uint64),
        headers=rows["hdr"],
        data=rows["trans"],
    )
    return pages, end


def _single(
    cursor: Cursor,
    word: int,
    subtype: Subtype,
    view: memoryview,
    pos: int,
    *,
    base: int,
    block: str,
    has_session: bool,
) -> SealedPages:
    session = _session(cursor) if has_session else None
    header, data = _take(cursor, "hdr_len"), _take(cursor, "trans_len")
    return SealedPages(
        block=block,
        raw=view[pos : cursor.pos],
        offset=base + pos,
        subtype=subtype,
        ram_addrs=np.array([word & -PAGE_SIZE], dtype=np.uint64),
        headers=np.frombuffer(header, dtype=np.uint8).reshape(1, -1),
        data=np.frombuffer(data, dtype=np.uint8).reshape(1, -1),
        session=session,
    )


def _session(cursor: Cursor) -> SessionRecord:
    policy = cursor.u32()
    return SessionRecord(
        policy=policy, pdh=bytes(_take(cursor, "pdh_len")), session=bytes(_take(cursor, "session_len"))
    )


def _take(cursor: Cursor, what: str) -> memoryview:
    length = cursor.u32()
    if not 0 < length <= MAX_BLOB_BYTES:
        raise cursor.error(f"{what} {length:#x} in an encrypted record")
    return cursor.take(length)


def _blob(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


def _str8(text: str) -> bytes:
    data = text.encode("ascii")
    return bytes([len(data)]) + data
