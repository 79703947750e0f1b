"""How a machine is reset, and who does what around it.

A plain guest's QEMU resets the machine itself. Around a protected one QEMU pauses the VM instead (``-action
reboot=shutdown``), and what KVM and QEMU of the series would do is done in step with a real reset: PRE_SYSTEM_RESET,
the reset and its RESET event, POST_SYSTEM_RESET, and on it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from harness.cases.faults import HostFault
from harness.cases.stage import Guest, Stage
from harness.cases.vcpu_reset import after_reset, before_reset
from harness.cases.witness import run_state
from harness.checks import reset_vcpu
from harness.guest.protocol import Ready
from harness.model.deadline import Deadline
from harness.model.reboot_way import RebootWay
from harness.vm.vm import Vm


async def until_back(stage: Stage, guest: Guest, way: RebootWay, *, since: int, deadline: Deadline) -> Ready | None:
    """Play *way* after the guest was told, and wait until it is back. None when QEMU has ended it instead.

    *since* is QMP's cursor before the guest was told. Raises what the probe raises, DeadlineError, LostError.
    """
    if stage.shield and stage.shield.plays_resets:
        return await _paused_road(stage, guest, way, since=since, deadline=deadline)
    await _begin(guest.vm, way, since=since, deadline=deadline)
    if stage.strikes(HostFault.STAYS_PAUSED):
        await guest.vm.qmp.execute("stop", deadline=deadline)
    return await guest.vm.guarded(guest.probe.ready(deadline=deadline), deadline, what="the guest to boot again")


async def _begin(vm: Vm, way: RebootWay, *, since: int, deadline: Deadline) -> None:
    """The part of *way* that is not the guest's."""
    if way is RebootWay.PANIC:
        await vm.qmp.wait_event("GUEST_PANICKED", since=since, deadline=deadline)
    if way in {RebootWay.PANIC, RebootWay.HOST}:
        await vm.qmp.execute("system_reset", deadline=deadline)
    if way is RebootWay.PANIC:
        await vm.qmp.execute("cont", deadline=deadline)


async def _paused_road(stage: Stage, guest: Guest, way: RebootWay, *, since: int, deadline: Deadline) -> Ready | None:
    vm = guest.vm
    assert stage.shield
    back = asyncio.ensure_future(guest.probe.ready(deadline=deadline))
    try:
        if way is RebootWay.HOST:
            await vm.qmp.execute("stop", deadline=deadline)
        elif way is not RebootWay.KEXEC:
            await _until_paused(vm, back, since=since, deadline=deadline)
        while way is not RebootWay.KEXEC and not back.done():
            if not (stage.shield.is_resettable(vm) or stage.strikes(HostFault.RESETS_ANYWAY)):
                await _refuse(vm, way, deadline)
                return None
            since = await reset_paused(stage, vm, deadline=deadline)
            # Firmware that finds itself started warm resets the machine once more.
            await _until_paused(vm, back, since=since, deadline=deadline)
        return await vm.guarded(back, deadline, what="the guest to boot again")
    finally:
        back.cancel()
        await asyncio.gather(back, return_exceptions=True)


async def reset_paused(stage: Stage, vm: Vm, *, deadline: Deadline, resume: bool = True) -> int:
    """Reset the machine of a protected guest that stands still, with all that belongs around it.

    QMP's cursor behind the last word of what stopped the VM: QEMU sends SHUTDOWN before and after its STOP.
    """
    assert stage.shield
    await run_state(stage, vm)  # whoever answers has left the loop in which it stopped the VM
    old = await before_reset(stage, vm, deadline=deadline)
    await asyncio.to_thread(stage.shield.reset_begins, vm)
    since = vm.qmp.cursor
    await vm.qmp.execute("set-action", {"reboot": "reset"}, deadline=deadline)
    await vm.qmp.execute("system_reset", deadline=deadline)
    await vm.qmp.wait_event("RESET", since=since, deadline=deadline)
    await vm.qmp.execute("set-action", {"reboot": "shutdown"}, deadline=deadline)
    vcpus = await asyncio.to_thread(stage.shield.reset_done, vm)
    if vcpus:
        stage.notebook.judge(reset_vcpu.CHECK, reset_vcpu.check_reset_vcpus(vcpus))
    await after_reset(stage, vm, old, deadline=deadline)
    if resume and not stage.strikes(HostFault.STAYS_PAUSED):
        await vm.qmp.execute("cont", deadline=deadline)
    return since


async def _until_paused(vm: Vm, back: asyncio.Future[Any], *, since: int, deadline: Deadline) -> None:
    """Wait for the guest's reset, which pauses the VM, or for its READY, whichever comes."""
    paused = asyncio.ensure_future(vm.qmp.wait_event({"SHUTDOWN", "GUEST_PANICKED"}, since=since, deadline=deadline))
    try:
        await asyncio.wait({paused, back, vm.lost}, return_when=asyncio.FIRST_COMPLETED)
        if paused.done() and not back.done():
            paused.result()
    finally:
        paused.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await paused


async def _refuse(vm: Vm, way: RebootWay, deadline: Deadline) -> None:
    """QEMU ends a guest whose vCPUs it cannot reset: as it does with ``-action reboot=shutdown``."""
    if way in {RebootWay.HOST, RebootWay.PANIC}:
        since = vm.qmp.cursor
        await vm.qmp.execute("system_reset", deadline=deadline)
        await vm.qmp.wait_event("SHUTDOWN", since=since, deadline=deadline)
