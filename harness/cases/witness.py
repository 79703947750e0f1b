"""The witnesses of a move: both memories and the devices while all stands still, then who lives, and the clocks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from harness.cases.capture import Capture, stream_path
from harness.cases.faults import HostFault
from harness.cases.heat import heat_of
from harness.cases.map_witness import cvm_page_of, in_flight_pages
from harness.cases.stage import CaseOverError, ClockAnchor, Guest, Stage, read_beats
from harness.cases.wire import Wire
from harness.checks.device_state import VOLATILE, check_device_state
from harness.checks.memory import HOST, check_host_memory
from harness.checks.pulse import ONE_RUNS, SAME_BOOT, check_clocks, check_pulse
from harness.checks.volatile import VolatileField
from harness.guest.confidential import SHARED_SEED
from harness.guest.diagnosis import diagnose_page
from harness.guest.heartbeat import read_heartbeat
from harness.migration.capabilities import set_capabilities
from harness.migration.compare import compare_block, compare_ram, generations_of
from harness.migration.resave import save_devices
from harness.migration.stream.ledger import Counts
from harness.migration.stream.snapshot import Snapshot
from harness.model.cvm_guest import ConversionStep
from harness.model.errors import ProtocolError
from harness.model.evidence import ClockSpan, Pulse
from harness.model.guest import Heartbeat
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE
from harness.model.page_set import PageSet
from harness.vm.vm import Vm

_BEAT_S = 5.0
"""How long a vCPU may take to its first heartbeat; 100 a second is its rate."""

_BEAT_POLL_S = 0.002

_DEVICE_REGISTERS = "/ivshmem.bar2"
"""Registers of the device that the harness plays. It writes them anew where it goes on; and QEMU 7.2 leaves them out of
a re-save, as memory that is shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenState:
    """Devices and small RAM blocks of one hop, from two witnesses."""

    sent: Snapshot
    """As the source sent them, before any fault of the wire."""
    held: Snapshot
    """As the destination, loaded and not run, saves them again."""


async def judge_state(
    stage: Stage,
    guest: Guest,
    destination: Vm,
    wire: Wire,
    *,
    number: int,
    is_last: bool,
    volatile: Sequence[VolatileField] = VOLATILE,
) -> SeenState | None:
    """Memory and devices while both sides stand still; *volatile* fields of devices may differ.

    None without a relay: nobody saw the devices pass.
    """
    stage.step("compare")
    if wire.relay is None:
        await _judge_memory(stage, guest, destination, sent=None, wants_heat=is_last)
        return None
    # What a VM saves again leaves its main memory out, so neither disturbs the other.
    looking = asyncio.create_task(_see_devices(stage, destination, wire.relay.snapshot))
    try:
        sent = partial(wire.relay.page_counts, guest.vm.spec.ram_id)
        await _judge_memory(stage, guest, destination, sent=sent, wants_heat=is_last)
        seen = await looking
    finally:
        looking.cancel()
    _compare_devices(stage, seen, volatile)
    capture = Capture(path=stream_path(stage.folder, number), relay=wire.relay, vm=guest.vm)
    if stage.notebook.has_failed:
        await replace(capture, vm=destination).write()
    stage.capture = capture
    return seen


async def _judge_memory(
    stage: Stage, guest: Guest, destination: Vm, *, sent: Callable[[], Counts] | None, wants_heat: bool
) -> None:
    """Compare all memory; *sent* tells how often each page was sent."""
    notebook = stage.notebook
    seed_of = seed_of_pages(stage, guest)
    with notebook.timed("host_compare_s"):
        main = await asyncio.to_thread(
            compare_ram,
            guest.vm.ram,
            destination.ram,
            guest.description,
            guest.layout,
            seed_of=seed_of,
            leave_out=converting(stage, guest, seed_of),
        )
        notebook.judge(HOST, check_host_memory([main]))
    if wants_heat or main.pages_bad:
        notebook.heat = heat_of(
            guest,
            sent=sent() if sent else None,
            damaged=[gpa for span in main.ranges for gpa in range(span.start, span.end, PAGE_SIZE)],
        )


def seed_of_pages(stage: Stage, guest: Guest) -> Callable[[int], int]:
    """The seed of the pattern in each RAM page of a stopped guest: pages that it shares have one of their own."""
    seed = stage.pattern_seed
    tables = stage.shield.of(guest.vm).protection.truth_map() if stage.shield else None
    if tables is None:
        return lambda _: seed
    shared = tables.page_map.shared
    return lambda page: seed ^ SHARED_SEED if page in shared else seed


def converting(stage: Stage, guest: Guest, seed_of: Callable[[int], int]) -> PageSet | None:
    """RAM pages without content that means anything, because a stopped guest was converting them.

    Of a range that is being written anew these are the pages that still wait. None where nothing can be converted.
    """
    if stage.shield is None:
        return None
    said, addresses = cvm_page_of(guest, guest.vm), stage.shield.of(guest.vm).addresses
    amid = in_flight_pages(said, addresses)
    begun = [item.range for item in said.in_flight if item.step is ConversionStep.REWRITING]
    if not begun:
        return amid
    generations = generations_of(guest.vm.ram, guest.layout, guest.description)
    waiting = []
    for span in begun:
        for gpa in range(span.start, span.end, PAGE_SIZE):
            ram_addr = guest.layout.gpa_to_ram(gpa)
            page = guest.vm.ram.buffer[ram_addr : ram_addr + PAGE_SIZE].tobytes()
            number = ram_addr >> PAGE_SHIFT
            # Unlocked pages have their new generation in the ledger, the others get it when all are done.
            if all(diagnose_page(page, gpa, seed_of(number), generations[gpa] + more) for more in (0, 1)):
                waiting.append((number, number + 1))
    return amid | PageSet.from_ranges(waiting)


async def judge_devices(stage: Stage, vm: Vm, sent_snapshot: Callable[[], Snapshot]) -> None:
    """Compare what was sent beside main memory with what *vm*, loaded and stopped, saves again of it.

    *sent_snapshot* is called in a thread, while *vm* saves.
    """
    _compare_devices(stage, await _see_devices(stage, vm, sent_snapshot), VOLATILE)


async def _see_devices(stage: Stage, vm: Vm, sent_snapshot: Callable[[], Snapshot]) -> SeenState:
    with stage.notebook.timed("device_compare_s"):
        sent, held = await asyncio.gather(asyncio.to_thread(sent_snapshot), _held_by(stage, vm))
    return SeenState(sent=sent, held=held)


def _compare_devices(stage: Stage, seen: SeenState, volatile: Sequence[VolatileField]) -> None:
    blocks = [
        compare_block(name, data, seen.held.blocks.get(name, b""))
        for name, data in seen.sent.blocks.items()
        if not name.endswith(_DEVICE_REGISTERS)
    ]
    stage.notebook.judge(HOST, check_host_memory(blocks))
    check = check_device_state(seen.sent.devices, seen.held.devices, volatile=volatile)
    stage.notebook.judge("state/devices", check)


async def _held_by(stage: Stage, vm: Vm) -> Snapshot:
    had = {name: True for name, state in vm.capabilities.items() if state}
    again = await save_devices(vm, stage.runtime, deadline=stage.deadline)
    # The next migration finds them as it wants them, and need not wait for QEMU to switch them.
    held, _ = await asyncio.gather(asyncio.to_thread(Snapshot.of, again), set_capabilities(vm, had, stage.deadline))
    return held


async def let_run(stage: Stage, guest: Guest, destination: Vm, *, on_run: Callable[[], Awaitable[None]]) -> None:
    """Let the destination go, and see that it, and only it, lives. *on_run* is awaited as soon as it may run."""
    stage.step("resume")
    source_before, destination_before = beats_of(guest, guest.vm), beats_of(guest, destination)
    if stage.strikes(HostFault.RESET_DESTINATION):
        await destination.qmp.execute("system_reset", deadline=stage.deadline)
    if stage.shield:
        stage.shield.of(destination).protection.run()
    if not stage.strikes(HostFault.KEEP_DESTINATION_PAUSED):
        await destination.qmp.execute("cont", deadline=stage.deadline)
    if stage.strikes(HostFault.RUN_SOURCE):
        await guest.vm.qmp.execute("cont", deadline=stage.deadline)
    await on_run()
    destination_after = await beats_on(stage, guest, destination, destination_before)
    source_after = beats_of(guest, guest.vm)
    states = await asyncio.gather(run_state(stage, guest.vm), run_state(stage, destination))
    pulse = Pulse(
        source_before=source_before,
        source_after=source_after,
        destination_before=destination_before,
        destination_after=destination_after,
        source_run_state=states[0],
        destination_run_state=states[1],
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
    """The heartbeat page of *guest* in the memory of *vm*, which need not run; of the vCPUs that its kernel runs on."""
    beats = read_heartbeat(vm.ram.view, guest.layout, guest.description.heartbeat_gpa)
    if not guest.cvm_gpa:
        return beats
    online = cvm_page_of(guest, vm).online_mask
    return replace(beats, vcpus=tuple(beat for beat in beats.vcpus if online >> beat.vcpu & 1))


async def judge_clocks(
    stage: Stage, guest: Guest, before: Heartbeat, at_stop: Heartbeat, since_s: float
) -> ClockAnchor:
    """No vCPU's clock ran backwards, nor forward by more than the host saw pass since *since_s*; returns the clock now.

    *before* was read after that moment, *at_stop* when the source had stopped. Only a beat between the two is known to
    lie inside the time that the host measured; a vCPU that had none (a busy host) is judged for backward steps only.
    """
    clock, after = await read_beats(guest.probe, stage.deadline)
    host_s = clock.answered_s - since_s
    early = {beat.vcpu: beat.beats for beat in before.vcpus}
    late = {beat.vcpu: beat for beat in after.vcpus}
    spans = [
        ClockSpan(
            vcpu=beat.vcpu,
            tsc_before=beat.tsc,
            tsc_after=late[beat.vcpu].tsc,
            tsc_hz=guest.tsc_hz,
            host_s=host_s if beat.beats > early[beat.vcpu] else inf,
            backward_tsc=late[beat.vcpu].backward_tsc,
        )
        for beat in at_stop.vcpus
    ]
    unjudged = [span.vcpu for span in spans if inf in (span.host_s, span.tsc_hz)]
    if unjudged:
        stage.notebook.notes.append(f"vCPU {', '.join(map(str, unjudged))}: clock judged for backward steps only")
    gap_tsc = max(beat.gap_tsc for beat in after.vcpus)
    timings = stage.notebook.timings
    timings["guest_downtime_ms"] = max(timings.get("guest_downtime_ms", 0.0), gap_tsc / guest.tsc_hz * 1e3)
    stage.notebook.judge("cpu/clock", check_clocks(spans))
    return clock


async def run_state(stage: Stage, vm: Vm) -> str:
    """``query-status`` of *vm*."""
    return str((await vm.qmp.execute("query-status", deadline=stage.deadline))["status"])
