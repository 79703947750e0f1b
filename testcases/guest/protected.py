"""A host for protected guests as small as can be: it keeps the list, and can be told to misbehave."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from harness.confidential.soft.channel.hypercall_server import HypercallServer
from harness.confidential.soft.channel.hypercalls import (
    FEATURE_HC_MAP_GPA_RANGE,
    FEATURE_MIGRATION_CONTROL,
    HC_MAP_GPA_RANGE,
    MSR_GHCB,
    HypercallReply,
    HypercallRequest,
    Operation,
    ReplyFlag,
)
from harness.guest.confidential import ConfidentialProbe
from harness.guest.probe import Probe
from harness.model.address_map import AddressMap
from harness.model.guest import GuestDescription, RamLayout
from harness.model.live_page_map import LivePageMap
from harness.model.memory import PAGE_SIZE, GpaRange, coalesce
from harness.model.page_map import Conversion, PageMap

BOTH = FEATURE_HC_MAP_GPA_RANGE | FEATURE_MIGRATION_CONTROL
SCRAMBLE = 0x0123456789ABCDEF
EINVAL = -22
RETRY_PAGES = (64 << 20) >> 12
U64 = (1 << 64) - 1
Answer = HypercallReply | None


def mix64(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & U64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & U64
    return x ^ x >> 31


@dataclass(slots=True, kw_only=True)
class Host:
    """Handles requests as KVM and QEMU would."""

    ram: memoryview
    layout: RamLayout
    features: int = BOTH
    scramble: int = SCRAMBLE
    retries: bool = False
    takes_ghcb: bool = True
    mmio_xor: int = 0
    refuses: Callable[[Conversion], bool] = lambda _: False
    requests: list[HypercallRequest] = field(default_factory=list)
    conversions: list[Conversion] = field(default_factory=list)
    msrs: dict[tuple[int, int], int] = field(default_factory=dict)
    msr_writes: list[HypercallRequest] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    hello: HypercallRequest | None = None
    addresses: AddressMap = field(init=False)
    pages: LivePageMap = field(init=False)

    def __post_init__(self) -> None:
        self.addresses = AddressMap.of(self.layout)
        self.pages = LivePageMap(PageMap.all_private(self.addresses.pages))

    def shared(self) -> tuple[GpaRange, ...]:
        return self.addresses.gpa_ranges(self.pages.snapshot().shared)

    def answer(self, request: HypercallRequest) -> HypercallReply:
        self.requests.append(request)
        operations = {
            Operation.HELLO: self._hello,
            Operation.VMMCALL: self._vmmcall,
            Operation.WRMSR: self._wrmsr,
            Operation.RDMSR: self._rdmsr,
            Operation.VMGEXIT: self._vmgexit,
        }
        return operations[request.operation](request)

    def walk(self) -> tuple[GpaRange, ...]:
        """What is shared by the guest's page tables, read where they lie."""
        assert self.hello is not None
        pages: list[int] = []
        self._walk(self.hello.rbx, 0, 1 << 39, self.hello.rcx, pages)
        spans = coalesce(pages)
        return tuple(span for span in spans if self._has_ram(span.start))

    def _walk(self, table: int, first: int, step: int, c_bit: int, pages: list[int]) -> None:
        at = self.layout.gpa_to_ram(table)
        for index, entry in enumerate(struct.unpack_from("<512Q", self.ram, at)):
            gpa = first + index * step
            if not entry & 1 or not any(self._has_ram(gpa + step * part // 512) for part in range(512)):
                continue
            if step > PAGE_SIZE and not entry & 1 << 7:
                self._walk(entry & 0x000FFFFFFFFFF000, gpa, step // 512, c_bit, pages)
            elif not entry & c_bit:
                pages += range(gpa, gpa + step, PAGE_SIZE)

    def _has_ram(self, gpa: int) -> bool:
        try:
            self.layout.gpa_to_ram(gpa)
        except ValueError:
            return False
        return True

    @property
    def hello_gpa(self) -> int:
        """Where the guest says that its cvm page is."""
        assert self.hello is not None
        return self.hello.rax

    def writes(self, msr: int) -> list[HypercallRequest]:
        """Who wrote *msr*, and what: directly, or through a GHCB."""
        return [request for request in self.msr_writes if request.rcx == msr]

    def _hello(self, request: HypercallRequest) -> HypercallReply:
        self.hello = request
        return HypercallReply(value=self.features)

    def _vmmcall(self, request: HypercallRequest) -> HypercallReply:
        return self._map(request.rax, request.rbx, request.rcx, request.rdx)

    def _map(self, number: int, gpa: int, pages: int, attributes: int) -> HypercallReply:
        assert number == HC_MAP_GPA_RANGE
        some = min(pages, RETRY_PAGES) if self.retries else pages
        call = Conversion(gpa=gpa, pages=some, attributes=attributes)
        result = EINVAL if call.refusal or self.refuses(call) else 0
        self.conversions.append(Conversion(gpa=gpa, pages=some, attributes=attributes, result=result))
        if result:
            return HypercallReply(value=result)
        self.pages.convert(call, self.addresses)
        if some < pages:
            return HypercallReply(value=gpa + (some << 12), extra=self.scramble, flags=ReplyFlag.RETRY)
        return HypercallReply(extra=self.scramble)

    def _wrmsr(self, request: HypercallRequest) -> HypercallReply:
        self.msrs[request.vcpu, request.rcx] = request.rax
        self.msr_writes.append(request)
        return HypercallReply()

    def _rdmsr(self, request: HypercallRequest) -> HypercallReply:
        return HypercallReply(value=self.msrs.get((request.vcpu, request.rcx), 0))

    def _vmgexit(self, request: HypercallRequest) -> HypercallReply:
        msr = self.msrs[request.vcpu, MSR_GHCB]
        protocol = {0x002: 2 << 48 | 1 << 32 | 58 << 24 | 0x001, 0x012: msr & ~0xFFF | 0x013}
        if msr & 0xFFF:
            return HypercallReply(value=protocol[msr & 0xFFF])
        return self._page_exit(request, self.layout.gpa_to_ram(msr))

    def _page_exit(self, request: HypercallRequest, at: int) -> HypercallReply:
        code = self._field(at, 0x390)
        self.exits.append(code)
        if not self.takes_ghcb:
            return HypercallReply(value=2, flags=ReplyFlag.ERROR)
        if code == 0x81:
            return self._map(*(self._field(at, offset) for offset in (0x1F8, 0x318, 0x308, 0x310)))
        if code == 0x7C:
            value = self._field(at, 0x1F8) | self._field(at, 0x310) << 32
            return self._wrmsr(replace(request, rcx=self._field(at, 0x308), rax=value))
        if code == 0x80000001:
            size = self._field(at, 0x3A0)
            return HypercallReply(value=(mix64(self._field(at, 0x398)) ^ self.mmio_xor) & (1 << 8 * size) - 1)
        if code == 0x80000004:
            return HypercallReply()
        return HypercallReply(value=5, flags=ReplyFlag.ERROR)

    def _field(self, ghcb: int, offset: int) -> int:
        bit = offset // 8
        if not self.ram[ghcb + 0x3F0 + bit // 8] >> bit % 8 & 1:
            return 0
        return int.from_bytes(self.ram[ghcb + offset : ghcb + offset + 8], "little")


class LossyPort:
    """The server's end of the port; some of what it sends gets lost on the way."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.to_lose = self.lost = 0

    def setblocking(self, flag: bool) -> None:
        self._sock.setblocking(flag)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def recv(self, size: int, flags: int) -> bytes:
        return self._sock.recv(size, flags)

    def send(self, data: bytes, flags: int) -> int:
        if self.to_lose:
            self.to_lose, self.lost = self.to_lose - 1, self.lost + 1
            return len(data)
        return self._sock.send(data, flags)


@dataclass(slots=True, kw_only=True)
class Protected:
    vm: Any
    host: Host
    server: HypercallServer
    port: LossyPort
    probe: Probe
    cvm: ConfidentialProbe

    async def description(self, lab: Any) -> GuestDescription:
        return await self.probe.describe(deadline=lab.deadline)


@asynccontextmanager
async def protected(
    lab: Any, words: str = "cvm=sev cbit=58", *options: str, vcpus: int = 1, memory_mib: int = 64, **more: Any
) -> AsyncIterator[Protected]:
    """A guest with *words* on its command line, and a host with *more* settings of :class:`Host`."""
    below = more.pop("below_4g_mib", 0)
    options = ("-append", words, *options)
    async with lab.vm(*options, vcpus=vcpus, memory_mib=memory_mib, below_4g_mib=below) as vm:
        host = Host(ram=vm.ram, layout=vm.layout, **more)
        port: Any = LossyPort(vm.hypercalls)
        server = HypercallServer(port, host.answer)
        server.start()
        probe = Probe(*vm.channel)
        try:
            yield Protected(vm=vm, host=host, server=server, port=port, probe=probe, cvm=ConfidentialProbe(probe))
            assert server.error is None, server.error
        finally:
            server.stop()
            await probe.close()
