"""The probe's heartbeat page as the host reads it out of the guest's memory, without the guest's help."""

from __future__ import annotations

import struct

from harness.guest.protocol import BEAT, beat_of
from harness.model.errors import ProtocolError
from harness.model.guest import Heartbeat, RamLayout

MAGIC = int.from_bytes(b"CVMIGHB1", "little")
LAYOUT_VERSION = 1
VCPUS_OFFSET = 64
_HEAD = struct.Struct("<QQIIQQQQ")


def read_heartbeat(ram: memoryview, layout: RamLayout, heartbeat_gpa: int) -> Heartbeat:
    """The heartbeat page at *heartbeat_gpa* of main memory *ram*. Raises ProtocolError where there is none.

    A running vCPU may be updating its line meanwhile: each figure is right, two of them may be one beat apart.
    """
    start = layout.gpa_to_ram(heartbeat_gpa)
    magic, boot_id, version, vcpus, seed, ledger_gpa, managed_pages, boot_count = _HEAD.unpack_from(ram, start)
    if magic != MAGIC or version != LAYOUT_VERSION:
        raise ProtocolError(f"no heartbeat page at gpa {heartbeat_gpa:#x}", hint="has the probe booted on this side?")
    beats = (BEAT.unpack_from(ram, start + VCPUS_OFFSET + vcpu * BEAT.size) for vcpu in range(vcpus))
    return Heartbeat(
        boot_id=boot_id,
        vcpus=tuple(beat_of(vcpu, words) for vcpu, words in enumerate(beats)),
        seed=seed,
        ledger_gpa=ledger_gpa,
        managed_pages=managed_pages,
        boot_count=boot_count,
    )
