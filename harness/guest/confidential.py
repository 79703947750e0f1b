"""Commands about memory protection, for a probe that was booted with ``cvm=``. Meaning: images/probe/PROTOCOL.md."""

from __future__ import annotations

import struct

from harness.guest.cvm_page import parse_cvm_page
from harness.guest.lines import SHARED_SEED
from harness.guest.probe import Probe
from harness.guest.protocol import ALL_VCPUS, Command, Ready
from harness.model.cvm_guest import ConversionReply, ConversionStatus, CvmGuest, Shapes
from harness.model.deadline import Deadline
from harness.model.errors import ProtocolError
from harness.model.memory import GpaRange
from harness.model.protection import VcpuErrands

__all__ = ["ALL_SHAPES", "SHARED_SEED", "ConfidentialProbe"]

ALL_SHAPES = Shapes.PAGE | Shapes.LARGE | Shapes.ODD
_PRIVATE = 1
_HYPERCALL_FIRST = 2
_GPA = struct.Struct("<Q")
_U32 = struct.Struct("<I")
_RANGE = struct.Struct("<QQ")
_CONVERT = struct.Struct("<QQI")
_CONVERTED = struct.Struct("<Iq")
_ERRAND = struct.Struct("<IIII")
_STALE = struct.Struct("<II")


class ConfidentialProbe:
    """The commands that a protected guest knows besides those of :class:`Probe`; the same errors, the same channel.

    A guest without ``cvm=`` refuses them with ProtocolError ("unknown command").
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    async def describe(self, *, deadline: Deadline) -> CvmGuest:
        """The cvm page."""
        reply = await self._probe.request(Command.CVM, b"", deadline=deadline)
        return parse_cvm_page(_GPA.unpack_from(reply)[0], reply[_GPA.size :])

    async def shared_ranges(self, *, deadline: Deadline) -> tuple[GpaRange, ...]:
        """What is shared by the guest's own walk of its page tables: maximal gpa ranges in RAM, ascending.

        Raises ProtocolError when the tables change meanwhile: stop conversions first.
        """
        ranges: list[GpaRange] = []
        total = 1
        while len(ranges) < total:
            reply = await self._probe.request(Command.MAP, _U32.pack(len(ranges)), deadline=deadline)
            (now,) = _U32.unpack_from(reply)
            page = [GpaRange(*words) for words in _RANGE.iter_unpack(reply[_U32.size :])]
            if (ranges and now != total) or (now > len(ranges) and not page):
                raise ProtocolError("the guest's page tables change during the walk", hint="stop conversions first")
            total = now
            ranges += page
        return tuple(ranges)

    async def convert(
        self, gpa: int, size_bytes: int, *, private: bool, deadline: Deadline, hypercall_first: bool = False
    ) -> ConversionReply:
        """Make every page of [gpa, gpa + size_bytes) private or shared. ProtocolError outside managed memory.

        Linux changes its tables first and tells the host then; *hypercall_first* is the other order.
        """
        flags = (_PRIVATE if private else 0) | (_HYPERCALL_FIRST if hypercall_first else 0)
        reply = await self._probe.request(Command.CONVERT, _CONVERT.pack(gpa, size_bytes, flags), deadline=deadline)
        status, result = _CONVERTED.unpack_from(reply)
        return ConversionReply(status=ConversionStatus(status), result=result)

    async def start_conversions(
        self,
        *,
        deadline: Deadline,
        vcpu_mask: int = ALL_VCPUS,
        seed: int = 0,
        per_tick: int = 0,
        shapes: Shapes = ALL_SHAPES,
        window_pages: int = 0,
    ) -> None:
        """Convert drawn ranges on the vCPUs of *vcpu_mask*, beside any workload, until :meth:`stop_conversions`.

        *per_tick* bounds the conversions of each vCPU per timer interrupt (0: no bound), *window_pages* where they are:
        the first so many managed pages (0: all).
        """
        payload = struct.pack("<IIQIIQ", 1, vcpu_mask, seed, per_tick, shapes, window_pages)
        await self._probe.request(Command.CONVERSIONS, payload, deadline=deadline)

    async def stop_conversions(self, *, deadline: Deadline) -> int:
        """Every vCPU has finished its conversion when this returns. How many the workload has done since its start."""
        payload = struct.pack("<IIQIIQ", 0, 0, 0, 0, 0, 0)
        reply = await self._probe.request(Command.CONVERSIONS, payload, deadline=deadline)
        return int.from_bytes(reply[:8], "little")

    async def enter_kernel(self, *, deadline: Deadline) -> int:
        """Leave a firmware that was told to hold. How many vCPUs run from then on; DESCRIBE had said 1."""
        reply = await self._probe.request(Command.ENTER_KERNEL, b"", deadline=deadline)
        return int(_U32.unpack_from(reply)[0])

    async def kexec(self, *, deadline: Deadline) -> Ready:
        """Start a new kernel without a reset, and wait for it. Memory is to be filled again; the boot id stays."""
        self._probe.expect_reset()
        await self._probe.request(Command.KEXEC, b"", deadline=deadline)
        return await self._probe.ready(deadline=deadline)

    async def errands(self, *, deadline: Deadline, reads: int = 8) -> tuple[VcpuErrands, ...]:
        """Every vCPU at once: *reads* MMIO reads through #VC (ES guests only), and one IPI to the next vCPU."""
        reply = await self._probe.request(Command.ERRAND, _U32.pack(reads), deadline=deadline)
        return tuple(
            VcpuErrands(vcpu=vcpu, mmio_ok=mmio_ok, mmio_bad=mmio_bad, ipi_ok=bool(ipi_ok))
            for vcpu, mmio_ok, mmio_bad, ipi_ok in _ERRAND.iter_unpack(reply)
        )

    async def offline(self, vcpu_mask: int, *, deadline: Deadline) -> int:
        """Take vCPUs out of the kernel, never vCPU 0; each writes 0 to MSR_KVM_MIGRATION_CONTROL. The online mask."""
        reply = await self._probe.request(Command.OFFLINE, _U32.pack(vcpu_mask), deadline=deadline)
        return int(_U32.unpack_from(reply)[0])

    async def online(self, vcpu_mask: int, *, deadline: Deadline) -> int:
        """Bring vCPUs back. The online mask."""
        reply = await self._probe.request(Command.ONLINE, _U32.pack(vcpu_mask), deadline=deadline)
        return int(_U32.unpack_from(reply)[0])

    async def stale(self, gpa: int, pages: int, *, deadline: Deadline) -> int:
        """Make *pages* shared and private again one by one. How often the old content showed through."""
        reply = await self._probe.request(Command.STALE, struct.pack("<QI", gpa, pages), deadline=deadline)
        return int(_STALE.unpack_from(reply)[1])
