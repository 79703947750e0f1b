"""What the guest does around a move: fill its memory, work, stop, verify."""

from __future__ import annotations

from harness.cases.faults import HostFault
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import Guest, Stage
from harness.checks.memory import GUEST, check_guest_memory, check_running_reads
from harness.model.guest import CrashKind, GuestMemory, Workload
from harness.model.memory import PAGE_SHIFT

_ANSWER_S = 30.0
"""A guest that lives answers in milliseconds; one that is silent for so long does not live. On a host with ten times as
many busy threads as CPUs some took more than ten seconds."""

_VERIFY_S_PER_GIB = 20.0
"""Far below the slowest verification that was seen, under TCG on a busy machine."""


async def fill_and_load(stage: Stage, guest: Guest, settings: MigrationCaseSettings) -> None:
    """Give every page its pattern, then let the workload run."""
    notebook = stage.notebook
    stage.step("fill")
    with notebook.timed("fill_s"):
        await guest.probe.fill(stage.pattern_seed, deadline=stage.deadline)
    if settings.workload is not Workload.IDLE:
        await guest.probe.start(
            settings.workload,
            seed=stage.seed.sub("workload"),
            pages=settings.working_set_mib << (20 - PAGE_SHIFT),
            pages_per_tick=settings.pages_per_tick,
            pages_per_flush=settings.pages_per_flush,
            deadline=stage.deadline,
        )


async def stop_work(stage: Stage, guest: Guest) -> None:
    """Stop workload and conversions, and judge what its readers met while it ran. Safe to call again.

    Each report is judged, because the guest forgets what it has reported.
    """
    deadline = stage.deadline.within(_ANSWER_S)
    if stage.shield:
        conversions = guest.confidential.stop_conversions(deadline=deadline)
        await guest.vm.guarded(conversions, deadline, what="conversions to stop", guest_too=True)
    work = await guest.vm.guarded(
        guest.probe.stop(deadline=deadline), deadline, what="the workload to stop", guest_too=True
    )
    stage.notebook.judge("memory/running-reads", check_running_reads(work))


async def verify(stage: Stage, guest: Guest) -> GuestMemory:
    """Stop the workload and let the guest judge all of its memory, on all vCPUs; what it found."""
    stage.step("verify")
    await _strike(stage, guest)
    deadline = stage.deadline.within(_ANSWER_S + _VERIFY_S_PER_GIB * guest.vm.ram.size_bytes / (1 << 30))
    with stage.notebook.timed("guest_verify_s"):
        await stop_work(stage, guest)
        memory = await guest.vm.guarded(
            guest.probe.verify(deadline=deadline), deadline, what="the guest to verify its memory", guest_too=True
        )
    stage.notebook.judge(GUEST, check_guest_memory(memory))
    stage.events.emit("guest", "verified", pages=memory.pages_checked, bad=memory.pages_bad)
    return memory


async def _strike(stage: Stage, guest: Guest) -> None:
    """Apply the faults of a guest that errs at its destination."""
    for fault, kind in ((HostFault.CRASH_GUEST, CrashKind.UNDEFINED), (HostFault.HANG_GUEST, CrashKind.HANG)):
        if stage.strikes(fault):
            await guest.probe.crash(kind, deadline=stage.deadline)
