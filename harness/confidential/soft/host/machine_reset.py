"""What KVM and QEMU of the series do around a reset of a protected guest, while its VM stands still.

A host that renews (QEMU 11) has no such ioctls: it closes the VM's descriptor, launches the guest again and lets the
machine reset.

QEMU's order ("Add support for CSV2 reboot"): PRE_SYSTEM_RESET, devices, vCPUs, POST_SYSTEM_RESET. PRE lets QEMU write
registers of protected vCPUs. POST flushes all caches, puts the VMSA of the launch back and protects the state again. A
host without these ioctls has no protected vCPUs to reset; that it flushes is taken for granted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.confidential.soft.caches.vm_caches import VmCaches
from harness.confidential.soft.host.handshake import MigrationControl
from harness.confidential.soft.host.vcpu_protection import VcpuBank
from harness.confidential.soft.memory.conversions import Conversions
from harness.confidential.soft.memory.guest_memory import GuestMemory
from harness.confidential.soft.memory.host_list import HostList
from harness.model.reset import POST_SYSTEM_RESET, PRE_SYSTEM_RESET, IoctlCall, IoctlTrace

_NO_THREAD = _NO_FD = 0


@dataclass(slots=True, kw_only=True)
class MachineReset:
    """Of one VM. Not thread-safe: its owner locks."""

    has_ioctls: bool
    host_list: HostList
    control: MigrationControl
    conversions: Conversions
    vcpus: VcpuBank
    memory: GuestMemory
    caches: Callable[[], VmCaches | None]
    """None where nobody plays them."""
    renew: Callable[[], None] | None = None
    """Of a host that gives the guest a new context instead, before devices are reset (QEMU 11)."""
    _calls: list[IoctlCall] = field(default_factory=list)

    def begins(self) -> None:
        """PRE_SYSTEM_RESET: the old boot is over, and memory is as it left it."""
        self._note(PRE_SYSTEM_RESET)
        self.vcpus.open_for_reset()
        if self.renew:
            self.renew()

    def ends(self) -> None:
        """QEMU has reset its devices and vCPUs; POST_SYSTEM_RESET. Stale lines fall here, or later."""
        self.host_list.reset()
        self.control.reset()
        self.vcpus.reset()
        self.conversions.begin_anew(self.host_list.page_map())
        self.memory.forget()
        self._note(POST_SYSTEM_RESET)
        if not self.renew and (caches := self.caches()):
            caches.reset()
        self.vcpus.close_after_reset()

    def trace(self, since_s: float, until_s: float, *, others: int) -> IoctlTrace:
        """PRE and POST as the kernel got them in this span of the host's clock; *others* is what else it was asked."""
        calls = tuple(call for call in self._calls if since_s <= call.at_s <= until_s)
        return IoctlTrace(pid=0, started_s=since_s, ended_s=until_s, calls=calls, others=others, end="asked")

    def _note(self, request: int) -> None:
        if self.has_ioctls:
            at_s = time.time()
            self._calls.append(IoctlCall(at_s=at_s, thread=_NO_THREAD, fd=_NO_FD, request=request, result=0))
