"""Commands of the probe: payloads out, typed replies in. Pure; the meaning is in images/probe/PROTOCOL.md."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from harness.guest.registers import register_name
from harness.model.errors import ProtocolError
from harness.model.guest import (
    BenchReport,
    CanaryReport,
    FillReport,
    GuestClock,
    GuestDescription,
    GuestMemory,
    Heartbeat,
    KvmAnswer,
    KvmCall,
    RegisterMismatch,
    VcpuBeat,
    VcpuWork,
    Workload,
    WorkReport,
)
from harness.model.memory import Damage, GpaRange, PageDamage


class Command(IntEnum):
    """Codes of requests."""

    DESCRIBE = 1
    FILL = 2
    START = 3
    STOP = 4
    VERIFY = 5
    READ = 6
    WRITE = 7
    HEARTBEAT = 8
    CANARY_ARM = 9
    CANARY_CHECK = 10
    HALT = 11
    CRASH = 12
    CLOCK = 13
    BENCH = 14
    REBOOT = 15
    EARLY = 16
    SPARE = 17
    """These three: :mod:`harness.guest.reboot`."""
    HYPERCALL = 18
    CVM = 32
    """From here on: :mod:`harness.guest.confidential`."""
    MAP = 33
    CONVERT = 34
    CONVERSIONS = 35
    ENTER_KERNEL = 36
    KEXEC = 37
    ERRAND = 38
    OFFLINE = 39
    ONLINE = 40
    STALE = 41
    IRQ_OPEN = 64
    """From here on: :mod:`harness.guest.interrupts`."""
    IRQ_SOURCE = 65
    IRQ_HOLD = 66
    IRQ_RELEASE = 67
    IRQ_TRIGGER = 68
    IRQ_MASK = 69
    IRQ_AWAIT = 70
    IRQ_DRAIN = 71
    IRQ_X2APIC = 80
    ITS_MOVE = 96
    """From here on aarch64: images/probe/arch/aarch64/irq_lpi.c."""
    ITS_MOVE_COLLECTION = 97
    ITS_SWITCH = 98
    LPI_SWITCH = 99
    LPI_TABLES = 100


class Event(IntEnum):
    """Codes of what the guest says unasked."""

    READY = 1
    FAULT = 2


BUSY = 1
REFUSALS = {
    BUSY: "busy with another command",
    2: "unknown command",
    3: "bad payload",
    4: "memory has not been filled",
    5: "not RAM",
    6: "a workload is running",
    7: "not in this phase of the boot",
    8: "this machine has no such source of interrupts, or no such way to reboot",
    9: "interrupts are not counted (irq=on, OPEN)",
}
"""Codes in ERROR frames."""

ARCHES = {1: "x86_64", 2: "aarch64"}
WORKLOAD_CODES = {workload: code for code, workload in enumerate(Workload)}
DAMAGE_KINDS = (
    Damage.STALE,
    Damage.NEWER,
    Damage.SWAPPED,
    Damage.SHIFTED,
    Damage.TORN,
    Damage.ZEROED,
    Damage.LINE,
    Damage.BIT,
    Damage.RANDOM,
    Damage.FOREIGN,
)
"""The guest's numbers for damage, counted from 1."""
ALL_VCPUS = 0xFFFFFFFF
MAX_COPY_BYTES = 1024
BEAT = struct.Struct("<8Q")
_DAMAGE = struct.Struct("<QQQIIII64s64s")
_MISMATCH = struct.Struct("<II32s32s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The guest has booted and listens."""

    boot_id: int
    boot_count: int
    vcpus: int
    probe_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The guest ran into an exception of its own and has stopped."""

    vector: int
    error: int
    rip: int
    cr2: int
    vcpu: int

    def __str__(self) -> str:
        return f"vector {self.vector}, error {self.error:#x}, rip {self.rip:#x}, cr2 {self.cr2:#x}, vCPU {self.vcpu}"


class Cursor:
    """Reads a payload from front to back."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The fields of *layout*. ProtocolError when the payload ends before."""
        try:
            values = layout.unpack_from(self._payload, self._at)
        except struct.error as short:
            raise ProtocolError(f"the probe's reply of {len(self._payload)} bytes is too short") from short
        self._at += layout.size
        return values

    def u32(self) -> int:
        """One of them."""
        return int(self.take(_U32)[0])

    def u64(self) -> int:
        """One of them."""
        return int(self.take(_U64)[0])


_U32 = struct.Struct("<I")
_KVM_ANSWER = struct.Struct("<IIq")
_U64 = struct.Struct("<Q")


def fill_request(seed: int) -> bytes:
    """Payload of FILL."""
    return _U64.pack(seed)


def start_request(
    workload: Workload, mask: int, seed: int, pages: int, pages_per_tick: int, pages_per_flush: int
) -> bytes:
    """Payload of START. *pages* 0 means all, *pages_per_tick* 0 no throttle, *pages_per_flush* 0 no TLB flush."""
    return struct.pack("<IIQQII", WORKLOAD_CODES[workload], mask, seed, pages, pages_per_tick, pages_per_flush)


def parse_ready(payload: bytes) -> Ready:
    """Payload of the READY event."""
    boot_id, boot_count, vcpus, version = Cursor(payload).take(struct.Struct("<QQII"))
    return Ready(boot_id=boot_id, boot_count=boot_count, vcpus=vcpus, probe_version=version)


def parse_fault(payload: bytes) -> Fault:
    """Payload of the FAULT event."""
    vector, error, rip, cr2, vcpu = Cursor(payload).take(struct.Struct("<5Q"))
    return Fault(vector=vector, error=error, rip=rip, cr2=cr2, vcpu=vcpu)


def parse_description(payload: bytes) -> GuestDescription:
    """Reply to DESCRIBE."""
    cursor = Cursor(payload)
    protocol, version, arch, vcpus = (cursor.u32() for _ in range(4))
    boot_id, boot_count, tsc, heartbeat_gpa, ledger_gpa = (cursor.u64() for _ in range(5))
    return GuestDescription(
        protocol_version=protocol,
        probe_version=version,
        arch=ARCHES.get(arch, f"unknown {arch}"),
        vcpus=vcpus,
        boot_id=boot_id,
        boot_count=boot_count,
        tsc=tsc,
        heartbeat_gpa=heartbeat_gpa,
        ledger_gpa=ledger_gpa,
        ram=_ranges(cursor),
        managed=_ranges(cursor),
    )


def _ranges(cursor: Cursor) -> tuple[GpaRange, ...]:
    return tuple(GpaRange(cursor.u64(), cursor.u64()) for _ in range(cursor.u32()))


def parse_fill(payload: bytes) -> FillReport:
    """Reply to FILL."""
    cursor = Cursor(payload)
    return FillReport(pages=cursor.u64(), ticks=cursor.u64())


def parse_memory(payload: bytes) -> GuestMemory:
    """Reply to VERIFY."""
    cursor = Cursor(payload)
    checked, bad, ledger_sum, written_sum, ticks = (cursor.u64() for _ in range(5))
    counts = {kind: cursor.u64() for kind in DAMAGE_KINDS}
    return GuestMemory(
        pages_checked=checked,
        pages_bad=bad,
        ledger_sum=ledger_sum,
        written_sum=written_sum,
        ticks=ticks,
        by_kind={kind: count for kind, count in counts.items() if count},
        damages=tuple(parse_damage(cursor) for _ in range(cursor.u32())),
    )


def parse_damage(cursor: Cursor) -> PageDamage:
    """A damage record."""
    gpa, first_bad, other, expected_generation, generation, kind, lines, expected, found = cursor.take(_DAMAGE)
    if not 1 <= kind <= len(DAMAGE_KINDS):
        raise ProtocolError(f"the probe reports damage of unknown kind {kind}")
    return PageDamage(
        gpa=gpa,
        kind=DAMAGE_KINDS[kind - 1],
        lines=lines,
        first_bad_gpa=first_bad,
        expected=expected,
        found=found,
        detail=damage_detail(other, gpa, generation, expected_generation),
    )


def damage_detail(other_gpa: int, gpa: int, generation: int, expected_generation: int) -> str:
    """The words of ``PageDamage.detail``; *other_gpa* is what the first wrong line claims to be, 0 for no claim."""
    if not other_gpa:
        return f"ledger says generation {expected_generation}"
    place = "" if other_gpa >> 12 == gpa >> 12 else f"content of gpa {other_gpa & ~0xFFF:#x}, "
    return f"{place}generation {generation}, ledger says {expected_generation}"


def parse_work(payload: bytes) -> WorkReport:
    """Reply to STOP."""
    cursor = Cursor(payload)
    vcpus, damages = cursor.u32(), cursor.u32()
    work = tuple(
        VcpuWork(vcpu=vcpu, pages_written=cursor.u64(), pages_verified=cursor.u64(), pages_bad=cursor.u64())
        for vcpu in range(vcpus)
    )
    return WorkReport(vcpus=work, damages_seen=damages, first_damage=parse_damage(cursor) if damages else None)


def parse_heartbeat(payload: bytes) -> Heartbeat:
    """Reply to HEARTBEAT."""
    cursor = Cursor(payload)
    boot_id, tsc, vcpus = cursor.u64(), cursor.u64(), cursor.u32()
    return Heartbeat(boot_id=boot_id, tsc=tsc, vcpus=tuple(beat_of(vcpu, cursor.take(BEAT)) for vcpu in range(vcpus)))


def beat_of(vcpu: int, words: tuple[int, ...]) -> VcpuBeat:
    """One vCPU's eight words of the heartbeat page."""
    beats, tsc, written, writing_gpa, backward, gap, gap_at, _ = words
    return VcpuBeat(
        vcpu=vcpu,
        beats=beats,
        tsc=tsc,
        pages_written=written,
        writing_gpa=writing_gpa,
        backward_tsc=backward,
        gap_tsc=gap,
        gap_at_tsc=gap_at,
    )


def parse_canaries(payload: bytes) -> CanaryReport:
    """Reply to CANARY_CHECK."""
    cursor = Cursor(payload)
    checks: list[int] = []
    counts: list[int] = []
    mismatches: list[RegisterMismatch] = []
    for vcpu in range(cursor.u32()):
        checks.append(cursor.u32())
        counts.append(cursor.u32())
        mismatches += [_mismatch(vcpu, cursor) for _ in range(cursor.u32())]
    return CanaryReport(checks=tuple(checks), mismatch_counts=tuple(counts), mismatches=tuple(mismatches))


def _mismatch(vcpu: int, cursor: Cursor) -> RegisterMismatch:
    register, size, expected, found = cursor.take(_MISMATCH)
    return RegisterMismatch(vcpu=vcpu, register=register_name(register), expected=expected[:size], found=found[:size])


def parse_clock(payload: bytes) -> GuestClock:
    """Reply to CLOCK."""
    cursor = Cursor(payload)
    return GuestClock(tsc_hz=cursor.u64(), tsc=cursor.u64())


def parse_bench(payload: bytes) -> BenchReport:
    """Reply to BENCH."""
    cursor = Cursor(payload)
    return BenchReport(pages=cursor.u64(), ticks=cursor.u64())


def parse_hypercall(payload: bytes) -> KvmAnswer:
    """Reply to HYPERCALL. Raises ProtocolError for a way to call that is none."""
    call, features, result = Cursor(payload).take(_KVM_ANSWER)
    try:
        return KvmAnswer(call=KvmCall(call), features=features, result=result)
    except ValueError:
        raise ProtocolError(f"KVM was called in an unknown way: {call}") from None
