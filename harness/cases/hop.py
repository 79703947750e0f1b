"""One move of a guest with every witness: what all cases that migrate have in common.

The order matters. The source is stopped and the destination has loaded but not run: that is the moment when the host
compares their memories and devices. Only then the destination runs, and the guest is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Self

from harness.cases.bystander import Bystander
from harness.cases.faults import HostFault
from harness.cases.judge_protection import (
    Crossing,
    begin_crossing,
    give_up,
    judge_arrival,
    judge_conversions,
    judge_crossing,
    judge_wire,
    settle,
)
from harness.cases.load import stop_work
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import CaseOverError, ClockAnchor, Guest, Stage, machine_of, read_clock
from harness.cases.wire import Wire, close_account, open_wire
from harness.cases.witness import beats_of, judge_clocks, judge_state, let_run
from harness.checks.ends import check_ends
from harness.checks.precondition import check_redirtied
from harness.migration.driver import Midway, Moved, listen, migrate, prepare, traffic_of
from harness.migration.settings import CancelAt, MigrationSettings, Transport
from harness.migration.story import SideEvent, timeline_of
from harness.model.deadline import Deadline
from harness.model.errors import ProtocolError, TooSlowError, UnsupportedError
from harness.model.guest import Heartbeat, Workload
from harness.model.machine import MachineSpec
from harness.model.timeline import Sample
from harness.report.events import SAMPLE
from harness.vm.features import Features
from harness.vm.vm import Vm

_NOBODY = Bystander()

_RESERVE_S = 5.0
"""Kept of the case's deadline, so that a migration that hangs can still be cancelled and told."""


async def start_destination(stage: Stage, settings: MigrationCaseSettings, number: int) -> Vm:
    """Start the VM that hop *number* (from 0) goes to, and make it listen: the two binaries take turns."""
    features = stage.binaries.source if number % 2 else stage.binaries.destination
    role = "dst" if number == 0 else f"dst{number + 1}"
    machine = machine_of(stage.request, stage.binaries)
    spec = replace(machine, reboots=machine.reboots or HostFault.RESET_DESTINATION in stage.faults.host)
    if stage.strikes(HostFault.OTHER_MACHINE):
        spec = replace(spec, machine=_another_machine(spec.machine, features.machines))
    return await start_listening(stage, settings, role, features=features, spec=spec)


async def start_listening(
    stage: Stage, settings: MigrationCaseSettings, role: str, *, features: Features, spec: MachineSpec | None = None
) -> Vm:
    """Start a VM that is ready to be migrated to."""
    vm = await stage.start(role, incoming=True, features=features, spec=spec)
    await prepare(vm, settings.migration(), deadline=stage.deadline)
    uri = f"unix:{stage.runtime / f'in-{role}'}" if settings.transport is Transport.UNIX else "tcp:127.0.0.1:0"
    await listen(vm, uri, deadline=stage.deadline)
    return vm


@dataclass(frozen=True, slots=True, kw_only=True)
class Interlude:
    """What a guest goes through while it is being moved, after which it is another one: a boot."""

    at: CancelAt
    """In which phase; not in pre-switchover, where no guest runs."""
    play: Callable[[Guest], Awaitable[Guest]]


async def move(
    stage: Stage,
    guest: Guest,
    settings: MigrationCaseSettings,
    *,
    number: int = 0,
    destination: Vm | None = None,
    is_last: bool = True,
    interlude: Interlude | None = None,
    bystander: Bystander = _NOBODY,
) -> Guest:
    """Move *guest* live and judge the move; returns the guest in its new VM, running.

    With *is_last* the workload is told to stop before the destination runs, so that it hardly writes over what the
    guest is to verify; else it works on. An *interlude* is played on the source; who comes out of it moves.

    Raises CaseOverError when the ends show that nothing arrived, and what the driver and the probe raise.
    """
    destination = destination or await start_destination(stage, settings, number)
    plan = _plan(settings, bystander)
    crossing = begin_crossing(stage, guest, destination, title=f"hop {number + 1}")
    await prepare(guest.vm, plan, deadline=stage.deadline)
    async with open_wire(stage, guest, destination, settings, number) as wire:
        stage.step("migrate")
        # Last of all: what the guest writes from here on counts as written during its move.
        leaving = await _Leaving.look(stage, guest, crossing)
        await bystander.source_leaves()
        moved = await migrate(
            guest.vm,
            destination,
            wire.uri,
            plan,
            deadline=Deadline(stage.deadline.at_s - _RESERVE_S),
            on_sample=lambda sample: _show(stage, sample, guest.vm.ram.size_bytes),
            midways=_midways(stage, leaving, destination, interlude, bystander),
            is_witnessed=lambda: settings.workload is Workload.IDLE or leaving.has_written,
            passed_on=wire.passed_on,
        )
        await _judge_wire(stage, leaving, wire, moved, destination, number)
        at_stop = beats_of(leaving.guest, guest.vm)
        _judge_load(stage, settings, moved, written=leaving.written)
        if leaving.crossing and wire.sealed:
            judge_conversions(stage, leaving.crossing, wire.sealed, settings.protection)
            await asyncio.to_thread(settle, leaving.crossing)
            judge_crossing(stage, leaving.guest, leaving.crossing)
        seen = await judge_state(stage, leaving.guest, destination, wire, number=number, is_last=is_last)
    await bystander.destination_loaded(seen)
    arrived = await _arrive(stage, leaving, destination, wire, bystander, stops_work=is_last)
    clock = await judge_clocks(stage, leaving.guest, leaving.before, at_stop, leaving.clock.asked_s)
    return replace(arrived, anchor=clock)


@dataclass(slots=True, kw_only=True)
class _Leaving:
    """The guest that moves, and what was read of it before; an interlude makes it another one."""

    guest: Guest
    clock: ClockAnchor
    before: Heartbeat
    crossing: Crossing | None

    @classmethod
    async def look(cls, stage: Stage, guest: Guest, crossing: Crossing | None) -> Self:
        """Read its clock and its heartbeats."""
        clock = await read_clock(guest.probe, stage.deadline)
        if guest.anchor:
            guest = replace(guest, tsc_hz=min(guest.tsc_hz, guest.anchor.hz_until(clock)))
        return cls(guest=guest, clock=clock, before=beats_of(guest, guest.vm), crossing=crossing)

    @property
    def written(self) -> int:
        """Pages that the guest wrote since it was looked at, or since its interlude."""
        return beats_of(self.guest, self.guest.vm).pages_written - self.before.pages_written

    @property
    def has_written(self) -> bool:
        """Whether it wrote any page since then; one that boots anew has nowhere to say so for a while."""
        with contextlib.suppress(ProtocolError):
            return self.written > 0
        return False

    async def play(self, stage: Stage, interlude: Interlude) -> None:
        """Whoever comes out of *interlude* is who moves."""
        self.guest = await interlude.play(self.guest)
        self.clock = await read_clock(self.guest.probe, stage.deadline)
        self.before = beats_of(self.guest, self.guest.vm)
        self.crossing = self.crossing and replace(self.crossing, conversions_before=0)


def _midways(
    stage: Stage, leaving: _Leaving, destination: Vm, interlude: Interlude | None, bystander: Bystander
) -> list[Midway]:
    midways = _sabotage(stage, leaving.guest.vm, destination)
    if interlude:
        midways.append(Midway(interlude.at, partial(leaving.play, stage, interlude)))
    if bystander.stops_source:
        midways.append(Midway(CancelAt.PRE_SWITCHOVER, bystander.source_stopped))
    return midways


async def _judge_wire(stage: Stage, leaving: _Leaving, wire: Wire, moved: Moved, destination: Vm, number: int) -> None:
    """What went over the wire, and how both ends took it; raises when nothing arrived."""
    stage.notebook.has_moved = True
    guest, crossing = leaving.guest, leaving.crossing
    if crossing and not moved.completed:
        await give_up(stage, guest, crossing, wire.sealed, moved)
    if crossing and wire.sealed and moved.completed:
        await wire.sealed.settled()
        judge_wire(stage, guest, crossing, wire.sealed)
    await _note_move(stage, wire, moved, guest.vm, destination, number)


async def _arrive(
    stage: Stage, leaving: _Leaving, destination: Vm, wire: Wire, bystander: Bystander, *, stops_work: bool
) -> Guest:
    """Let the destination run, and see the guest there."""
    leaving.guest.probe.attach(*destination.channel)
    arrived = replace(leaving.guest, vm=destination)
    stopping = asyncio.create_task(stop_work(stage, arrived)) if stops_work else None
    try:
        await let_run(stage, leaving.guest, destination, on_run=bystander.destination_runs)
        if leaving.crossing and wire.sealed:
            await judge_arrival(stage, arrived, leaving.crossing, wire.sealed)
        if stopping:
            await stopping
    finally:
        if stopping:
            stopping.cancel()
    return arrived


def _plan(settings: MigrationCaseSettings, bystander: Bystander) -> MigrationSettings:
    """How to migrate, so that *bystander* has its moments."""
    plan = settings.migration()
    if not bystander.stops_source:
        return plan
    return replace(plan, capabilities={**plan.capabilities, "pause-before-switchover": True})


async def _note_move(stage: Stage, wire: Wire, moved: Moved, source: Vm, destination: Vm, number: int) -> None:
    """Timeline, timings and the ends of the move; raises when nothing arrived."""
    notebook = stage.notebook
    notebook.timelines.append(
        timeline_of(
            [event for vm in (source, destination) for event in _events(vm)],
            moved.samples,
            hop=number,
            started_s=moved.started_s,
            ended_s=moved.ended_s,
        )
    )
    notebook.timings["migrate_s"] = notebook.timings.get("migrate_s", 0.0) + moved.ended_s - moved.started_s
    notebook.timings["downtime_ms"] = max(
        notebook.timings.get("downtime_ms", 0.0), float(moved.reply.get("downtime", 0))
    )
    end = moved.end
    if wire.relay:
        account = await close_account(stage, wire.relay, moved)
        end = replace(end, shut_code=account.shut_code)
    if moved.too_slow:
        raise TooSlowError(
            moved.too_slow, hint="see the dirty rate in the timeline; raise deadline_s or bandwidth_mib_s"
        )
    if notebook.judge("migration/ends", check_ends(end)):
        raise CaseOverError


def _judge_load(stage: Stage, settings: MigrationCaseSettings, moved: Moved, *, written: int) -> None:
    """Whether the migration was live: pages were sent, written again, and sent again."""
    traffic = traffic_of(moved, pages_written=written)
    stage.events.emit("src", "traffic", sent=traffic.pages_sent, resent=traffic.pages_resent, written=written)
    stage.notebook.judge("precondition", check_redirtied(traffic, passes=settings.passes))


def _show(stage: Stage, sample: Sample, total_bytes: int) -> None:
    stage.events.emit("src", SAMPLE, total_bytes=total_bytes, **asdict(sample))


def _sabotage(stage: Stage, source: Vm, destination: Vm) -> list[Midway]:
    victims = [
        vm
        for fault, vm in ((HostFault.KILL_SOURCE, source), (HostFault.KILL_DESTINATION, destination))
        if stage.strikes(fault)
    ]

    async def kill() -> None:
        for vm in victims:
            await vm.kill()

    return [Midway(CancelAt.FIRST_PASS, kill)] if victims else []


def _events(vm: Vm) -> list[SideEvent]:
    return [
        SideEvent(
            side=vm.role,
            name=event.name,
            at_s=event.at_s,
            status=str(event.data.get("status", event.data.get("pass", ""))),
        )
        for event in vm.qmp.events
    ]


def _another_machine(machine: str, known: frozenset[str]) -> str:
    """A machine type of the same family that is not *machine*."""
    family = machine.rpartition("-")[0]
    others = sorted(name for name in known if name.startswith(f"{family}-") and name != machine)
    if not others:
        raise UnsupportedError(f"this QEMU knows no other {family} machine type", hint="choose another binary")
    return others[-1]
