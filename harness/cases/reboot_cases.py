"""Cases about reboots: alone, and around a migration."""

from __future__ import annotations

from typing import Any

from harness.cases.attempt import cancelled_attempt
from harness.cases.case import case
from harness.cases.hop import move, start_destination
from harness.cases.judge_reboot import Manner, judge_last
from harness.cases.load import verify
from harness.cases.reboot import Rebooter, drawn_manners
from harness.cases.reboot_settings import RebootSettings
from harness.cases.reset_in_migration import reset_in_migration
from harness.cases.reset_phase import ResetInMigrationSettings
from harness.cases.stage import Guest, Stage
from harness.guest.protocol import ALL_VCPUS
from harness.model.guest import Workload

_GUEST: dict[str, Any] = {"memory_mib": 64, "vcpus": 2, "workload": Workload.RANDOM}
_LONG: dict[str, Any] = {**_GUEST, "deadline_s": 300.0}


@case(
    "reboot/loop",
    summary="rebooted again and again, in every way that the machine has; the earliest code judges what was left",
    settings=RebootSettings,
    **{**_LONG, "deadline_s": 900.0},  # 50 reboots of a protected guest took 373 s on two cores at load 30
    times=50,
)
async def loop(stage: Stage, settings: RebootSettings) -> None:
    """Reboot, look, load, and again."""
    rebooter, guest = await _boot(stage, settings)
    guest = await _reboot(rebooter, guest, drawn_manners(stage, settings))
    await _end(rebooter, guest)


@case(
    "reboot/storm",
    summary="all vCPUs reboot the machine at once, while they work",
    settings=RebootSettings,
    **{**_LONG, "vcpus": 4},
    times=10,
)
async def storm(stage: Stage, settings: RebootSettings) -> None:
    """As reboot/loop, by all vCPUs."""
    rebooter, guest = await _boot(stage, settings)
    guest = await _reboot(rebooter, guest, drawn_manners(stage, settings, vcpu_mask=ALL_VCPUS))
    await _end(rebooter, guest)


@case(
    "reboot/irq-pending",
    summary="interrupts are pending when the machine is reset: none may survive it",
    settings=RebootSettings,
    **_LONG,
    times=10,
)
async def irq_pending(stage: Stage, settings: RebootSettings) -> None:
    """As reboot/loop, with interrupts that nobody takes."""
    rebooter, guest = await _boot(stage, settings)
    guest = await _reboot(rebooter, guest, drawn_manners(stage, settings, pend=True, vcpu_mask=ALL_VCPUS))
    await _end(rebooter, guest)


@case("reboot/then-migrate", summary="rebooted, then moved live", settings=RebootSettings, **_LONG)
async def then_migrate(stage: Stage, settings: RebootSettings) -> None:
    """Reboots, then one move."""
    rebooter, guest = await _boot(stage, settings)
    guest = await _reboot(rebooter, guest, drawn_manners(stage, settings))
    guest = await move(stage, guest, settings, destination=await start_destination(stage, settings, 0))
    await _end(rebooter, guest)


@case("reboot/migrate-then-reboot", summary="moved live, then rebooted where it is", settings=RebootSettings, **_LONG)
async def migrate_then_reboot(stage: Stage, settings: RebootSettings) -> None:
    """One move, then reboots."""
    rebooter, guest = await _boot(stage, settings)
    guest = await _moved(rebooter, guest, number=0)
    guest = await _reboot(rebooter, guest, drawn_manners(stage, settings))
    await _end(rebooter, guest)


@case(
    "reboot/round-trip",
    summary="moved, rebooted, moved back, and rebooted again",
    settings=RebootSettings,
    **_LONG,
    hops=2,
)
async def round_trip(stage: Stage, settings: RebootSettings) -> None:
    """After each move its reboots."""
    rebooter, guest = await _boot(stage, settings)
    for number in range(settings.hops):
        guest = await _moved(rebooter, guest, number=number)
        guest = await _reboot(rebooter, guest, drawn_manners(stage, settings))
    await _end(rebooter, guest)


@case(
    "reboot/cancel-retry",
    summary="attempts are cancelled in every phase, each followed by a reboot; then the guest is moved",
    settings=RebootSettings,
    **_LONG,
)
async def cancel_retry(stage: Stage, settings: RebootSettings) -> None:
    """Cancel, reboot, and again; then move."""
    rebooter, guest = await _boot(stage, settings)
    manners = drawn_manners(stage, settings.model_copy(update={"times": len(settings.cancel_at)}))
    for number, (at, manner) in enumerate(zip(settings.cancel_at, manners, strict=True)):
        guest = await cancelled_attempt(stage, guest, settings, at, number=number)
        guest = await rebooter.reboot(guest, manner)
    guest = await move(stage, guest, settings, destination=await start_destination(stage, settings, 0))
    await _end(rebooter, guest)


@case(
    "reboot/during-precopy",
    summary="the machine is reset in every phase of a migration: the guest boots, and on exactly one side",
    settings=ResetInMigrationSettings,
    **_LONG,
)
async def during_precopy(stage: Stage, settings: ResetInMigrationSettings) -> None:
    """A move for each phase; the destination of one is the source of the next."""
    phases = [at for at in settings.reset_at if at.is_played or not stage.shield]
    if left_out := [at for at in settings.reset_at if at not in phases]:
        stage.notebook.notes.append(f"not played with protected memory: a reset in {', '.join(left_out)}")
    rebooter, guest = await _boot(stage, settings)
    for_each = settings.model_copy(update={"times": max(1, len(phases))})
    manners = drawn_manners(stage, for_each, resets_only=True)
    for number, (at, manner) in enumerate(zip(phases, manners, strict=False)):
        guest = await reset_in_migration(rebooter, guest, at, manner, number=number)
        await rebooter.load(guest)
    await _end(rebooter, guest)


async def _boot(stage: Stage, settings: RebootSettings) -> tuple[Rebooter, Guest]:
    """A guest that has filled its memory and works."""
    guest = await stage.boot()
    rebooter = Rebooter(stage=stage, settings=settings)
    await rebooter.begin(guest)
    return rebooter, guest


async def _moved(rebooter: Rebooter, guest: Guest, *, number: int) -> Guest:
    stage, settings, left = rebooter.stage, rebooter.settings, guest.vm
    destination = await start_destination(stage, settings, number)
    guest = await move(stage, guest, settings, number=number, destination=destination, is_last=False)
    stage.retire(left)
    await rebooter.settle_in(guest)
    return guest


async def _reboot(rebooter: Rebooter, guest: Guest, manners: list[Manner]) -> Guest:
    for manner in manners:
        guest = await rebooter.reboot(guest, manner)
    return guest


async def _end(rebooter: Rebooter, guest: Guest) -> None:
    await judge_last(rebooter.stage, guest, await verify(rebooter.stage, guest))
    rebooter.sum_up()
