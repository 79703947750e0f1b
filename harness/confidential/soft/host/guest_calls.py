"""What the guest asks of its host, answered: hypercalls, MSRs, and the same through the GHCB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness.confidential.soft.channel.ghcb import GhcbError
from harness.confidential.soft.channel.hypercalls import (
    FEATURE_HC_MAP_GPA_RANGE,
    FEATURE_MIGRATION_CONTROL,
    HC_MAP_GPA_RANGE,
    MSR_GHCB,
    MSR_MIGRATION_CONTROL,
    MSR_SEV_STATUS,
    HypercallReply,
    HypercallRequest,
    Operation,
    ReplyFlag,
)
from harness.confidential.soft.host.handshake import MigrationControl
from harness.confidential.soft.host.vcpu_protection import VcpuBank
from harness.confidential.soft.memory.conversions import KVM_ENOSYS, Conversions
from harness.confidential.soft.options import HostOptions
from harness.model.protection import MIGRATION_READY

_EPERM = 1
"""Stands for the #GP of an MSR that is not there, or does not take the value."""
_BAD_VCPU = HypercallReply(value=GhcbError.INVALID_INPUT, flags=ReplyFlag.ERROR)
_NOT_WITHOUT_GHCB = HypercallReply(value=GhcbError.INVALID_EVENT, flags=ReplyFlag.ERROR)


@dataclass(slots=True, kw_only=True)
class GuestCalls:
    """Of one VM. Not thread-safe: its owner locks."""

    options: HostOptions
    is_es: bool
    conversions: Conversions
    control: MigrationControl
    hello: Callable[[HypercallRequest], None]
    """A guest begins to speak, on this boot or another."""
    vcpus: VcpuBank

    def answer(self, request: HypercallRequest) -> HypercallReply:
        """One request of the guest."""
        vcpu = request.vcpu
        if vcpu not in self.vcpus:
            return _BAD_VCPU
        self.conversions.finished(vcpu)
        if request.operation is Operation.HELLO:
            # Before anything else: it may be another boot, of which nothing was heard yet.
            self.hello(request)
        self.vcpus.heard_of(vcpu)
        return self._answers[request.operation](self, request)

    def vmmcall(self, vcpu: int, rax: int, rbx: int, rcx: int, rdx: int) -> HypercallReply:
        """See Services."""
        if rax != HC_MAP_GPA_RANGE:
            return HypercallReply(value=-KVM_ENOSYS)
        return self.conversions.call(vcpu, rbx, rcx, rdx)

    def wrmsr(self, vcpu: int, msr: int, value: int) -> HypercallReply:
        """See Services."""
        if msr == MSR_GHCB and self.is_es:
            self.vcpus.write_ghcb(vcpu, value)
            return HypercallReply()
        if msr != MSR_MIGRATION_CONTROL or not self.options.offers_migration or value & ~MIGRATION_READY:
            return HypercallReply(value=-_EPERM)
        was_ready = bool(self.control.msr & MIGRATION_READY)
        self.control.write(value)
        if value and not was_ready and self.options.refuses_conversion:
            self.conversions.refuse_next(self.options.refuses_conversion)
        return HypercallReply()

    def rdmsr(self, vcpu: int, msr: int) -> HypercallReply:
        """See Services."""
        values = {MSR_SEV_STATUS: 0b11 if self.is_es else 0b01}
        if self.is_es:
            values[MSR_GHCB] = self.vcpus.ghcb_of(vcpu)
        if self.options.offers_migration:
            values[MSR_MIGRATION_CONTROL] = self.control.msr
        if msr not in values:
            return HypercallReply(value=-_EPERM, flags=ReplyFlag.ERROR)
        return HypercallReply(value=values[msr])

    @property
    def _features(self) -> int:
        return FEATURE_HC_MAP_GPA_RANGE | FEATURE_MIGRATION_CONTROL if self.options.offers_migration else 0

    def _greet(self, _request: HypercallRequest) -> HypercallReply:
        return HypercallReply(value=self._features)

    def _vmmcall(self, request: HypercallRequest) -> HypercallReply:
        if self.is_es:
            return _NOT_WITHOUT_GHCB
        return self.vmmcall(request.vcpu, request.rax, request.rbx, request.rcx, request.rdx)

    def _wrmsr(self, request: HypercallRequest) -> HypercallReply:
        if self.is_es and request.rcx != MSR_GHCB:
            return _NOT_WITHOUT_GHCB
        return self.wrmsr(request.vcpu, request.rcx, request.rax)

    def _rdmsr(self, request: HypercallRequest) -> HypercallReply:
        return self.rdmsr(request.vcpu, request.rcx)

    def _vmgexit(self, request: HypercallRequest) -> HypercallReply:
        return self.vcpus.vmgexit(request.vcpu, self)

    _answers: ClassVar[Mapping[Operation, Callable[[GuestCalls, HypercallRequest], HypercallReply]]] = {
        Operation.HELLO: _greet,
        Operation.VMMCALL: _vmmcall,
        Operation.WRMSR: _wrmsr,
        Operation.RDMSR: _rdmsr,
        Operation.VMGEXIT: _vmgexit,
    }
