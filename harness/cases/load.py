"""What the guest does around a move: fill its memory, work, stop, verify."""

from __future__ import annotations

from harness.cases.faults import HostFault
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import Guest, Stage
from harness.checks.memory import GUEST, check_guest_memory, check_running_reads
from harness.model.guest import CrashKind, Workload
from harness.model.memory import PAGE_SHIFT


async def fill_and_load(stage: Stage, guest: Guest, settings: MigrationCaseSettings) -> None:
    """Give every page its pattern, then let the workload run."""
    notebook = stage.notebook
    stage.step("fill")
    with notebook.timed("fill_s"):
        await guest.probe.fill(stage.seed.sub("pattern"), deadline=stage.deadline)
    if settings.workload is not Workload.IDLE:
        await guest.probe.start(
            settings.workload,
            seed=stage.seed.sub("workload"),
            pages=settings.working_set_mib << (20 - PAGE_SHIFT),
            pages_per_flush=settings.pages_per_flush,
            deadline=stage.deadline,
        )


async def verify(stage: Stage, guest: Guest) -> None:
    """Stop the workload and let the guest judge all of its memory, on all vCPUs."""
    stage.step("verify")
    await _strike(stage, guest)
    with stage.notebook.timed("guest_verify_s"):
        vm = guest.vm
        work = await vm.guarded(guest.probe.stop(deadline=stage.deadline), stage.deadline, what="the workload to stop")
        memory = await vm.guarded(
            guest.probe.verify(deadline=stage.deadline), stage.deadline, what="the guest's verdict"
        )
    stage.notebook.judge(GUEST, check_guest_memory(memory))
    stage.notebook.judge("memory/running-reads", check_running_reads(work))
    stage.events.emit("guest", "verified", pages=memory.pages_checked, bad=memory.pages_bad)


async def _strike(stage: Stage, guest: Guest) -> None:
    """Apply the faults of a guest that errs at its destination."""
    for fault, kind in ((HostFault.CRASH_GUEST, CrashKind.UNDEFINED), (HostFault.HANG_GUEST, CrashKind.HANG)):
        if fault in stage.faults.host:
            await guest.probe.crash(kind, deadline=stage.deadline)
