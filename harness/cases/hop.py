"""One move of a guest with every witness: what all cases that migrate have in common.

The order matters. The source is stopped and the destination has loaded but not run: that is the moment when the host
compares their memories and devices. Only then the destination runs, and the guest is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.cases.capture import Capture, stream_path
from harness.cases.faults import HostFault
from harness.cases.heat import heat_of
from harness.cases.load import stop_work
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import CaseOverError, Guest, Stage, machine_of
from harness.checks.device_state import check_device_state
from harness.checks.ends import check_ends
from harness.checks.memory import HOST, check_host_memory
from harness.checks.precondition import check_fault_applied, check_redirtied
from harness.checks.pulse import ONE_RUNS, SAME_BOOT, check_clocks, check_pulse
from harness.guest.heartbeat import read_heartbeat
from harness.migration.compare import compare_block, compare_ram
from harness.migration.driver import Moved, listen, migrate, prepare, traffic_of
from harness.migration.relay import Endpoint, Relay
from harness.migration.relay.faults import CATALOGUE
from harness.migration.resave import save_devices
from harness.migration.settings import Transport
from harness.migration.story import SideEvent, timeline_of
from harness.migration.stream.snapshot import Snapshot
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, ProtocolError, TooSlowError, UnsupportedError
from harness.model.evidence import ClockSpan, Pulse
from harness.model.guest import Heartbeat
from harness.model.memory import PAGE_SIZE
from harness.model.timeline import Sample
from harness.model.wire import WireAccount, WireFault, WireFaultName
from harness.report.events import SAMPLE
from harness.report.store import write_whole
from harness.vm.commandline import RAM_ID
from harness.vm.vm import Vm

_RESERVE_S = 5.0
"""Kept of the case's deadline, so that a migration that hangs can still be cancelled and told."""

_BEAT_S = 5.0
"""How long a vCPU may take to its first heartbeat; 100 a second is its rate."""

_BEAT_POLL_S = 0.002

_WIRE_S = 5.0
"""How long the wire may take to close after a completed migration."""

_TARGETS = 256
"""Candidates that a wire fault on pages chooses from."""


def sent_devices_path(stream: Path) -> Path:
    """Where the device sections lie as the source sent them, beside a captured *stream* that a fault may have touched.

    Only a replay wants them, so a disk that is full costs the replay one comparison and the case nothing.
    """
    return stream.with_name(f"{stream.stem}.devices.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wire:
    """How the stream of one hop reaches its destination."""

    uri: str
    """Where the source migrates to."""
    relay: Relay | None


async def start_destination(stage: Stage, number: int) -> Vm:
    """Start the VM that hop *number* (from 0) goes to: the two binaries take turns."""
    features = stage.binaries.source if number % 2 else stage.binaries.destination
    role = "dst" if number == 0 else f"dst{number + 1}"
    spec = replace(
        machine_of(stage.request, stage.binaries.accel), reboots=HostFault.RESET_DESTINATION in stage.faults.host
    )
    if stage.strikes(HostFault.OTHER_MACHINE):
        spec = replace(spec, machine=_another_machine(spec.machine, features.machines))
    return await stage.start(role, incoming=True, features=features, spec=spec)


async def move(
    stage: Stage,
    guest: Guest,
    settings: MigrationCaseSettings,
    *,
    number: int = 0,
    destination: Vm | None = None,
    is_last: bool = True,
) -> Guest:
    """Move *guest* live and judge the move; returns the guest in its new VM, running.

    With *is_last* the workload is told to stop before the destination runs, so that it hardly writes over what the
    guest is to verify; else it works on.

    Raises CaseOverError when the ends show that nothing arrived, and what the driver and the probe raise.
    """
    destination = destination or await start_destination(stage, number)
    source, notebook = guest.vm, stage.notebook
    plan = settings.migration()
    await asyncio.gather(*(prepare(vm, plan, deadline=stage.deadline) for vm in (source, destination)))
    async with _wire(stage, guest, destination, settings, number) as wire:
        stage.step("migrate")
        bracket_s = time.monotonic()
        before = await guest.probe.heartbeat(deadline=stage.deadline, reset_gaps=True)
        moved = await migrate(
            source,
            destination,
            wire.uri,
            plan,
            deadline=Deadline(stage.deadline.at_s - _RESERVE_S),
            on_sample=lambda sample: _show(stage, sample, source.ram.size_bytes),
            midway=_sabotage(stage, source, destination),
        )
        notebook.has_moved = True
        await _note_move(stage, wire, moved, source, destination, number)
        at_stop = beats_of(guest, source)
        _judge_load(stage, settings, moved, written=at_stop.pages_written - before.pages_written)
        await _judge_state(stage, guest, destination, wire, number)
    guest.probe.attach(*destination.channel)
    arrived = replace(guest, vm=destination)
    stopping = asyncio.create_task(stop_work(stage, arrived)) if is_last else None
    try:
        await _let_run(stage, guest, destination)
        if stopping:
            await stopping
    finally:
        if stopping:
            stopping.cancel()
    await _judge_clocks(stage, guest, before, bracket_s)
    return arrived


@asynccontextmanager
async def _wire(
    stage: Stage, guest: Guest, destination: Vm, settings: MigrationCaseSettings, number: int
) -> AsyncIterator[_Wire]:
    """Make the destination listen, with the relay before it when the case wants one."""
    unix = settings.transport is Transport.UNIX
    uri = await listen(
        destination,
        f"unix:{stage.runtime / f'in{number}'}" if unix else "tcp:127.0.0.1:0",
        deadline=stage.deadline,
    )
    if not (settings.relay or stage.faults.wire):
        yield _Wire(uri=uri, relay=None)
        return
    async with Relay(
        Endpoint.unix(stage.runtime / f"relay{number}") if unix else Endpoint.tcp(),
        Endpoint.parse(uri),
        faults=_aimed(stage, guest),
        record=stream_path(stage.folder, number) if stage.faults.wire or settings.record else None,
        seed=stage.seed,
    ) as relay:
        yield _Wire(uri=relay.listen.uri, relay=relay)


def _aimed(stage: Stage, guest: Guest) -> tuple[WireFault, ...]:
    """The wire faults, those on pages aimed at pages that carry the pattern: what happened to them can be told."""
    rng = stage.seed.rng("wire-targets")
    pages = rng.sample(range(guest.description.managed_pages), k=min(_TARGETS, guest.description.managed_pages))
    targets = tuple(guest.layout.gpa_to_ram(guest.description.page_gpa(page)) for page in sorted(pages))
    return tuple(replace(fault, targets=targets) if _wants_targets(fault) else fault for fault in stage.faults.wire)


def _wants_targets(fault: WireFault) -> bool:
    """Only main memory carries the pattern; in another block the relay chooses."""
    return CATALOGUE[fault.name].is_page_fault and not fault.targets and not fault.block


async def _note_move(stage: Stage, wire: _Wire, moved: Moved, source: Vm, destination: Vm, number: int) -> None:
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
        account = await _account(stage, wire.relay, moved)
        end = replace(end, shut_code=account.shut_code)
    if moved.too_slow:
        raise TooSlowError(
            moved.too_slow, hint="see the dirty rate in the timeline; raise deadline_s or bandwidth_mib_s"
        )
    if notebook.judge("migration/ends", check_ends(end)):
        raise CaseOverError


async def _account(stage: Stage, relay: Relay, moved: Moved) -> WireAccount:
    """What the wire saw. Faults that never struck are an error, whatever else came out."""
    with contextlib.suppress(DeadlineError):
        await relay.wait(Deadline.after(_WIRE_S if moved.completed else 0.0))
    if not moved.completed:
        await relay.aclose()
    account = relay.account()
    if account.record_path and (tail := relay.sent_tail()):
        with contextlib.suppress(OSError):
            write_whole(sent_devices_path(Path(account.record_path)), tail)
    for note in account.notes:
        if note.startswith("recording"):
            stage.losses.note(Path(account.record_path or "stream").name, OSError(note))
    stage.events.emit("wire", "account", end=account.end, passes=account.passes, notes=account.notes)
    for fault in stage.faults.wire:
        struck = [applied for applied in account.faults if applied.name is fault.name]
        times = sum(applied.times for applied in struck if applied.is_harmful or fault.name is WireFaultName.SLOW)
        stage.notebook.judge("precondition", check_fault_applied(fault.name, times))
    return account


def _judge_load(stage: Stage, settings: MigrationCaseSettings, moved: Moved, *, written: int) -> None:
    """Whether the migration was live: pages were sent, written again, and sent again."""
    traffic = traffic_of(moved, pages_written=written)
    stage.events.emit("src", "traffic", sent=traffic.pages_sent, resent=traffic.pages_resent, written=written)
    stage.notebook.judge("precondition", check_redirtied(traffic, passes=settings.passes))


async def _judge_state(stage: Stage, guest: Guest, destination: Vm, wire: _Wire, number: int) -> None:
    """Memory and devices while both sides stand still."""
    stage.step("compare")
    notebook = stage.notebook
    with notebook.timed("host_compare_s"):
        main = await asyncio.to_thread(
            compare_ram, guest.vm.ram, destination.ram, guest.description, seed=stage.seed.sub("pattern")
        )
        notebook.judge(HOST, check_host_memory([main]))
    notebook.heat = heat_of(
        guest,
        sent=wire.relay.page_counts(RAM_ID) if wire.relay else None,
        damaged=[gpa for span in main.ranges for gpa in range(span.start, span.end, PAGE_SIZE)],
    )
    if wire.relay is None:
        return
    await judge_devices(stage, destination, wire.relay.snapshot)
    capture = Capture(path=stream_path(stage.folder, number), relay=wire.relay, ram=guest.vm.ram)
    if notebook.has_failed:
        await replace(capture, ram=destination.ram).write()
    stage.capture = capture


async def judge_devices(stage: Stage, vm: Vm, sent_snapshot: Callable[[], Snapshot]) -> None:
    """Compare what was sent beside main memory with what *vm*, loaded and stopped, saves again of it.

    *sent_snapshot* is called in a thread.
    """
    notebook = stage.notebook
    with notebook.timed("device_compare_s"):
        again = await save_devices(vm, stage.runtime, deadline=stage.deadline)
        sent, held = await asyncio.to_thread(lambda: (sent_snapshot(), Snapshot.of(again)))
        blocks = [compare_block(name, data, held.blocks.get(name, b"")) for name, data in sent.blocks.items()]
        notebook.judge(HOST, check_host_memory(blocks))
        notebook.judge("state/devices", check_device_state(sent.devices, held.devices))


async def _let_run(stage: Stage, guest: Guest, destination: Vm) -> None:
    """Let the destination go, and see that it, and only it, lives."""
    stage.step("resume")
    source_before, destination_before = beats_of(guest, guest.vm), beats_of(guest, destination)
    if stage.strikes(HostFault.RESET_DESTINATION):
        await destination.qmp.execute("system_reset", deadline=stage.deadline)
    if not stage.strikes(HostFault.KEEP_DESTINATION_PAUSED):
        await destination.qmp.execute("cont", deadline=stage.deadline)
    if stage.strikes(HostFault.RUN_SOURCE):
        await guest.vm.qmp.execute("cont", deadline=stage.deadline)
    destination_after = await beats_on(stage, guest, destination, destination_before)
    pulse = Pulse(
        source_before=source_before,
        source_after=beats_of(guest, guest.vm),
        destination_before=destination_before,
        destination_after=destination_after,
        source_run_state=await run_state(stage, guest.vm),
        destination_run_state=await run_state(stage, destination),
    )
    stopped = guest.vm.qmp.latest("STOP")
    if stopped:
        outage_ms = (time.monotonic() - stopped.at_s) * 1e3
        stage.notebook.timings["outage_ms"] = max(stage.notebook.timings.get("outage_ms", 0.0), outage_ms)
    judge_pulse(stage, pulse)


def judge_pulse(stage: Stage, pulse: Pulse) -> None:
    """Judge who lives. CaseOverError when it is not the destination, and it alone."""
    found = check_pulse(pulse)
    for check in (ONE_RUNS, SAME_BOOT):
        stage.notebook.judge(check, [finding for finding in found if finding.check == check])
    if found:
        raise CaseOverError


async def beats_on(stage: Stage, guest: Guest, vm: Vm, before: Heartbeat) -> Heartbeat:
    """The heartbeat page once every vCPU has beaten, or as it is when that takes too long.

    A guest that boots anew has no heartbeat page for a while, lists its vCPUs one by one, and counts from 0 again.
    """
    deadline = stage.deadline.within(_BEAT_S)
    now = before
    while True:
        with contextlib.suppress(ProtocolError):
            now = beats_of(guest, vm)
        beats = {beat.vcpu: beat.beats for beat in now.vcpus}
        last = {beat.vcpu: beat.beats if now.boot_id == before.boot_id else 0 for beat in before.vcpus}
        have_beaten = all(beats.get(vcpu, 0) > count for vcpu, count in last.items())
        if have_beaten or deadline.has_passed or not vm.is_alive:
            return now
        await asyncio.sleep(_BEAT_POLL_S)


def beats_of(guest: Guest, vm: Vm) -> Heartbeat:
    """The heartbeat page of *guest* in the memory of *vm*, which need not run."""
    return read_heartbeat(vm.ram.view, guest.layout, guest.description.heartbeat_gpa)


async def _judge_clocks(stage: Stage, guest: Guest, before: Heartbeat, bracket_s: float) -> None:
    """No vCPU's clock ran backwards or jumped; *bracket_s* is when the first reading was asked for."""
    after = await guest.probe.heartbeat(deadline=stage.deadline)
    host_s = time.monotonic() - bracket_s
    late = {beat.vcpu: beat for beat in after.vcpus}
    spans = [
        ClockSpan(
            vcpu=beat.vcpu,
            tsc_before=beat.tsc,
            tsc_after=late[beat.vcpu].tsc,
            tsc_hz=guest.tsc_hz,
            host_s=host_s,
            backward_tsc=late[beat.vcpu].backward_tsc,
        )
        for beat in before.vcpus
    ]
    gap_tsc = max(beat.gap_tsc for beat in after.vcpus)
    timings = stage.notebook.timings
    timings["guest_downtime_ms"] = max(timings.get("guest_downtime_ms", 0.0), gap_tsc / guest.tsc_hz * 1e3)
    stage.notebook.judge("cpu/clock", check_clocks(spans))


async def run_state(stage: Stage, vm: Vm) -> str:
    """``query-status`` of *vm*."""
    return str((await vm.qmp.execute("query-status", deadline=stage.deadline))["status"])


def _show(stage: Stage, sample: Sample, total_bytes: int) -> None:
    stage.events.emit("src", SAMPLE, total_bytes=total_bytes, **asdict(sample))


def _sabotage(stage: Stage, source: Vm, destination: Vm) -> Callable[[], Awaitable[None]] | None:
    victims = [
        vm
        for fault, vm in ((HostFault.KILL_SOURCE, source), (HostFault.KILL_DESTINATION, destination))
        if stage.strikes(fault)
    ]
    if not victims:
        return None

    async def kill() -> None:
        for vm in victims:
            await vm.kill()

    return kill


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
