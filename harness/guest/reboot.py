"""Commands about reboots: to end a boot, and what the next one found of it. Meaning: images/probe/PROTOCOL.md."""

from __future__ import annotations

import struct

from harness.guest.probe import Probe
from harness.guest.protocol import DAMAGE_KINDS, Command, Cursor, parse_damage
from harness.model.deadline import Deadline
from harness.model.early import EarlyInterrupt, EarlyReport, EarlyState, InterruptState
from harness.model.memory import GpaRange
from harness.model.reboot_way import WAYS, RebootWay

BOOT_VCPU = 1
"""Mask of the vCPU that is always there."""

_REBOOT = struct.Struct("<III")


async def reboot_guest(
    probe: Probe, way: RebootWay, *, vcpu_mask: int = BOOT_VCPU, pend: bool = False, deadline: Deadline
) -> tuple[EarlyInterrupt, ...]:
    """Have the guest reboot itself by *way*, on all vCPUs of *vcpu_mask* at once. It answers first.

    With *pend* interrupts are pending from here on, which the boot vCPU keeps off: what its interrupt controller says.
    ``host`` leaves the reset to the host.

    Raises ProtocolError where the machine has no such way.
    """
    probe.expect_reset()
    payload = _REBOOT.pack(WAYS[way].code, vcpu_mask, pend)
    reply = await probe.request(Command.REBOOT, payload, deadline=deadline)
    # The boot behind it, which answers a repeat, does not know what was pending.
    return _interrupts(Cursor(reply))[1] if reply else ()


async def early_report(probe: Probe, *, deadline: Deadline) -> EarlyReport:
    """What the earliest code of this boot found."""
    return parse_early(await probe.request(Command.EARLY, b"", deadline=deadline))


async def spare(probe: Probe, span: GpaRange, *, deadline: Deadline) -> None:
    """Tell the guest where firmware works while it boots, once: the earliest code of all later boots leaves it out."""
    await probe.request(Command.SPARE, struct.pack("<QQ", span.start, span.end), deadline=deadline)


def parse_early(payload: bytes) -> EarlyReport:
    """Reply to EARLY."""
    cursor = Cursor(payload)
    state, is_kexec = EarlyState(cursor.u32()), bool(cursor.u32())
    boot_id, boot_count, checked, locked, spared, bad, ticks = (cursor.u64() for _ in range(7))
    counts = {kind: cursor.u64() for kind in DAMAGE_KINDS}
    interrupt_count, interrupts = _interrupts(cursor)
    return EarlyReport(
        state=state,
        is_kexec=is_kexec,
        boot_id=boot_id,
        boot_count=boot_count,
        pages_checked=checked,
        pages_locked=locked,
        pages_spared=spared,
        pages_bad=bad,
        ticks=ticks,
        by_kind={kind: count for kind, count in counts.items() if count},
        damages=tuple(parse_damage(cursor) for _ in range(cursor.u32())),
        interrupts=interrupts,
        interrupt_count=interrupt_count,
    )


def _interrupts(cursor: Cursor) -> tuple[int, tuple[EarlyInterrupt, ...]]:
    count = cursor.u32()
    words = [cursor.u32() for _ in range(cursor.u32())]
    return count, tuple(EarlyInterrupt(InterruptState(word >> 24), word >> 16 & 0xFF, word & 0xFFFF) for word in words)
