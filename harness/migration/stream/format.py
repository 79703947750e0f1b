"""Numbers of the migration stream, as QEMU's migration/qemu-file-types.h, savevm.h, ram.h and savevm.c use them.

All integers on the wire are big-endian. A "word" is the u64 that starts a RAM record: ram_addr in the high part, flags
in the bits below the target page size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

MAGIC = 0x5145564D
"""QEMU_VM_FILE_MAGIC, "QEVM"."""
VERSION = 3
"""QEMU_VM_FILE_VERSION."""

CAPABILITY_IGNORE_SHARED = "x-ignore-shared"
CAPABILITY_MAPPED_RAM = "mapped-ram"

MAX_MACHINE_NAME_BYTES = 1024
MAX_CAPABILITIES = 1024
MAX_RAM_BLOCKS = 4096
MAX_RAM_BYTES = 1 << 56
MAX_PACKAGED_BYTES = 256 << 20
MAX_TAIL_BYTES = 512 << 20
"""Bounds of ours on lengths that come from the wire, far above what QEMU sends."""


class SectionType(IntEnum):
    """First byte of each element (QEMU_VM_* in migration/savevm.h)."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    SUBSECTION = 0x05
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


class CommandCode(IntEnum):
    """enum qemu_vm_cmd of migration/savevm.c."""

    OPEN_RETURN_PATH = 1
    PING = 2
    POSTCOPY_ADVISE = 3
    POSTCOPY_LISTEN = 4
    POSTCOPY_RUN = 5
    POSTCOPY_RAM_DISCARD = 6
    PACKAGED = 7
    ENABLE_COLO = 8
    POSTCOPY_RESUME = 9
    RECV_BITMAP = 10
    SWITCHOVER_START = 11


class ReturnType(IntEnum):
    """enum mig_rp_message_type of migration/migration.h: what the destination says to the source."""

    SHUT = 1
    PONG = 2
    REQ_PAGES_ID = 3
    REQ_PAGES = 4
    RECV_BITMAP = 5
    RESUME_ACK = 6
    SWITCHOVER_ACK = 7


FLAG_ZERO = 0x002
FLAG_MEM_SIZE = 0x004
FLAG_PAGE = 0x008
FLAG_EOS = 0x010
FLAG_CONTINUE = 0x020
FLAG_XBZRLE = 0x040
FLAG_HOOK = 0x080
FLAG_COMPRESS_PAGE = 0x100
FLAG_MULTIFD_FLUSH = 0x200


@dataclass(frozen=True, slots=True, kw_only=True)
class RamRecord:
    """One kind of record in a RAM section: a bit of the word, and what follows the word.

    A vendor tree that adds a flag is one more row in the table that the parser is given.
    """

    name: str
    flag: int
    has_block: bool = True
    """The record belongs to a page: a block name follows unless CONTINUE is set."""
    payload_bytes: int = 0
    """Bytes that always follow."""
    payload_is_page: bool = False
    """One whole target page follows."""
    length_prefix: str = ""
    """A struct format whose last item is the length of what follows it; empty when the length is fixed."""


RAM_RECORDS: Mapping[int, RamRecord] = MappingProxyType(
    {
        record.flag: record
        for record in (
            RamRecord(name="zero", flag=FLAG_ZERO, payload_bytes=1),
            RamRecord(name="data", flag=FLAG_PAGE, payload_is_page=True),
            RamRecord(name="xbzrle", flag=FLAG_XBZRLE, length_prefix=">BH"),
            RamRecord(name="compressed", flag=FLAG_COMPRESS_PAGE, length_prefix=">I"),
            RamRecord(name="multifd-flush", flag=FLAG_MULTIFD_FLUSH, has_block=False),
            RamRecord(name="end", flag=FLAG_EOS, has_block=False),
        )
    },
)
"""The records of QEMU up to 11.1, by flag (migration/ram.c)."""

OTHER_TREES: Mapping[int, str] = MappingProxyType(
    {
        0x200: "MULTIFD_FLUSH of QEMU 8.0 and later, CGS_EPOCH of Intel's TDX tree on 7.2",
        0x400: "ENCRYPTED_DATA of the SEV and CSV series, CGS_STATE of Intel's TDX trees",
        0x800: "CGS_EPOCH of Intel's TDX tree on 8.1",
    },
)
"""Flags that mean different things in different trees (those trees' migration/ram.c). CGS_STATE_CANCEL of the 8.1 tree,
0x1000, lies outside the flag bits of a 4 KiB page: it reads as a bit of the address."""
