"""An attempt that is cancelled on purpose: the source must run on as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from harness.cases.faults import HostFault
from harness.cases.judge_protection import begin_crossing, give_up
from harness.cases.sealed_wire import SealedWire, open_sealed_wire
from harness.cases.settings import CancelSettings
from harness.cases.stage import CaseOverError, Guest, Stage, read_clock
from harness.cases.witness import beats_of, beats_on, run_state
from harness.checks.ends import check_cancelled, check_stayed_alive
from harness.migration.driver import cancel, listen, migrate, prepare
from harness.migration.settings import CancelAt
from harness.model.evidence import StayedAlive
from harness.vm.vm import Vm


async def cancelled_attempt(
    stage: Stage, guest: Guest, settings: CancelSettings, at: CancelAt, *, number: int
) -> Guest:
    """Migrate to a destination of its own, cancel in phase *at*, and see the source go on.

    Returns the guest with its clock read anew: cancelled late, it has stood still for a moment.
    """
    stage.step(f"cancel in {at}")
    plan = settings.cancelled_migration(at)
    role = f"cancelled{number + 1}"
    destination = await stage.start(role, incoming=True, features=stage.binaries.destination)
    await asyncio.gather(*(prepare(vm, plan, deadline=stage.deadline) for vm in (guest.vm, destination)))
    crossing = begin_crossing(stage, guest, destination, title=f"attempt {number + 1}")
    async with _way_to(stage, guest, destination, settings, role) as (uri, sealed):
        if stage.strikes(HostFault.IGNORE_CANCEL):
            moved = await migrate(guest.vm, destination, uri, plan, deadline=stage.deadline)
        else:
            moved = await cancel(guest.vm, uri, plan, at, deadline=stage.deadline)
        if crossing:
            await give_up(stage, guest, crossing, sealed, moved)
    found = stage.notebook.judge("migration/cancel", check_cancelled(moved.end.source, phase=at))
    if stage.strikes(HostFault.STOP_SOURCE):
        await guest.vm.qmp.execute("stop", deadline=stage.deadline)
    before = beats_of(guest, guest.vm)
    after = await beats_on(stage, guest, guest.vm, before)
    alive = StayedAlive(run_state=await run_state(stage, guest.vm), before=before, after=after)
    found += stage.notebook.judge("migration/source-alive", check_stayed_alive(alive))
    if found:
        # There is no guest any more that could be migrated for good.
        raise CaseOverError
    stage.retire(destination)
    return replace(guest, anchor=await read_clock(guest.probe, stage.deadline))


@asynccontextmanager
async def _way_to(
    stage: Stage, guest: Guest, destination: Vm, settings: CancelSettings, role: str
) -> AsyncIterator[tuple[str, SealedWire | None]]:
    """Where to migrate to, and the ends of the wire that a protected guest needs. No fault of the wire strikes here."""
    uri = await listen(destination, f"unix:{stage.runtime / role}", deadline=stage.deadline)
    if stage.shield is None:
        yield uri, None
        return
    async with open_sealed_wire(
        stage, stage.shield, guest.vm, destination, uri=uri, settings=settings, faults=(), name=role, record=None
    ) as sealed:
        yield sealed.source.uri, sealed
