"""A machine is reset in the midst of its migration, in each phase: the guest boots, and on exactly one side."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial

from harness.cases.faults import HostFault
from harness.cases.hop import Interlude, move, start_destination
from harness.cases.judge_reboot import Manner, judge_early
from harness.cases.load import verify
from harness.cases.reboot import Rebooter
from harness.cases.reset_phase import ResetAt
from harness.cases.stage import CaseOverError, Guest, Stage
from harness.cases.wire import Wire, close_account, open_wire
from harness.cases.witness import beats_of, beats_on, judge_state, run_state
from harness.checks import early
from harness.checks.device_state import JUST_RESET, VOLATILE
from harness.checks.ends import check_ends
from harness.checks.pulse import ONE_RUNS, check_one_runs
from harness.migration.driver import Midway, Moved, migrate, prepare
from harness.migration.hold import slow_down
from harness.migration.settings import CancelAt
from harness.model.early import ResetPhase
from harness.model.errors import ProtocolError
from harness.model.evidence import Pulse
from harness.model.guest import Heartbeat
from harness.model.reboot_way import RebootWay
from harness.vm.vm import Vm


async def reset_in_migration(rebooter: Rebooter, guest: Guest, at: ResetAt, manner: Manner, *, number: int) -> Guest:
    """Move *guest* by hop *number*, with a reset in phase *at*; returns it on the other side, verified and loaded anew.

    Raises what move() raises.
    """
    stage = rebooter.stage
    stage.step(f"reset in {at}")
    destination = await start_destination(stage, rebooter.settings, number)
    left = guest.vm
    if at.is_live:
        guest = await _reset_live(rebooter, guest, destination, at, manner, number=number)
    elif at is ResetAt.SOURCE_DONE:
        guest = await _reset_source(rebooter, guest, destination, number=number)
    else:
        guest = await _reset_stopped(rebooter, guest, destination, at, number=number)
    await verify(stage, guest)
    stage.retire(left)
    return guest


async def _reset_live(
    rebooter: Rebooter, guest: Guest, destination: Vm, at: ResetAt, manner: Manner, *, number: int
) -> Guest:
    """The guest runs, so it reboots itself in any way, fills its memory anew, and goes on its way."""
    stage, settings, left, done = rebooter.stage, rebooter.settings, guest.vm, rebooter.done

    async def play(leaving: Guest) -> Guest:
        await slow_down(leaving.vm, deadline=stage.deadline)
        began = await _status(stage, leaving.vm)
        # A guest that has left cannot reboot where it was, and would be said to hang.
        _judge_phase(stage, at, began, began)
        again = await rebooter.reboot(leaving, manner)
        _judge_phase(stage, at, began, await _status(stage, leaving.vm))
        return again

    interlude = Interlude(at=CancelAt(at.value), play=play)
    guest = await move(
        stage, guest, settings, number=number, destination=destination, is_last=False, interlude=interlude
    )
    if rebooter.done == done:
        ended = await _status(stage, left)
        _judge_phase(stage, at, ended, ended)
    return guest


def _judge_phase(stage: Stage, at: ResetAt, before: str, after: str) -> None:
    """Raises when the migration was not in its phase: then nothing that follows is about a reset in it."""
    phase = ResetPhase(at=str(at), statuses=(before, after))
    if stage.notebook.judge("precondition", early.check_phase(phase, expected=at.statuses)):
        raise CaseOverError


async def _reset_source(rebooter: Rebooter, guest: Guest, destination: Vm, *, number: int) -> Guest:
    """After the guest has left: the machine that it was in is reset, and must not run."""
    stage, left = rebooter.stage, guest.vm
    guest = await move(stage, guest, rebooter.settings, number=number, destination=destination, is_last=False)
    before, still = beats_of(guest, guest.vm), beats_of(guest, left)
    await left.qmp.execute("set-action", {"reboot": "reset"}, deadline=stage.deadline)
    await _reset(stage, left)
    await _judge_one_side(stage, guest, left, still=still, before=before)
    return guest


async def _reset_stopped(rebooter: Rebooter, guest: Guest, destination: Vm, at: ResetAt, *, number: int) -> Guest:
    """The VM stands still for its switch-over: the guest boots on the other side, from the reset vector."""
    stage, source, settings = rebooter.stage, guest.vm, rebooter.settings
    is_late = at is ResetAt.DESTINATION_LOADED
    plan = settings.migration()
    if not is_late:
        plan = replace(plan, capabilities={**plan.capabilities, "pause-before-switchover": True})
    await prepare(source, plan, deadline=stage.deadline)
    async with open_wire(stage, guest, destination, settings, number) as wire:
        moved = await migrate(
            source,
            destination,
            wire.uri,
            plan,
            deadline=stage.deadline,
            midways=() if is_late else (Midway(CancelAt.PRE_SWITCHOVER, partial(_reset, stage, source)),),
            passed_on=wire.passed_on,
        )
        stage.notebook.has_moved = True
        await _judge_ends(stage, wire, moved)
        still = beats_of(guest, source)
        volatile = VOLATILE if is_late else (*VOLATILE, JUST_RESET)
        await judge_state(stage, guest, destination, wire, number=number, is_last=False, volatile=volatile)
    if is_late:
        await _reset(stage, destination)
    arrived = replace(guest, vm=destination)
    guest.probe.expect_reset()
    guest.probe.attach(*destination.channel)
    await destination.qmp.execute("cont", deadline=stage.deadline)
    deadline = stage.deadline.within(settings.boot_s)
    await destination.guarded(guest.probe.ready(deadline=deadline), deadline, what="the guest to boot")
    booted = await stage.looked_at(arrived)
    await judge_early(stage, guest, booted, Manner(way=RebootWay.HOST), ())
    await _judge_one_side(stage, booted, source, still=still, before=beats_of(booted, destination))
    stage.fills += 1
    await rebooter.load(booted)
    return booted


async def _reset(stage: Stage, vm: Vm) -> None:
    since = vm.qmp.cursor
    await vm.qmp.execute("system_reset", deadline=stage.deadline)
    await vm.qmp.wait_event("RESET", since=since, deadline=stage.deadline)


async def _judge_ends(stage: Stage, wire: Wire, moved: Moved) -> None:
    end = moved.end
    if wire.relay:
        account = await close_account(stage, wire.relay, moved)
        end = replace(end, shut_code=account.shut_code)
    if stage.notebook.judge("migration/ends", check_ends(end)):
        raise CaseOverError


async def _judge_one_side(stage: Stage, guest: Guest, left: Vm, *, still: Heartbeat, before: Heartbeat) -> None:
    """The guest goes on where it is, and the VM that it was in does not run, whatever was done to it.

    *still* is the heartbeat page in the VM that it left, *before* the one where it is; both were read before.
    """
    if stage.strikes(HostFault.RUN_SOURCE):
        await left.qmp.execute("cont", deadline=stage.deadline)
    after = await beats_on(stage, guest, guest.vm, before)
    gone = still
    # One that boots anew has none for a while, and says that it runs.
    with contextlib.suppress(ProtocolError):
        gone = beats_of(guest, left)
    pulse = Pulse(
        source_before=still,
        source_after=gone,
        destination_before=before,
        destination_after=after,
        source_run_state=await run_state(stage, left),
        destination_run_state=await run_state(stage, guest.vm),
    )
    if stage.notebook.judge(ONE_RUNS, check_one_runs(pulse)):
        raise CaseOverError


async def _status(stage: Stage, vm: Vm) -> str:
    return str((await vm.qmp.execute("query-migrate", deadline=stage.deadline)).get("status", "none"))
