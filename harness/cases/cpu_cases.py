"""Cases about vCPU registers and clocks."""

from __future__ import annotations

from harness.cases.case import case
from harness.cases.hop import move, start_destination
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import Stage
from harness.checks.cpu import CHECK, check_canaries
from harness.model.guest import Workload


@case(
    "cpu/state",
    summary="every vCPU holds known values in all its registers while it is moved, and finds them unchanged",
    settings=MigrationCaseSettings,
    vcpus=2,
    workload=Workload.IDLE,
    passes=1,
)
async def state(stage: Stage, settings: MigrationCaseSettings) -> None:
    """Arm the canaries, move, compare."""
    guest, destination = await stage.boot_pair(start_destination(stage, settings, 0))
    await guest.probe.canary_arm(stage.seed.sub("canary"), deadline=stage.deadline)
    guest = await move(stage, guest, settings, destination=destination, is_last=False)
    report = await guest.vm.guarded(
        guest.probe.canary_check(deadline=stage.deadline), stage.deadline, what="the registers to be compared"
    )
    stage.notebook.judge(CHECK, check_canaries(report))
