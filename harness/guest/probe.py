"""The probe guest as seen from the host: one method per command. Works across moves, see :meth:`Probe.attach`."""

from __future__ import annotations

import asyncio
import struct

from harness.guest import protocol
from harness.guest.channel import Channel
from harness.guest.protocol import ALL_VCPUS, Command, Ready
from harness.model.deadline import Deadline
from harness.model.guest import (
    BenchReport,
    CanaryReport,
    CrashKind,
    FillReport,
    GuestClock,
    GuestDescription,
    GuestMemory,
    HaltMode,
    Heartbeat,
    KvmAnswer,
    Workload,
    WorkReport,
)


class Probe:
    """Client of the command channel (COM2). Create it inside a running loop.

    Every command raises GuestError when the guest crashes or restarts, LostError when the channel closes, DeadlineError
    (naming the command) when nobody answers, ProtocolError when the guest refuses.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._channel = Channel(reader, writer)

    def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Go on over the destination's channel; a request that is pending is sent again there and executed once."""
        self._channel.attach(reader, writer)

    async def close(self) -> None:
        """Stop listening. The streams are the caller's to close."""
        await self._channel.close()

    async def ready(self, *, deadline: Deadline) -> Ready:
        """The boot announced on this channel, or after :meth:`expect_reset` the next one; waits until it is in."""
        return await self._channel.ready(deadline)

    def expect_reset(self) -> None:
        """Say that the guest is about to be reset; otherwise its restart is a GuestError."""
        self._channel.expect_reset()

    async def request(self, command: Command, payload: bytes, *, deadline: Deadline) -> bytes:
        """One command and its reply as bytes, for who adds commands (:mod:`harness.guest.confidential`)."""
        return await self._channel.request(command, payload, deadline)

    async def describe(self, *, deadline: Deadline) -> GuestDescription:
        """Who the guest is. Also the way to wait for its boot."""
        return protocol.parse_description(await self._channel.request(Command.DESCRIBE, b"", deadline))

    async def fill(self, seed: int, *, deadline: Deadline) -> FillReport:
        """Write generation 1 of the pattern to all managed pages, on all vCPUs."""
        return protocol.parse_fill(await self._channel.request(Command.FILL, protocol.fill_request(seed), deadline))

    async def start(
        self,
        workload: Workload,
        *,
        deadline: Deadline,
        vcpu_mask: int = ALL_VCPUS,
        seed: int = 0,
        pages: int = 0,
        pages_per_tick: int = 0,
        pages_per_flush: int = 0,
    ) -> None:
        """Start *workload* on the vCPUs of *vcpu_mask*. Memory must be filled.

        *pages* bounds the working set over all vCPUs (0: everything); *pages_per_tick* throttles each vCPU
        per timer interrupt (0: not at all); after *pages_per_flush* pages a vCPU flushes its TLB (0: never).
        """
        payload = protocol.start_request(workload, vcpu_mask, seed, pages, pages_per_tick, pages_per_flush)
        await self._channel.request(Command.START, payload, deadline)

    async def stop(self, *, deadline: Deadline) -> WorkReport:
        """Stop all workloads; every vCPU has finished its page when this returns."""
        return protocol.parse_work(await self._channel.request(Command.STOP, b"", deadline))

    async def verify(self, *, deadline: Deadline, max_damages: int = 16) -> GuestMemory:
        """Check all managed pages on all vCPUs. Workloads must be stopped. At most 32 damages are listed."""
        reply = await self._channel.request(Command.VERIFY, struct.pack("<I", max_damages), deadline)
        return protocol.parse_memory(reply)

    async def read(self, gpa: int, size: int, *, deadline: Deadline) -> bytes:
        """Up to 1024 bytes of RAM."""
        return await self._channel.request(Command.READ, struct.pack("<QI", gpa, size), deadline)

    async def write(self, gpa: int, data: bytes, *, deadline: Deadline) -> None:
        """Overwrite up to 1024 bytes of RAM, behind the ledger's back."""
        await self._channel.request(Command.WRITE, struct.pack("<Q", gpa) + data, deadline)

    async def heartbeat(self, *, deadline: Deadline, reset_gaps: bool = False) -> Heartbeat:
        """Beats and clocks of all vCPUs. *reset_gaps* clears the largest steps after they were read."""
        reply = await self._channel.request(Command.HEARTBEAT, struct.pack("<I", reset_gaps), deadline)
        return protocol.parse_heartbeat(reply)

    async def clock(self, *, deadline: Deadline) -> GuestClock:
        """The TSC and its frequency; takes the guest some milliseconds."""
        return protocol.parse_clock(await self._channel.request(Command.CLOCK, b"", deadline))

    async def canary_arm(self, seed: int, *, deadline: Deadline, vcpu_mask: int = ALL_VCPUS) -> None:
        """Load values into all registers of the selected vCPUs; they spin with them until :meth:`canary_check`.

        vCPU 0 leaves its spin for each command, compares at once, and goes back with fresh values.
        """
        await self._channel.request(Command.CANARY_ARM, struct.pack("<QI", seed, vcpu_mask), deadline)

    async def canary_check(self, *, deadline: Deadline) -> CanaryReport:
        """Compare the canaries of all armed vCPUs and disarm them."""
        return protocol.parse_canaries(await self._channel.request(Command.CANARY_CHECK, b"", deadline))

    async def bench(self, *, store: bool, pages: int, deadline: Deadline) -> BenchReport:
        """Time a plain 64-bit store or load loop on vCPU 0. Stores destroy the pattern: fill again afterwards."""
        payload = struct.pack("<IIQ", 0 if store else 1, 0, pages)
        return protocol.parse_bench(await self._channel.request(Command.BENCH, payload, deadline))

    async def hypercall(self, number: int, *arguments: int, deadline: Deadline) -> KvmAnswer:
        """Call the KVM under the guest, if it is one, with up to three *arguments* (linux: hypercalls.rst)."""
        registers = (number, *arguments, *(0,) * (3 - len(arguments)))
        payload = struct.pack("<4Q", *registers)
        return protocol.parse_hypercall(await self._channel.request(Command.HYPERCALL, payload, deadline))

    async def halt(self, mode: HaltMode = HaltMode.STOP, *, deadline: Deadline) -> None:
        """Stop, power off or reset. After a reset :meth:`ready` waits for the guest to be back."""
        if mode is HaltMode.RESET:
            self.expect_reset()
        await self._channel.request(Command.HALT, struct.pack("<I", mode), deadline)

    async def crash(self, kind: CrashKind, *, deadline: Deadline) -> None:
        """Crash on purpose. The guest answers first; where it sends a FAULT, the next command raises GuestError."""
        await self._channel.request(Command.CRASH, struct.pack("<I", kind), deadline)
