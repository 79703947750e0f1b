"""Play a scenario: prepare the guest, raise, move with every witness, let go, and judge what arrived."""

from __future__ import annotations

from collections.abc import Sequence

from harness.cases.faults import HostFault
from harness.cases.hop import move, start_destination
from harness.cases.interrupts.controllers import CONTROLLERS
from harness.cases.interrupts.device import MovingDevice
from harness.cases.interrupts.forwarding import ForwardingDevice, ForwardingFaults
from harness.cases.interrupts.judge import judge, judge_handlers
from harness.cases.interrupts.player import Player
from harness.cases.interrupts.scenario import Scenario
from harness.cases.interrupts.settings import InterruptSettings
from harness.cases.interrupts.storm import Storm
from harness.cases.stage import Guest, Stage
from harness.checks.forwarding import CHECK as FORWARDING
from harness.checks.forwarding import check_forwarding
from harness.guest.interrupts import InterruptProbe, LedgerReader
from harness.model.errors import UnsupportedError
from harness.model.interrupt_timeline import timeline_of_story
from harness.model.interrupts import Source
from harness.vm.vm import Vm


async def open_guest(stage: Stage, guest: Guest, destination: Vm, scenario: Scenario) -> Player:
    """Have the guest of *stage* count, and make the scenario's sources. UnsupportedError for what it has not."""
    if guest.vm.spec.arch not in CONTROLLERS:
        raise UnsupportedError(f"interrupts of {guest.vm.spec.arch} cannot be seen into yet")
    probe = InterruptProbe(guest.probe)
    opened = await probe.open(deadline=stage.deadline)
    if scenario.features & ~opened.features:
        raise UnsupportedError(f"the guest's processor has no {scenario.needs}", hint="choose another QEMU, or KVM")
    ledger, sources = LedgerReader(guest.layout, opened), await probe.add(scenario.sources, deadline=stage.deadline)
    device = await _device(stage, guest, probe, scenario, sources)
    return Player(
        stage=stage,
        guest=guest,
        destination=destination,
        scenario=scenario,
        probe=probe,
        ledger=ledger,
        device=device,
        storm=Storm(device=device, ledger=ledger, ids=scenario.storm) if scenario.storm else None,
        controllers=CONTROLLERS[guest.vm.spec.arch],
        sources=sources,
        planned=scenario.planned,
        ticks_per_s=opened.ticks_per_s,
    )


async def _device(
    stage: Stage, guest: Guest, probe: InterruptProbe, scenario: Scenario, sources: Sequence[Source]
) -> MovingDevice:
    if not scenario.forwarded:
        return MovingDevice(guest.vm)
    return ForwardingDevice(
        guest.vm,
        guest.layout,
        sources,
        forwarded=scenario.forwarded,
        carriers=scenario.carriers,
        tables=await probe.pending_tables(deadline=stage.deadline),
        faults=ForwardingFaults(
            flushes_early=stage.strikes(HostFault.TABLES_EARLY), reprograms=stage.strikes(HostFault.FORWARDING_LOST)
        ),
    )


async def play(stage: Stage, settings: InterruptSettings, scenario: Scenario) -> None:
    """A whole case."""
    if stage.shield:
        raise UnsupportedError("interrupt cases know no protected guest yet", hint="leave out --backend")
    guest, destination = await stage.boot_pair(start_destination(stage, settings, 0))
    player = await open_guest(stage, guest, destination, scenario)
    stage.step("raise")
    await player.prepare()
    try:
        await move(stage, guest, settings, destination=destination, is_last=False, bystander=player)
        stage.step("deliver")
        story = await player.finish()
    finally:
        await player.close()
    stage.notebook.interrupts.append(timeline_of_story(story, time_of=player.time_of))
    judge(stage, story, scenario.known)
    if isinstance(player.device, ForwardingDevice):
        stage.notebook.judge(FORWARDING, check_forwarding(player.device.done))
    judge_handlers(stage, source=guest.vm, destination=destination)
