"""Commands about interrupts, and the ledger in the guest's memory. Meaning: images/probe/PROTOCOL.md, "Interrupts"."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.guest.probe import Probe
from harness.guest.protocol import ALL_VCPUS, Command
from harness.model.deadline import Deadline
from harness.model.errors import PreconditionError, ProtocolError
from harness.model.guest import RamLayout
from harness.model.interrupts import MAX_SOURCES, Hold, Received, Source

MAGIC = int.from_bytes(b"CVMIGIQ1", "little")
LAYOUT_VERSION = 1
MAX_LISTED = 48
"""Of one command; the guest takes 64, a request 2048 bytes."""
_HEAD = struct.Struct("<QIIIIQ")
_COUNTS_AT = 128
_COUNTS = struct.Struct(f"<{MAX_SOURCES}I")
_CPUS_AT = _COUNTS_AT + _COUNTS.size
_CPU = struct.Struct("<4Q32x")
_RECORD = struct.Struct("<QQIHBBII")
_SOURCE = struct.Struct("<8IQ")
_OPENED = struct.Struct("<QQIIIIQ")
_U32 = struct.Struct("<I")
_SPURIOUS, _NESTED, _NMI, _DEFERRED, _ASSERTED = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What the guest found."""

    page_gpa: int
    page_bytes: int
    features: int
    """Bits of the architecture; x86_64: 1 x2APIC, 2 TSC-deadline timer."""
    vcpus: int
    vectors: int
    ticks_per_s: int
    """Of the clock in the ledger's records, as the guest has measured it."""


class InterruptProbe:
    """The commands that a guest booted with ``irq=on`` knows; errors as :class:`Probe`'s."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def open(self, *, deadline: Deadline) -> Opened:
        """Find the host's device, and start to log. Once per boot."""
        reply = await self._probe.request(Command.IRQ_OPEN, b"", deadline=deadline)
        page_gpa, page_bytes, features, vcpus, vectors, _, ticks_per_s = _OPENED.unpack(reply)
        return Opened(
            page_gpa=page_gpa,
            page_bytes=page_bytes,
            features=features,
            vcpus=vcpus,
            vectors=vectors,
            ticks_per_s=ticks_per_s,
        )

    async def add(self, sources: Sequence[Source], *, deadline: Deadline) -> tuple[Source, ...]:
        """Program *sources*; returns them with their vectors or INTIDs. ProtocolError for what this machine has not."""
        made: list[Source] = []
        for start in range(0, len(sources), MAX_LISTED):
            some = sources[start : start + MAX_LISTED]
            payload = _U32.pack(len(some)) + b"".join(map(_packed, some))
            reply = await self._probe.request(Command.IRQ_SOURCE, payload, deadline=deadline)
            numbers = [number for (number,) in _U32.iter_unpack(reply)]
            made += [replace(source, number=number) for source, number in zip(some, numbers, strict=True)]
        return tuple(made)

    async def hold(self, kind: Hold, *, vcpu_mask: int, argument: int = 0, deadline: Deadline) -> None:
        """Keep the vCPUs of *vcpu_mask* from taking interrupts. In force when this returns."""
        payload = struct.pack("<IIQ", vcpu_mask, kind, argument)
        await self._probe.request(Command.IRQ_HOLD, payload, deadline=deadline)

    async def release(self, *, vcpu_mask: int = ALL_VCPUS, deadline: Deadline) -> None:
        """End holds, and what is still in service."""
        await self._probe.request(Command.IRQ_RELEASE, _U32.pack(vcpu_mask), deadline=deadline)

    async def trigger(self, ids: Iterable[int], *, deadline: Deadline) -> None:
        """Raise sources that the guest makes itself."""
        for payload in _lists(ids):
            await self._probe.request(Command.IRQ_TRIGGER, payload, deadline=deadline)

    async def mask(self, ids: Iterable[int], *, masked: bool, deadline: Deadline) -> None:
        """Mask or unmask sources where they come from."""
        for payload in _lists(ids):
            await self._probe.request(Command.IRQ_MASK, _U32.pack(masked) + payload, deadline=deadline)

    async def pending_tables(self, *, deadline: Deadline) -> dict[int, int]:
        """aarch64: gpa of each vCPU's table of pending LPIs."""
        reply = await self._probe.request(Command.LPI_TABLES, b"", deadline=deadline)
        (vcpus,) = _U32.unpack_from(reply)
        return dict(enumerate(struct.unpack_from(f"<{vcpus}Q", reply, 2 * _U32.size)))

    async def step(self, code: int, words: Iterable[int], *, deadline: Deadline) -> None:
        """A command of the guest's architecture."""
        await self._probe.request(Command(code), b"".join(map(_U32.pack, words)), deadline=deadline)

    async def await_pending(self, ids: Sequence[int], *, deadline: Deadline) -> frozenset[int]:
        """Wait, in the guest and ten seconds at most, until its controllers show *ids* as pending; which they show."""
        found: set[int] = set()
        for start in range(0, len(ids), MAX_LISTED):
            some = ids[start : start + MAX_LISTED]
            (payload,) = _lists(some)
            reply = await self._probe.request(Command.IRQ_AWAIT, payload, deadline=deadline)
            flags = [flag for (flag,) in _U32.iter_unpack(reply)]
            found |= {source_id for source_id, flag in zip(some, flags, strict=True) if flag}
        return frozenset(found)

    async def drain(self, *, deadline: Deadline) -> int:
        """Wait, in the guest and ten seconds at most, until its controllers hold no source; how many are left."""
        return int(_U32.unpack(await self._probe.request(Command.IRQ_DRAIN, b"", deadline=deadline))[0])


class LedgerReader:
    """Reads the guest's ledger out of its memory, wherever the guest is. Every record is read once."""

    def __init__(self, layout: RamLayout, opened: Opened) -> None:
        self._at = layout.gpa_to_ram(opened.page_gpa)
        self._cpu_bytes = (opened.page_bytes - _CPUS_AT) // _MAX_VCPUS
        self._records = (self._cpu_bytes - _CPU.size) // _RECORD.size
        self._next = [0] * _MAX_VCPUS  # a vPE is logged as the last one
        self.received: list[Received] = []
        """Everything that was read so far, in the order of reading."""

    def counts(self, ram: memoryview) -> tuple[int, ...]:
        """How often each source was received, by id."""
        return _COUNTS.unpack_from(ram, self._at + _COUNTS_AT)

    def last_order(self, ram: memoryview) -> int:
        """The order of the last record that was begun."""
        magic, version, *_, order = _HEAD.unpack_from(ram, self._at)
        if magic != MAGIC or version != LAYOUT_VERSION:
            raise ProtocolError("no ledger of interrupts in the guest's memory", hint="was it booted with irq=on?")
        return int(order)

    def read(self, ram: memoryview) -> list[Received]:
        """Records that are new. Raises PreconditionError when the guest wrote over some that nobody has read."""
        fresh: list[Received] = []
        for vcpu, done in enumerate(self._next):
            at = self._at + _CPUS_AT + vcpu * self._cpu_bytes
            count = _CPU.unpack_from(ram, at)[0]
            if count - done > self._records:
                raise PreconditionError(f"the ledger of vCPU {vcpu} ran over: {count - done} records were not read")
            fresh += [self._record(ram, at, index) for index in range(done, count)]
            self._next[vcpu] = count
        fresh.sort(key=lambda record: record.order)
        self.received += fresh
        return fresh

    def _record(self, ram: memoryview, at: int, index: int) -> Received:
        place = at + _CPU.size + index % self._records * _RECORD.size
        order, ticks, number, source_id, vcpu, flags, vector, delivery = _RECORD.unpack_from(ram, place)
        return Received(
            order=order,
            ticks=ticks,
            id=source_id,
            number=number,
            vcpu=vcpu,
            vector=vector,
            delivery=delivery,
            is_spurious=bool(flags & _SPURIOUS),
            is_nested=bool(flags & _NESTED),
            is_nmi=bool(flags & _NMI),
            is_deferred=bool(flags & _DEFERRED),
            line_is_up=bool(flags & _ASSERTED),
        )


_MAX_VCPUS = 8
"""ARCH_MAX_CPUS of the probe."""


def _packed(source: Source) -> bytes:
    return _SOURCE.pack(
        source.id,
        source.kind,
        source.vcpu,
        source.sender,
        source.line,
        source.priority,
        source.flags,
        0,
        source.argument,
    )


def _lists(ids: Iterable[int]) -> list[bytes]:
    all_ids = list(ids)
    return [
        _U32.pack(len(some)) + b"".join(map(_U32.pack, some))
        for some in (all_ids[start : start + MAX_LISTED] for start in range(0, len(all_ids), MAX_LISTED))
    ]
