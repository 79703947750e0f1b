"""One scenario on its way: it prepares the guest, stands by while it moves, and waits for what is to arrive."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from harness.cases.bystander import Bystander
from harness.cases.interrupts.controllers import Controllers
from harness.cases.interrupts.device import MovingDevice
from harness.cases.interrupts.device_faults import err_on_load, raise_late
from harness.cases.interrupts.judge import judge_stop, judge_translations
from harness.cases.interrupts.scenario import Scenario
from harness.cases.interrupts.storm import Storm
from harness.cases.stage import Guest, Stage
from harness.cases.witness import SeenState, beats_of
from harness.guest.interrupts import InterruptProbe, LedgerReader
from harness.model.errors import PreconditionError
from harness.model.interrupts import (
    DOORBELL_IDS,
    At,
    Held,
    Hold,
    InterruptStory,
    Moment,
    Raised,
    Received,
    Sighting,
    Source,
    SourceKind,
)
from harness.vm.vm import Vm

_STORM_MIN = 200
"""Interrupts of a storm on each side of a move; below that it was none."""

_ARM_TRIES = 5
_SILENCE_S = 0.25
"""After it somebody looks whether what is missing can still come."""

_TAKES_TIME = frozenset({SourceKind.TIMER, SourceKind.EDGE, SourceKind.LEGACY})

_RECEIVE_S = 20.0
"""How long a guest that nothing holds may take to handle one more interrupt; it takes microseconds."""


@dataclass(slots=True, kw_only=True)
class Player(Bystander):
    """One scenario on its way."""

    stops_source = True
    stage: Stage
    guest: Guest
    destination: Vm
    scenario: Scenario
    probe: InterruptProbe
    ledger: LedgerReader
    device: MovingDevice
    controllers: Controllers
    sources: tuple[Source, ...]
    """As the guest has made them."""
    made: list[Raised] = field(default_factory=list)
    """Raised by the guest."""
    counts: Counter[int] = field(default_factory=Counter)
    sightings: list[Sighting] = field(default_factory=list)
    planned: frozenset[Held] = frozenset()
    order_at_stop: int = 0
    ticks_at_stop: int = 0
    """Of the last heartbeat, at most a hundredth of a second before."""
    counts_at_stop: tuple[int, ...] = ()
    ticks_per_s: float = 0.0
    storm: Storm | None = None
    moments: dict[str, float] = field(default_factory=dict)

    async def prepare(self) -> None:
        """Everything up to the move: what stays in service, the holds, and what is raised behind them."""
        deadline = self.stage.deadline
        for step in self.scenario.begun:
            await self.probe.step(step.code, step.words, deadline=deadline)
        for source_id in self.scenario.taken:
            await self.raise_all((source_id,), Moment.BEFORE)
            if not await self.receive({source_id: 1}):
                raise PreconditionError(f"never received: {self._source(source_id).label}")
        for hold in self.scenario.holds:
            await self.probe.hold(hold.kind, vcpu_mask=hold.vcpu_mask, argument=hold.argument, deadline=deadline)
        await self.raise_all(self.scenario.raised.get(Moment.BEFORE, ()), Moment.BEFORE)
        await self._await_pending(held.id for held in self.planned if self._can_tell(held))
        await self._rearrange()
        if self.storm:
            self.storm.start(self.guest.vm.ram.view, Moment.BEFORE)
            await self.storm.until(_STORM_MIN, self.stage.deadline)

    async def _rearrange(self) -> None:
        """What the guest does with interrupts that are pending already."""
        scenario = self.scenario
        for step in scenario.prepared:
            await self.probe.step(step.code, step.words, deadline=self.stage.deadline)
        self.sources = tuple(
            replace(source, vcpu=scenario.moved.get(source.id, source.vcpu)) for source in self.sources
        )
        self.planned = frozenset(
            replace(held, vcpu=scenario.moved.get(held.id, held.vcpu))
            for held in self.planned
            if held.id not in scenario.retired
        )
        self.made = [one for one in self.made if one.id not in scenario.retired]
        self.device.retire(scenario.retired)
        await self.raise_all(scenario.late, Moment.BEFORE)

    async def raise_all(self, ids: Iterable[int], moment: Moment) -> None:
        """Raise each of *ids*: the device's here, the guest's own by command."""
        ids = list(ids)
        self.device.raise_next([one for one in ids if one < DOORBELL_IDS], moment)
        own = [one for one in ids if one >= DOORBELL_IDS]
        if not own:
            return
        timers = any(self._source(one).kind is SourceKind.TIMER for one in own)
        ticks = (await self.guest.probe.heartbeat(deadline=self.stage.deadline)).tsc if timers else 0
        for one in own:
            self.counts[one] += 1
            self.made.append(
                Raised(id=one, number=self.counts[one], moment=moment, at_s=time.monotonic(), at_ticks=ticks)
            )
        await self.probe.trigger(own, deadline=self.stage.deadline)

    async def receive(self, due: Mapping[int, int]) -> bool:
        """Wait until the guest has logged each of these ids so often; False when one does not come."""
        ram, deadline = self.guest.vm.ram.view, self.stage.deadline.within(_RECEIVE_S)
        while missing := [one for one, times in due.items() if self.ledger.counts(ram)[one] < times]:
            if await self.device.bell.wait_ring(deadline.within(_SILENCE_S)):
                continue
            if deadline.has_passed or await self._is_settled(missing):
                break
        self.ledger.read(ram)
        return not any(self.ledger.counts(ram)[one] < times for one, times in due.items())

    async def _is_settled(self, missing: Iterable[int]) -> bool:
        """Whether what is missing can never come: neither device nor controllers have it, and no time is awaited."""
        if any(self._source(one).kind in _TAKES_TIME for one in missing) or not self.device.bell.is_taken_in:
            return False
        return await self.probe.drain(deadline=self.stage.deadline) == 0

    def _due(self) -> Counter[int]:
        """How often each id must have been received in the end."""
        due: Counter[int] = Counter()
        for one in (*self.device.raised, *self.made):
            due[one.id] += self._source(one.id).deliveries
        for source in self.sources:
            if source.is_periodic and due[source.id]:
                due[source.id] = self.counts_at_stop[source.id] + 1
        return due

    def _can_tell(self, held: Held) -> bool:
        """Whether the guest can read it from a register. A level that is masked it has raised itself, at once."""
        return held.at is At.PENDING or (held.at is At.DEVICE and self._source(held.id).kind is not SourceKind.LEVEL)

    async def _await_pending(self, ids: Iterable[int]) -> None:
        wanted = sorted(set(ids))
        seen = await self.probe.await_pending(wanted, deadline=self.stage.deadline) if wanted else frozenset()
        missing = [self._source(source_id).label for source_id in wanted if source_id not in seen]
        if missing:
            raise PreconditionError(f"not pending in the guest's controllers: {', '.join(missing)}")

    def _source(self, source_id: int) -> Source:
        return next(source for source in self.sources if source.id == source_id)

    async def source_leaves(self) -> None:
        """Timers are armed last, and the machine is stopped before they fire; one that did all the same, anew."""
        to_arm = self.scenario.armed
        for _ in range(_ARM_TRIES if to_arm else 0):
            await self.raise_all(to_arm, Moment.BEFORE)
            await self.guest.vm.qmp.execute("stop", deadline=self.stage.deadline)
            counts = self.ledger.counts(self.guest.vm.ram.view)
            to_arm = tuple(one for one in to_arm if counts[one] >= self.counts[one])
            if not to_arm:
                return
            await self.guest.vm.qmp.execute("cont", deadline=self.stage.deadline)

    async def source_stopped(self) -> None:
        """The device stops too; then the monitor tells what is under way."""
        self.moments["stopped"] = time.monotonic()
        late = self.scenario.raised.get(Moment.STOPPED, ())
        if self.storm:
            await self.storm.stop()
            late = self.storm.idle(self.guest.vm.ram.view)
        self.device.pause()
        self.device.raise_next(late, Moment.STOPPED)
        self.device.flush()
        if late:
            # QEMU's main loop goes round, and takes some of them in, or all.
            await self.stage_round()
        await self.device.settle(self.stage_round, self.stage.deadline)
        self.device.stop()
        queued = {one.id for one in self.device.queued}
        taken_in = [self._source(one) for one in (*late, *self.scenario.carriers) if one not in queued]
        self.planned |= {Held(source.vcpu, source.id, At.PENDING) for source in taken_in}
        ram = self.guest.vm.ram.view
        self.ticks_at_stop = max(beat.tsc for beat in beats_of(self.guest, self.guest.vm).vcpus)
        self.ledger.read(ram)
        self.order_at_stop = self.ledger.last_order(ram)
        self.counts_at_stop = self.ledger.counts(ram)
        sighting = await self.controllers.at_source(self.guest, self.sources, self.stage.deadline)
        self.sightings.append(sighting)
        if self.storm:
            rest = set(self.storm.ids) - set(self.storm.idle(ram)) - queued
            self.planned |= {held for held in sighting.held if held.id in rest}

    async def stage_round(self) -> None:
        """One command to the source and back."""
        await self.guest.vm.qmp.execute("query-status", deadline=self.stage.deadline)

    async def destination_loaded(self, seen: SeenState | None) -> None:
        """Wire and destination tell; the device goes on where it stopped."""
        self.moments["loaded"] = time.monotonic()
        if seen:
            for witness, state in (("wire", seen.sent), ("destination", seen.held)):
                held = self.controllers.on_wire(state.devices, self.sources)
                if self.controllers.in_memory:
                    vm = self.destination if witness == "destination" else self.guest.vm
                    held |= self.controllers.in_memory(state.devices, replace(self.guest, vm=vm), self.sources)
                self.sightings.append(Sighting(witness=witness, held=held, sees=self.controllers.sees))
            judge_translations(self.stage, self.controllers, seen, source=self.guest, destination=self.destination)
        # At once: a guest that never runs again tells nothing more.
        judge_stop(self.stage, self.story())
        await raise_late(self.stage, self.scenario, self.device, self.stage_round)
        self.device.go_on(self.destination)
        self.device.raise_next(err_on_load(self.stage, self.scenario, self.device), Moment.LOADED)
        self.guest = replace(self.guest, vm=self.destination)

    async def destination_runs(self) -> None:
        """The first things that happen to a guest that runs again."""
        self.moments["running"] = time.monotonic()
        self.device.resume()
        self.device.raise_next(
            (one for one in self.scenario.raised.get(Moment.RUNNING, ()) if one < DOORBELL_IDS), Moment.RUNNING
        )
        if self.storm:
            self.storm.start(self.destination.ram.view, Moment.RUNNING)

    def time_of(self, record: Received) -> float:
        """When *record* was written, by the host's clock, near enough to draw: the guest's stops with its machine."""
        since_stop_s = (record.ticks - self.ticks_at_stop) / self.ticks_per_s
        if record.order <= self.order_at_stop:
            return self.moments.get("stopped", 0.0) + min(0.0, since_stop_s)
        return self.moments.get("running", 0.0) + max(0.0, since_stop_s)

    async def close(self) -> None:
        """Whatever happened, raise nothing more."""
        if self.storm:
            await self.storm.stop()

    async def finish(self) -> InterruptStory:
        """Let everything go, wait for the rest, and tell the story."""
        deadline = self.stage.deadline
        for step in self.scenario.arrived:
            await self.probe.step(step.code, step.words, deadline=deadline)
        own = [one for one in self.scenario.raised.get(Moment.RUNNING, ()) if one >= DOORBELL_IDS]
        await self.raise_all(own, Moment.RUNNING)
        await self.probe.await_pending(self._still_coming(), deadline=deadline)
        await self.probe.mask(self.scenario.unmask, masked=False, deadline=deadline)
        await self.probe.release(deadline=deadline)
        if self.storm:
            await self.storm.until(self.order_at_stop + _STORM_MIN, deadline)
            await self.storm.stop()
        await self.receive(self._due())
        left = await self.probe.drain(deadline=deadline)
        self.ledger.read(self.guest.vm.ram.view)
        return self.story(left_pending=left)

    def _still_coming(self) -> list[int]:
        """What the device has raised at the destination, for vCPUs that cannot take it: QEMU takes it in by and by."""
        blocked = sum(hold.vcpu_mask for hold in self.scenario.holds if hold.kind is not Hold.SLEEP)
        late = {one.id for one in self.device.raised if one.moment in {Moment.LOADED, Moment.RUNNING}}
        late |= {one.id for one in self.device.queued}
        return sorted(one for one in late if blocked >> self._source(one).vcpu & 1)

    def story(self, *, left_pending: int = 0) -> InterruptStory:
        """Everything so far."""
        return InterruptStory(
            sources=self.sources,
            raised=tuple(sorted((*self.device.raised, *self.made), key=lambda one: one.at_s)),
            received=tuple(self.ledger.received),
            order_at_stop=self.order_at_stop,
            planned=self.planned,
            queued=tuple(self.device.queued),
            sightings=tuple(self.sightings),
            left_pending=left_pending,
            ticks_per_s=self.ticks_per_s,
            after_move=frozenset(source.id for source in self.sources if source.is_periodic),
            descending=self.controllers.descending,
            # What hardware delivers comes one by one when the vCPUs run.
            by_priority=self.controllers.by_priority and not self.scenario.forwarded,
            moments=dict(self.moments),
        )
