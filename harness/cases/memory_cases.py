"""Cases about guest memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial

from harness.cases.attempt import cancelled_attempt
from harness.cases.bystander import OnArrival
from harness.cases.case import case
from harness.cases.hop import move, start_destination
from harness.cases.load import fill_and_load, verify
from harness.cases.settings import CancelSettings, MigrationCaseSettings, PingPongSettings
from harness.cases.stage import Stage
from harness.model.guest import Workload
from harness.vm.vm import Vm


@case(
    "memory/precopy",
    summary="a guest that dirties its memory at full speed is migrated live; every page is judged twice",
    settings=MigrationCaseSettings,
)
async def precopy(stage: Stage, settings: MigrationCaseSettings) -> None:
    """Boot both sides, fill, dirty, migrate, verify."""
    guest, destination = await stage.boot_pair(start_destination(stage, settings, 0))
    await fill_and_load(stage, guest, settings)
    guest = await move(stage, guest, settings, destination=destination)
    await verify(stage, guest)


@case(
    "memory/multi-vcpu",
    summary="several vCPUs write the same pages under locks while they are moved",
    settings=MigrationCaseSettings,
    vcpus=4,
    workload=Workload.SHARED,
)
async def multi_vcpu(stage: Stage, settings: MigrationCaseSettings) -> None:
    """As memory/precopy, with cross-vCPU sharing."""
    await precopy(stage, settings)


@case(
    "memory/large",
    summary="more memory than fits below the hole at 4 GiB",
    settings=MigrationCaseSettings,
    nightly=True,
    memory_mib=5120,
    vcpus=2,
    working_set_mib=1024,
    workload=Workload.RANDOM,
    deadline_s=600.0,
)
async def large(stage: Stage, settings: MigrationCaseSettings) -> None:
    """As memory/precopy, with RAM on both sides of the hole."""
    await precopy(stage, settings)


@case(
    "memory/precopy-cancel-retry",
    summary="attempts are cancelled in every phase, the source runs on unharmed, and a fresh destination gets it all",
    settings=CancelSettings,
)
async def precopy_cancel_retry(stage: Stage, settings: CancelSettings) -> None:
    """Cancel once in each phase, then migrate for good."""
    guest = await stage.boot()
    await fill_and_load(stage, guest, settings)
    for number, at in enumerate(settings.cancel_at):
        guest = await cancelled_attempt(stage, guest, settings, at, number=number)
    guest = await move(stage, guest, settings, number=0)
    await verify(stage, guest)


@case(
    "memory/ping-pong",
    summary="there and back again, as often as asked; every hop is judged, all memory at the end",
    settings=PingPongSettings,
)
async def ping_pong(stage: Stage, settings: PingPongSettings) -> None:
    """Hop N times; a destination starts when the guest arrives two hops before it, so four VMs can be there at once."""
    coming: deque[asyncio.Task[Vm]] = deque()

    def start(number: int) -> None:
        if number < settings.hops:
            coming.append(stage.ahead(start_destination(stage, settings, number)))

    guest, destination = await stage.boot_pair(start_destination(stage, settings, 0))
    if settings.fill:
        await fill_and_load(stage, guest, settings)
    started_s = time.monotonic()
    start(1)
    for number in range(settings.hops):
        left, is_last = guest.vm, not coming
        bystander = OnArrival(partial(start, number + 2))
        guest = await move(
            stage, guest, settings, number=number, destination=destination, is_last=is_last, bystander=bystander
        )
        if coming:
            stage.retire(left)
            destination = await coming.popleft()
    stage.notebook.timings["hops_per_s"] = settings.hops / (time.monotonic() - started_s)
    if settings.fill:
        await verify(stage, guest)
