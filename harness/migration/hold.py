"""How precopy is held until it is let go: its limits, and the phases that it goes through meanwhile.

Convergence is forced, not hoped for. QEMU switches over when no more is left than ``downtime-limit`` allows at the
bandwidth that it measured (migration_iteration_run in QEMU's migration/migration.c). While a migration is held, the
limit is 1 ms, which a guest that dirties its memory always exceeds; then it is lifted, and the next iteration switches
over. Two things keep that from going wrong: the limit must not be 0, because QEMU 7.2 then takes "nothing left" for
convergence without asking what was dirtied meanwhile (ram_save_pending compares ``0 < 0``); and the first pass must
outlast 100 ms (BUFFER_DELAY), before which the limit counts as 0; so a held migration has its own bandwidth. A guest
that dirties less than that would make each pass shorter than the one before it, until one is too short for it to write
anything; so from the second pass on the bandwidth follows what there is to send.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from harness.migration.settings import CancelAt, MigrationSettings
from harness.migration.watch import Watch
from harness.model.deadline import Deadline
from harness.model.errors import HarnessError
from harness.vm.vm import Vm

COMMAND_S = 30.0
"""No command that is given here takes QEMU so long, on a busy host too."""

_LET_GO_MS = 2_000_000
"""Largest ``downtime-limit`` that QEMU takes (MAX_MIGRATE_DOWNTIME): switch over with whatever is left."""

_HELD_MS = 1

_CRAWL_BYTES_S = 1 << 20
"""A page takes four times the longest downtime that is allowed while a migration is held."""

_PASS_S = 0.3
"""How long a pass is made to take: a guest on a busy host gets to run in it, and what it wrote is left to send."""

_TAIL_S = 0.2
"""What is left of a first pass that may not be the last is sent as if it took this long, however little it is: QEMU
sends in bursts of 100 ms, so at most the half of it goes at once."""

_REACHED = {
    CancelAt.SETUP: lambda watch: watch.status in {"setup", "active"},
    CancelAt.FIRST_PASS: lambda watch: watch.status == "active",
    CancelAt.LATER_PASS: lambda watch: (watch.status == "active" and watch.has_resent) or watch.is_held,
    CancelAt.PRE_SWITCHOVER: lambda watch: watch.is_held,
}


def limits_of(settings: MigrationSettings) -> dict[str, int]:
    """What a migration begins with."""
    if settings.hold_passes > 1:
        return {"max-bandwidth": settings.hold_bandwidth_bytes, "downtime-limit": _HELD_MS}
    return {"max-bandwidth": settings.max_bandwidth_bytes, "downtime-limit": settings.downtime_limit_ms}


async def slow_down(source: Vm, *, deadline: Deadline) -> None:
    """Send so slowly that precopy cannot come to its end as long as the guest writes a single page now and then."""
    limits = {"downtime-limit": _HELD_MS, "max-bandwidth": _CRAWL_BYTES_S}
    await set_parameters(source, limits, deadline)


async def let_go(source: Vm, settings: MigrationSettings, deadline: Deadline) -> None:
    """Lift what holds it: the next iteration switches over with whatever is left."""
    limits = {"downtime-limit": _LET_GO_MS, "max-bandwidth": settings.max_bandwidth_bytes}
    await set_parameters(source, limits, deadline)


async def reach(watch: Watch, at: CancelAt, settings: MigrationSettings, deadline: Deadline) -> bool:
    """Wait for phase *at*; False when the migration is over before. In a later pass much is left to send, slowly.

    That also keeps an attempt that is cancelled there from its end: QEMU 7.2 says ``failed``, not ``cancelled``, when
    it finds nothing left to send a moment after ``migrate_cancel`` (migration_completion in migration/migration.c).
    """
    if at is CancelAt.LATER_PASS:
        await _slow_down_slowly(watch, settings, deadline)
    return await watch.until(_REACHED[at], deadline=deadline, what=f"phase {at}")


async def _slow_down_slowly(watch: Watch, settings: MigrationSettings, deadline: Deadline) -> None:
    """Let the first pass end as slowly as :func:`slow_down` says, so that the next cannot be over in a moment.

    A guest that wrote little, on a busy host, is gone through again in a burst, and then nothing is left to send.
    """
    rate = _fastest(settings)
    while rate > _CRAWL_BYTES_S:
        is_due = partial(_is_to_slow_down, rate=rate)
        if not await watch.until(is_due, deadline=deadline, what="end of the first pass") or watch.is_held:
            return
        rate = max(watch.remaining_bytes / _TAIL_S, _CRAWL_BYTES_S) if watch.sync_count < 2 else _CRAWL_BYTES_S
        limits = {"downtime-limit": _HELD_MS, "max-bandwidth": int(rate)}
        await set_parameters(watch.vm, limits, deadline)


def _is_to_slow_down(watch: Watch, *, rate: float) -> bool:
    is_sending = watch.status == "active" and watch.sync_count > 0
    return watch.is_held or (is_sending and (watch.sync_count > 1 or watch.remaining_bytes / _TAIL_S <= rate / 2))


async def hold(watch: Watch, passes: int, settings: MigrationSettings, deadline: Deadline) -> None:
    """Wait until the dirty bitmap was read *passes* times, and make no pass but the first shorter than it has to be."""
    for number in range(2, passes + 1):
        reached = partial(_has_read, times=number)
        if not await watch.until(reached, deadline=deadline, what=f"pass {number}"):
            return
        if number < passes and not watch.is_held:
            paced = max(min(watch.remaining_bytes / _PASS_S, _fastest(settings)), _CRAWL_BYTES_S)
            await set_parameters(watch.vm, {"max-bandwidth": int(paced)}, deadline)


def _fastest(settings: MigrationSettings) -> float:
    """Bytes a second while it is held; QEMU reads 0 as unlimited."""
    return float(settings.hold_bandwidth_bytes or math.inf)


def _has_read(watch: Watch, *, times: int) -> bool:
    return watch.sync_count >= times or watch.is_held


async def set_parameters(vm: Vm, parameters: Mapping[str, int], deadline: Deadline) -> None:
    """Set migration *parameters* of *vm* and read them back, but those that it is known to have.

    Raises HarnessError when a value did not stick.
    """
    wanted = {name: value for name, value in parameters.items() if vm.limits.get(name) != value}
    if not wanted:
        return
    for name in wanted:
        vm.limits.pop(name, None)
    # QEMU answers in turn, so neither reply has to be waited for before the other is asked for.
    _, reply = await asyncio.gather(
        run(vm, "migrate-set-parameters", wanted, deadline), run(vm, "query-migrate-parameters", {}, deadline)
    )
    for name, value in wanted.items():
        if reply.get(name) != value:
            raise HarnessError(f"{vm.role}: {name} was set to {value}, QEMU says {reply.get(name)}")
    vm.limits |= wanted


async def run(vm: Vm, command: str, arguments: Mapping[str, Any], deadline: Deadline) -> Any:
    """What *vm* returns for *command*; raises what :meth:`QmpSession.execute` raises."""
    return await vm.qmp.execute(command, arguments, deadline=deadline.within(COMMAND_S))
