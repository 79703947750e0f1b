"""What KVM keeps of each vCPU of a protected guest outside its VMSA: the GHCB in both protocols, and what travels.

The value that travels is Hygon's (KVM_CAP_SEV_ES_GHCB): in page protocol the gpa with bits 63 (mapped) and 62 (has had
its first SIPI), else the bare value of the MSR. A value of 0 is neither sent nor taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Protocol

from harness.confidential.soft.channel import ghcb, mmio_device
from harness.confidential.soft.channel.ghcb import Exit, Ghcb, GhcbError, GhcbRefusedError
from harness.confidential.soft.channel.hypercalls import HypercallReply, ReplyFlag
from harness.model.protection import FIRST_SIPI_RECEIVED, GHCB_PAGE_MAPPED, VcpuProtection
from harness.model.reset import VcpuAtReset
from harness.model.soft_fault import SoftFault

_FLAGS = GHCB_PAGE_MAPPED | FIRST_SIPI_RECEIVED


class Services(Protocol):
    """What a GHCB can ask for that a plain guest asks directly."""

    def vmmcall(self, vcpu: int, rax: int, rbx: int, rcx: int, rdx: int) -> HypercallReply:
        """A hypercall."""
        ...

    def wrmsr(self, vcpu: int, msr: int, value: int) -> HypercallReply:
        """Write an MSR that KVM emulates."""
        ...

    def rdmsr(self, vcpu: int, msr: int) -> HypercallReply:
        """Read one."""
        ...


@dataclass(slots=True)
class VcpuState:
    """One vCPU."""

    ghcb: int = 0
    """The MSR, without flag bits."""
    registered: int | None = None
    """gpa that the guest registered."""
    is_mapped: bool = False
    had_sipi: bool = False
    """An AP that asks for something has been started."""
    is_held: bool = False
    """KVM_MP_STATE_AP_RESET_HOLD."""
    is_protected: bool = False
    """guest_state_protected: KVM neither shows nor takes its registers."""
    took_registers: bool = True
    """Whether KVM took what QEMU wrote of its registers at the latest reset."""
    aux: dict[str, int] = field(default_factory=dict)
    vmsa_sha256: str = ""

    @property
    def uses_page(self) -> bool:
        """Whether the MSR holds the gpa of a page."""
        return bool(self.ghcb) and not self.ghcb & ghcb.INFO_MASK


class VcpuBank:
    """All vCPUs of one VM. Not thread-safe: its owner locks."""

    def __init__(
        self,
        vcpus: int,
        *,
        read: Callable[[int], bytes | None],
        c_bit: int,
        faults: AbstractSet[SoftFault] = frozenset(),
        is_protected: bool = True,
    ) -> None:
        """*read* gives a page of guest memory as the host reads it, None where no RAM is; *c_bit* is the number.

        *is_protected*: of a guest with encrypted vCPU state.
        """
        self._read, self._c_bit, self._faults = read, c_bit, faults
        self._is_es = is_protected
        self._states = [VcpuState(is_protected=is_protected) for _ in range(vcpus)]

    def __contains__(self, vcpu: int) -> bool:
        return 0 <= vcpu < len(self._states)

    def heard_of(self, vcpu: int) -> None:
        """*vcpu* runs: one that is not the boot CPU has had its SIPI."""
        state = self._states[vcpu]
        state.had_sipi, state.is_held = vcpu > 0, False

    def write_ghcb(self, vcpu: int, value: int) -> None:
        """WRMSR 0xC0010130."""
        state = self._states[vcpu]
        state.is_mapped = state.is_mapped and state.ghcb == value
        state.ghcb = value

    def ghcb_of(self, vcpu: int) -> int:
        """RDMSR 0xC0010130."""
        return self._states[vcpu].ghcb

    def vmgexit(self, vcpu: int, services: Services) -> HypercallReply:
        """The vCPU left the guest: its MSR, or the page that the MSR names, says why."""
        state = self._states[vcpu]
        if state.ghcb & ghcb.INFO_MASK:
            state.ghcb = self._negotiate(state)
            return HypercallReply(value=state.ghcb)
        try:
            return self._exit_by_page(vcpu, state, services)
        except GhcbRefusedError as refused:
            return HypercallReply(value=refused.error, flags=ReplyFlag.ERROR)

    def note(self, vcpu: int, *, aux: Mapping[str, int], vmsa: bytes = b"") -> None:
        """Registers as they are in a stream: what KVM tracks, and the register pages one behind the other."""
        state = self._states[vcpu]
        state.aux = dict(aux)
        if vmsa:
            state.vmsa_sha256 = hashlib.sha256(vmsa).hexdigest()

    def records(self) -> dict[int, int]:
        """The value that travels, of each vCPU that has one."""
        return {vcpu: _packed(state) for vcpu, state in enumerate(self._states) if state.ghcb}

    def take(self, vcpu: int, value: int) -> None:
        """A value that came in."""
        if not value or SoftFault.GHCB_LOST in self._faults:
            return
        state = self._states[vcpu]
        if value & ghcb.INFO_MASK:
            state.ghcb = value
            if value & ghcb.INFO_MASK == ghcb.REGISTERED:
                state.registered = value & ~ghcb.INFO_MASK
            return
        state.ghcb = state.registered = value & ~_FLAGS
        state.had_sipi = bool(value & FIRST_SIPI_RECEIVED) and SoftFault.SIPI_FLAG_LOST not in self._faults
        if value & GHCB_PAGE_MAPPED:
            # A page that cannot be mapped now is mapped at the next exit (receiver_ghcb_map_fail of the series).
            state.is_mapped = self._read(state.ghcb) is not None

    def open_for_reset(self) -> None:
        """PRE_SYSTEM_RESET: guest_state_protected is cleared, so that KVM takes what QEMU writes of registers."""
        for state in self._states:
            state.is_protected = state.is_protected and SoftFault.STATE_STAYS_PROTECTED in self._faults

    def reset(self) -> None:
        """The vCPUs were reset, and QEMU wrote their registers."""
        old = self._states
        self._states = [
            VcpuState(is_protected=state.is_protected, took_registers=not state.is_protected, had_sipi=state.had_sipi)
            for state in old
        ]
        if SoftFault.GHCB_KEPT in self._faults:
            for state, before in zip(self._states, old, strict=True):
                state.ghcb, state.registered, state.is_mapped = before.ghcb, before.registered, before.is_mapped

    def close_after_reset(self) -> None:
        """POST_SYSTEM_RESET: guest_state_protected is set, received_first_sipi is cleared."""
        for state in self._states:
            state.is_protected = self._is_es and SoftFault.STATE_UNPROTECTED not in self._faults
            state.had_sipi = state.had_sipi and SoftFault.SIPI_FLAG_KEPT in self._faults

    @property
    def are_protected(self) -> bool:
        """Whether registers leave this host as VMSA only."""
        return all(state.is_protected for state in self._states)

    def at_reset(self) -> tuple[VcpuAtReset, ...]:
        """All vCPUs, behind a reset."""
        return tuple(
            VcpuAtReset(
                vcpu=vcpu,
                ghcb=state.ghcb,
                is_ghcb_mapped=state.is_mapped,
                has_first_sipi=state.had_sipi,
                took_registers=state.took_registers,
                is_state_protected=state.is_protected,
            )
            for vcpu, state in enumerate(self._states)
        )

    def snapshot(self) -> tuple[VcpuProtection, ...]:
        """All vCPUs; flags as they would travel."""
        return tuple(
            VcpuProtection(
                vcpu=vcpu,
                ghcb=state.ghcb,
                is_ghcb_mapped=state.uses_page and state.is_mapped,
                has_first_sipi=state.uses_page and state.had_sipi,
                aux=dict(state.aux),
                vmsa_sha256=state.vmsa_sha256,
            )
            for vcpu, state in enumerate(self._states)
        )

    def _negotiate(self, state: VcpuState) -> int:
        """The MSR protocol: the new value of the MSR."""
        request, payload = state.ghcb & ghcb.INFO_MASK, state.ghcb & ~ghcb.INFO_MASK
        if request == ghcb.SEV_INFO_REQUEST:
            return ghcb.sev_info(self._c_bit)
        if request == ghcb.REGISTER_REQUEST:
            if payload & _FLAGS or self._read(payload) is None:
                return ghcb.REJECTED
            state.registered = payload
            return payload | ghcb.REGISTERED
        if request == ghcb.AP_RESET_HOLD_REQUEST:
            state.is_held = True
            return ghcb.AP_RESET_HOLD
        # TERMINATE and what is not known stay as they are: KVM ends such a guest, and the value is for its log.
        return state.ghcb

    def _exit_by_page(self, vcpu: int, state: VcpuState, services: Services) -> HypercallReply:
        if not state.ghcb or state.registered != state.ghcb:
            raise GhcbRefusedError(GhcbError.NOT_REGISTERED)
        content = self._read(state.ghcb)
        if content is None:
            raise GhcbRefusedError(GhcbError.INVALID_USAGE)
        page = Ghcb(state.ghcb, content)
        page.check()
        state.is_mapped = True
        code = page.get(ghcb.EXIT_CODE)
        if code not in self._exits:
            raise GhcbRefusedError(GhcbError.INVALID_EVENT)
        return self._exits[Exit(code)](self, vcpu, page, services)

    def _vmmcall(self, vcpu: int, page: Ghcb, services: Services) -> HypercallReply:
        registers = (page.get_if_valid(offset) for offset in (ghcb.RBX, ghcb.RCX, ghcb.RDX))
        return services.vmmcall(vcpu, page.get(ghcb.RAX), *registers)

    def _msr(self, vcpu: int, page: Ghcb, services: Services) -> HypercallReply:
        msr = page.get(ghcb.RCX) & 0xFFFFFFFF
        if page.get(ghcb.EXIT_INFO_1) == 0:
            return services.rdmsr(vcpu, msr)
        low, high = page.get(ghcb.RAX) & 0xFFFFFFFF, page.get(ghcb.RDX) & 0xFFFFFFFF
        return services.wrmsr(vcpu, msr, high << 32 | low)

    def _mmio_read(self, _vcpu: int, page: Ghcb, _services: Services) -> HypercallReply:
        return HypercallReply(value=mmio_device.read(*_mmio(page)))

    def _mmio_write(self, _vcpu: int, page: Ghcb, _services: Services) -> HypercallReply:
        _mmio(page)
        return HypercallReply()

    def _ap_reset_hold(self, vcpu: int, _page: Ghcb, _services: Services) -> HypercallReply:
        self._states[vcpu].is_held = True
        return HypercallReply()

    _exits: Mapping[Exit, Callable[[VcpuBank, int, Ghcb, Services], HypercallReply]] = {
        Exit.VMMCALL: _vmmcall,
        Exit.MSR: _msr,
        Exit.MMIO_READ: _mmio_read,
        Exit.MMIO_WRITE: _mmio_write,
        Exit.AP_RESET_HOLD: _ap_reset_hold,
    }


def _packed(state: VcpuState) -> int:
    if not state.uses_page:
        return state.ghcb
    flags = GHCB_PAGE_MAPPED * state.is_mapped | FIRST_SIPI_RECEIVED * state.had_sipi
    return state.ghcb | flags


def _mmio(page: Ghcb) -> tuple[int, int]:
    """The gpa and size of an access, once they are found good."""
    gpa, size_bytes = page.get(ghcb.EXIT_INFO_1), page.get(ghcb.EXIT_INFO_2)
    if not mmio_device.answers(gpa, size_bytes):
        raise GhcbRefusedError(GhcbError.INVALID_INPUT)
    page.buffer(size_bytes)
    return gpa, size_bytes
