"""What a host shows while a VM is reset: QEMU's events always, its ioctls and the kernel's log where one may look."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from harness.hosts.kernel_log import KernelLog
from harness.model.deadline import Deadline
from harness.model.errors import UnsupportedError
from harness.model.reset import KernelLogDifference, ResetEvidence
from harness.vm.ioctl_tracer import IoctlTracer, trace_ioctls
from harness.vm.machine_events import machine_events
from harness.vm.qmp import QmpSession

_KMSG = Path("/dev/kmsg")


class ResetObserver:
    """Of one span. Made by :func:`observe_resets`."""

    def __init__(self, qmp: QmpSession) -> None:
        self.missing: list[str] = []
        """Why a witness is missing, a line each, with what would help."""
        self.tracer: IoctlTracer | None = None
        self._qmp, self._since = qmp, qmp.cursor
        self._until: int | None = None
        self._log: KernelLog | None = None
        self._kernel_log = KernelLogDifference()

    def evidence(self) -> ResetEvidence:
        """Of the whole span, once the block has been left."""
        return ResetEvidence(
            events=machine_events(self._qmp.events[self._since : self._until]),
            trace=self.tracer.trace() if self.tracer else None,
            kernel_log=self._kernel_log,
        )

    def watch_kernel(self, device: Path, stack: AsyncExitStack) -> None:
        """Read the kernel's log from here on, if it may be read."""
        try:
            self._log = stack.enter_context(KernelLog(device))
        except UnsupportedError as refusal:
            self._miss(refusal)

    async def watch_ioctls(self, pid: int, strace: str, deadline: Deadline, stack: AsyncExitStack) -> None:
        """Trace QEMU from here on, if it may be traced."""
        try:
            self.tracer = await stack.enter_async_context(trace_ioctls(pid, strace=strace, deadline=deadline))
        except UnsupportedError as refusal:
            self._miss(refusal)

    def end(self) -> None:
        """What comes now is not of the span."""
        self._until = self._qmp.cursor
        if self._log:
            self._kernel_log = self._log.difference()

    def _miss(self, refusal: UnsupportedError) -> None:
        self.missing.append(f"{refusal}: {refusal.hint}")


@asynccontextmanager
async def observe_resets(
    pid: int,
    qmp: QmpSession,
    *,
    ioctls: bool = True,
    strace: str = "strace",
    kernel_log: Path = _KMSG,
    deadline: Deadline,
) -> AsyncIterator[ResetObserver]:
    """Watch QEMU, process *pid* behind *qmp*, while the block resets it; *ioctls* only make sense under KVM.

    A witness that this host does not let us have is missing, with its reason, and the evidence says so. Stop the VM, or
    wait until it runs again, before leaving the block: a reset that is half seen is judged as such.

    Raises LostError when QEMU is gone, DeadlineError.
    """
    observer = ResetObserver(qmp)
    async with AsyncExitStack() as stack:
        observer.watch_kernel(kernel_log, stack)
        if ioctls:
            await observer.watch_ioctls(pid, strace, deadline, stack)
        try:
            yield observer
        finally:
            observer.end()
