"""Where in guest memory the guest keeps what its host may look at; told by HELLO, and the same after a move."""

from __future__ import annotations

import struct
from dataclasses import dataclass

CVM_MAGIC = b"CVMIGCV1"
_CPU = struct.Struct("<QQII")
_CPUS_AT, _CPU_BYTES = 512, 64
STEP_NONE = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Of one boot of one guest."""

    tables_gpa: int
    """Top of its page tables."""
    cvm_gpa: int
    """Its cvm page, see images/probe/PROTOCOL.md."""
    boot_id: int
    """Low half."""


def is_converting(cvm_page: bytes, vcpu: int) -> bool | None:
    """Whether *vcpu* is amid a conversion, as the guest itself notes it; None for a page that does not say."""
    at = _CPUS_AT + vcpu * _CPU_BYTES
    if not cvm_page.startswith(CVM_MAGIC) or at + _CPU.size > len(cvm_page):
        return None
    _start, _end, _to_private, step = _CPU.unpack_from(cvm_page, at)
    return bool(step != STEP_NONE)
