"""What the secure processor keeps of one guest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from harness.confidential.soft.processor.memory_encryption import MemoryCipher
from harness.confidential.soft.processor.packets import PacketOpener, PacketSealer
from harness.confidential.soft.processor.policy import Policy
from harness.confidential.soft.processor.states import GuestState


@dataclass(slots=True, kw_only=True)
class GuestContext:
    """One guest, from LAUNCH_START or RECEIVE_START to DECOMMISSION. Never leaves the processor."""

    handle: int
    policy: Policy
    state: GuestState
    memory: MemoryCipher = field(repr=False)
    asid: int | None = None
    sealer: PacketSealer | None = field(default=None, repr=False)
    opener: PacketOpener | None = field(default=None, repr=False)
    launch_tik: bytes = field(default=b"", repr=False)
    launch_digest: hashlib._Hash = field(default_factory=hashlib.sha256, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestStatus:
    """Reply to GUEST_STATUS."""

    handle: int
    policy: Policy
    asid: int | None
    state: GuestState


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTarget:
    """Whom a guest is sent to: ``sev-pdh``, ``sev-plat-cert`` and ``sev-amd-cert``, as bytes."""

    pdh: bytes
    platform: bytes
    vendor: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SendSession:
    """Reply to SEND_START, and what RECEIVE_START takes; a guest owner makes one for LAUNCH_START too."""

    policy: Policy
    pdh: bytes
    """Certificate of the sending platform."""
    session: bytes
    """128 bytes, see session.py."""
