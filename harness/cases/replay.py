"""Loads a captured stream into a fresh QEMU, without its source, and judges what can be judged then.

What the machine was like comes from the stream itself: the configuration section names its type, the RAM block list the
size of its memory, the device sections its vCPUs. What the guest held comes from its own memory, when it is the probe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shutil import copyfile

from pydantic import Field

from harness.cases.capture import stream_path
from harness.cases.captured import Capture, sent_snapshot
from harness.cases.case import case
from harness.cases.load import stop_work, verify
from harness.cases.settings import Settings
from harness.cases.stage import CaseOverError, Guest, Stage
from harness.cases.wire import sent_devices_path
from harness.cases.witness import beats_of, beats_on, judge_devices, judge_pulse, run_state
from harness.checks.cpu import CHECK as REGISTERS
from harness.checks.cpu import check_canaries
from harness.checks.ends import check_ends
from harness.checks.memory import HOST, check_pattern
from harness.guest.pattern import damage_of_memory, read_ledger
from harness.guest.probe import Probe
from harness.guest.resident import Resident, find_probe
from harness.migration.replay import load_file
from harness.model.deadline import Deadline
from harness.model.errors import PreconditionError, TooSlowError, UnsupportedError
from harness.model.evidence import Pulse
from harness.model.guest import PatternCheck, RamLayout
from harness.model.machine import MAX_VCPUS, MachineSpec
from harness.model.memory import Damage
from harness.model.verdict import Finding
from harness.report.store import Keep
from harness.vm.vm import Vm

CASE_ID = "stream/replay"

_RESERVE_S = 5.0
"""Kept of the case's deadline, so that a destination that hangs can still be told from a slow one."""

_ANSWER_S = 30.0

_NOT_OURS = ("Unknown savevm section", "Unknown section", "Unknown ramblock")
"""QEMU's words for a machine that has not what the stream has (load_snapshot's sections, ram_block_from_stream)."""


class ReplaySettings(Settings):
    """A captured stream and the machine that it came from."""

    file: Path
    """The captured stream."""
    memory_mib: int = Field(default=128, ge=1, le=1 << 20)
    vcpus: int = Field(default=1, ge=1, le=MAX_VCPUS)
    pattern_seed: int | None = Field(default=None, ge=0, lt=1 << 64)
    """Seed of the pattern in the guest's memory; None takes what its heartbeat page says."""
    devices: tuple[str, ...] = ()
    """``-device`` options of the machine, in the order in which they were given."""
    is_probe: bool = False
    """The stream is known to carry the probe: not to find it is a defect then, not another guest."""
    capabilities: Mapping[str, bool] = Field(default_factory=dict)
    """Further migration capabilities of the destination; those that the stream names are set anyway."""

    def machine_for(self, spec: MachineSpec) -> MachineSpec:
        """With the devices of this stream's machine."""
        return replace(spec, devices=(*spec.devices, *self.devices))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What the host sees in the memory of the loaded, stopped guest."""

    resident: Resident
    pattern: PatternCheck | None
    """None when its memory was never filled."""


@case(
    CASE_ID,
    summary="a captured stream is loaded again, without its source; see 'cvmig stream replay'",
    settings=ReplaySettings,
    listed=False,
)
async def replay(stage: Stage, settings: ReplaySettings) -> None:
    """Load, compare while it stands still, let it run, let the guest verify."""
    stage.notebook.versions["qemu_src"] = "(a captured stream)"
    capture, destination = await asyncio.gather(
        asyncio.to_thread(Capture.read, settings.file),
        stage.start("dst", incoming=True, features=stage.binaries.destination),
    )
    _keep(stage, settings)
    await _load(stage, settings, capture, destination)
    stage.step("compare")
    if not capture.has_memory:
        stage.notebook.notes.append("main memory is not in the stream, so neither memory nor the guest was judged")
        await _judge_devices(stage, capture, destination)
        return
    look = await _look(stage, settings, destination)
    await _judge_devices(stage, capture, destination)
    if look is None:
        stage.notebook.notes.append("no probe was found, so the guest's memory was not judged and it was not run")
        return
    await _run_on(stage, destination, look)


def _keep(stage: Stage, settings: ReplaySettings) -> None:
    """With ``--keep`` the run's folder can be moved elsewhere and still has its stream."""
    if stage.request.keep is not Keep.ALWAYS:
        return
    copy = stream_path(stage.folder, 0)
    for kept, to in ((settings.file, copy), (sent_devices_path(settings.file), sent_devices_path(copy))):
        if kept.exists():
            copyfile(kept, to)


async def _load(stage: Stage, settings: ReplaySettings, capture: Capture, destination: Vm) -> None:
    stage.step("load")
    with stage.notebook.timed("load_s"):
        loaded = await load_file(
            destination,
            settings.file,
            stage.runtime / "replay",
            capabilities={**capture.capabilities, **settings.capabilities},
            deadline=Deadline(stage.deadline.at_s - _RESERVE_S),
        )
    stage.events.emit("dst", "loaded", fed_bytes=loaded.fed_bytes, status=loaded.end.destination.status)
    if loaded.too_slow:
        raise TooSlowError(loaded.too_slow, hint="raise the deadline with --set deadline_s=...")
    findings = check_ends(loaded.end)
    if findings and capture.summary.is_complete and any(words in loaded.end.destination.error for words in _NOT_OURS):
        raise UnsupportedError(
            f"the stream is of another machine than the harness builds: {loaded.end.destination.error}",
            hint="only streams of machines with the harness's own devices can be replayed",
        )
    stage.notebook.has_moved = True
    if stage.notebook.judge("migration/ends", findings):
        raise CaseOverError


async def _judge_devices(stage: Stage, capture: Capture, destination: Vm) -> None:
    if not capture.summary.devices:
        stage.notebook.notes.append("the stream does not describe its devices, so they were not compared")
        return
    await judge_devices(stage, destination, partial(sent_snapshot, capture.path))


async def _look(stage: Stage, settings: ReplaySettings, destination: Vm) -> _Look | None:
    """Find the probe in the loaded memory and hold every page against the pattern."""
    if not _has_known_layout(destination):
        stage.notebook.notes.append(f"where {destination.spec.machine} has this much memory is not known")
        return None
    with stage.notebook.timed("host_compare_s"):
        look = await asyncio.to_thread(_look_at, destination, settings.pattern_seed)
    if look is None:
        if settings.is_probe:
            stage.notebook.judge(HOST, [_NO_PROBE])
    elif look.pattern is None:
        stage.notebook.notes.append("the guest's memory had not been filled, so it was not judged")
    elif _may_be_misread(look.pattern):
        stage.notebook.notes.append("most pages are not in the generation that the host reads in the ledger")
    else:
        stage.notebook.judge(HOST, check_pattern(look.pattern))
    return look


def _has_known_layout(destination: Vm) -> bool:
    """Whether RamLayout tells where memory lies: a PC without memory above 4 GiB has none of it elsewhere."""
    memory = RamLayout.of(destination.spec.arch, destination.ram.size_bytes)
    return destination.spec.machine.startswith("pc-q35-") or memory.below_4g_bytes == memory.total_bytes


def _look_at(destination: Vm, seed: int | None) -> _Look | None:
    """Takes seconds for gigabytes: call it in a thread.

    Raises PreconditionError when the memory was filled with another *seed*.
    """
    layout = RamLayout.of(destination.spec.arch, destination.ram.size_bytes)
    view = destination.ram.view
    resident = find_probe(view, destination.ram.data_extents(), layout)
    if resident is None:
        return None
    ledger = read_ledger(view, layout, resident.description)
    told = resident.heartbeat.seed
    if not told and not ledger.any():
        return _Look(resident=resident, pattern=None)
    if seed not in {None, told}:
        raise PreconditionError(
            f"the guest's memory was filled with pattern seed {told:#x}, expected was {seed:#x}",
            hint="give the seed of the run that the stream is from with --seed, or move the file out of its folder",
        )
    pattern = damage_of_memory(view, layout, resident.description.managed, ledger, told)
    return _Look(resident=resident, pattern=pattern)


def _may_be_misread(pattern: PatternCheck) -> bool:
    """Whether the host may hold pages against the wrong entries of the ledger, as with another version of the probe.

    Pages tell their own gpa, so that looks like wrong generations everywhere, and like nothing else. The guest, which
    knows its own ledger, judges then.
    """
    aged = sum(pattern.by_kind.get(kind, 0) for kind in (Damage.STALE, Damage.NEWER))
    return aged * 2 > pattern.pages_checked


async def _run_on(stage: Stage, destination: Vm, look: _Look) -> None:
    """Let the guest go and ask it."""
    stage.step("resume")
    guest = Guest(vm=destination, probe=Probe(*destination.channel), description=look.resident.description)
    # Told to stop before it runs, it hardly writes over what it is to verify.
    stopping = asyncio.create_task(stop_work(stage, guest))
    try:
        await _judge_pulse(stage, guest)
        await stopping
    finally:
        stopping.cancel()
    deadline = stage.deadline.within(_ANSWER_S)
    canaries = await destination.guarded(
        guest.probe.canary_check(deadline=deadline), deadline, what="the registers to be compared", guest_too=True
    )
    if any(canaries.checks):
        stage.notebook.judge(REGISTERS, check_canaries(canaries))
    if look.pattern is not None:
        await verify(stage, guest)
    await guest.probe.close()


async def _judge_pulse(stage: Stage, guest: Guest) -> None:
    before = beats_of(guest, guest.vm)
    await guest.vm.qmp.execute("cont", deadline=stage.deadline)
    after = await beats_on(stage, guest, guest.vm, before)
    pulse = Pulse(
        source_before=before,
        source_after=before,
        destination_before=before,
        destination_after=after,
        source_run_state="(a file)",
        destination_run_state=await run_state(stage, guest.vm),
    )
    judge_pulse(stage, pulse)


_NO_PROBE = Finding(
    check=HOST,
    kind="no-probe",
    where="main memory",
    detail="the probe's heartbeat page is nowhere in the loaded memory, yet the stream is one of its runs",
    remedy="see with 'cvmig stream inspect' whether the stream carries main memory",
)
