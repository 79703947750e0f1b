"""Precopy under QMP: set up both sides, hold the migration in precopy, let it go, or cancel it.

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
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from harness.migration.settings import CancelAt, MigrationSettings
from harness.migration.watch import Watch
from harness.model.deadline import Deadline
from harness.model.errors import (
    BlockedError,
    DeadlineError,
    HarnessError,
    LostError,
    PreconditionError,
    UnsupportedError,
)
from harness.model.evidence import MigrationEnd, SideEnd, Traffic
from harness.model.memory import PAGE_SIZE
from harness.model.timeline import Sample
from harness.vm.qmp import QmpError
from harness.vm.vm import Vm

NOT_DRIVEN: Mapping[str, str] = MappingProxyType(
    {
        "multifd": "pages go over connections of their own",
        "postcopy-preempt": "requested pages go over a connection of their own",
        "mapped-ram": "the stream needs a file",
        "background-snapshot": "the guest runs on while it is saved",
        "x-colo": "the source runs on after its first checkpoint",
        "rdma-pin-all": "the transport is unix or tcp",
        "zero-copy-send": "pages would bypass the unix socket",
        "release-ram": "the source's memory would be gone before the host compares it",
        "x-ignore-shared": "main memory is shared with the harness and would not be sent",
    }
)
"""Capabilities that this driver and its witnesses cannot judge yet, each with the reason."""

_LET_GO_MS = 2_000_000
"""Largest ``downtime-limit`` that QEMU takes (MAX_MIGRATE_DOWNTIME): switch over with whatever is left."""

_HELD_MS = 1

_CRAWL_BYTES_S = 1 << 20
"""A page takes four times the longest downtime that is allowed while a migration is held."""

_PASS_S = 0.3
"""How long a pass is made to take: a guest on a busy host gets to run in it, and what it wrote is left to send."""

_COMMAND_S = 30.0

_TAIL_S = 0.2
"""What is left of a first pass that may not be the last is sent as if it took this long, however little it is: QEMU
sends in bursts of 100 ms, so at most the half of it goes at once."""

_STALL_S = 5.0
"""A migration that is given up counts as stalled, not slow, when no byte moved for this long."""

_WITNESSED_S = 10.0
"""How long a held migration waits for what has to be seen before it is let go. A guest that lives shows it in
milliseconds; whether one that did not is an error is for a check."""

_SETTLE_S = 10.0
"""How long the other side may take to notice the end."""

_GIVE_UP_S = 2.0
"""How long a source may take to leave a migration that is given up; the VM is killed anyway."""

_LAST_LOOK_S = 1.0
"""How long a side that has not come to an end may take to tell its state; a silent one is told to be silent."""

_LAST_WORDS_S = 2.0
"""How long a destination that failed to load may take to exit and tell why on stderr."""

_REACHED = {
    CancelAt.SETUP: lambda watch: watch.status in {"setup", "active"},
    CancelAt.FIRST_PASS: lambda watch: watch.status == "active",
    CancelAt.LATER_PASS: lambda watch: (watch.status == "active" and watch.has_resent) or watch.is_held,
    CancelAt.PRE_SWITCHOVER: lambda watch: watch.is_held,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What the driver saw of one attempt."""

    end: MigrationEnd
    samples: tuple[Sample, ...]
    started_s: float
    """Monotonic time of the ``migrate`` command."""
    ended_s: float
    """Monotonic time when both sides were done."""
    too_slow: str = ""
    """Why it was given up while it still moved bytes; empty otherwise."""
    reply: Mapping[str, Any] = field(default_factory=dict)
    """The source's last ``query-migrate``: downtime, total-time, ram counters."""

    @property
    def completed(self) -> bool:
        """True when the source says so; whether it is true is for the checks."""
        return self.end.source.status == "completed"


async def prepare(vm: Vm, settings: MigrationSettings, *, deadline: Deadline) -> None:
    """Set capabilities and parameters, then read the parameters back.

    Raises UnsupportedError when the binary does not know a capability, HarnessError when a value did not stick.
    """
    refused = sorted(name for name, state in settings.capabilities.items() if state and name in NOT_DRIVEN)
    if refused:
        name = refused[0]
        raise UnsupportedError(
            f"capability {name}: {NOT_DRIVEN[name]}", hint="this release drives precopy over one channel"
        )
    wanted = {"events": True, "return-path": True, **settings.capabilities}
    unknown = sorted(set(wanted) - vm.features.migration_capabilities)
    if unknown:
        raise UnsupportedError(
            f"{vm.role}: QEMU {vm.features.version} has no migration capability {', '.join(unknown)}",
            hint="choose another binary with --qemu/--qemu-dst, or drop the setting",
        )
    await asyncio.gather(_set_capabilities(vm, wanted, deadline), _set_parameters(vm, _limits(settings), deadline))


async def listen(destination: Vm, uri: str, *, deadline: Deadline) -> str:
    """Make *destination* wait for the stream; returns the URI to migrate to (a tcp port 0 becomes the real one)."""
    await _run(destination, "migrate-incoming", {"uri": uri}, deadline)
    if not uri.startswith("tcp:"):
        return uri
    reply = await _run(destination, "query-migrate", {}, deadline)
    address = reply["socket-address"][0]
    return f"tcp:{address['host']}:{address['port']}"


@dataclass(frozen=True, slots=True)
class Midway:
    """Something that happens in the midst of a migration."""

    at: CancelAt
    """In which phase. Pre-switchover, when the source has stopped and its devices are not saved yet, needs the
    capability ``pause-before-switchover``, and is left behind it."""
    work: Callable[[], Awaitable[None]]

    async def play(self, watch: Watch, settings: MigrationSettings, deadline: Deadline) -> bool:
        """Do it once its phase has come; False, and not at all, when the migration is over before."""
        if not await _reach(watch, self.at, settings, deadline):
            return False
        await self.work()
        return True


async def migrate(
    source: Vm,
    destination: Vm,
    uri: str,
    settings: MigrationSettings,
    *,
    deadline: Deadline,
    on_sample: Callable[[Sample], None] | None = None,
    midways: Sequence[Midway] = (),
    is_witnessed: Callable[[], bool] = lambda: True,
    passed_on: Callable[[], int] | None = None,
) -> Moved:
    """Send *source* to *uri*, where *destination* listens, and wait for both ends.

    The destination is left loaded and paused, the source stopped. A failed migration is no exception but a
    ``Moved`` whose end says so. Each of *midways* is awaited once in its phase, and the migration is held meanwhile.
    One that is held is not let go before *is_witnessed*, which is asked at every look at the source. *passed_on* counts
    the bytes that came through whatever is between the two: one that still moves is not stalled.

    An attempt that has not converged by *deadline* is cancelled; ``too_slow`` tells.

    Raises BlockedError when the source refuses to start, LostError when a process is gone before that.
    """
    async with (
        Watch(source, on_sample=on_sample, passed_on=passed_on) as watch,
        Watch(destination) as sink,
    ):
        await _start(source, uri, deadline)
        stalled_s, too_slow = 0.0, ""
        try:
            await _steer(watch, settings, midways, is_witnessed, deadline)
        except LostError:
            pass  # the ends say who is gone, and why
        except DeadlineError:
            stalled_s = watch.stalled_s if watch.stalled_s >= _STALL_S else 0.0
            too_slow = "" if stalled_s else _too_slow(watch)
            await _give_up(watch)
        with contextlib.suppress(DeadlineError):
            settle = Deadline.after(0 if stalled_s or too_slow else _SETTLE_S)
            await sink.until(lambda w: w.is_over, deadline=settle, what="end on the destination")
        return await _moved(watch, sink, settings, stalled_s=stalled_s, too_slow=too_slow)


async def slow_down(source: Vm, *, deadline: Deadline) -> None:
    """Send so slowly that precopy cannot come to its end as long as the guest writes a single page now and then."""
    limits = {"downtime-limit": _HELD_MS, "max-bandwidth": _CRAWL_BYTES_S}
    await _set_parameters(source, limits, deadline)


async def _steer(
    watch: Watch,
    settings: MigrationSettings,
    midways: Sequence[Midway],
    is_witnessed: Callable[[], bool],
    deadline: Deadline,
) -> None:
    """Hold the migration, let it go, and wait for its end on the source."""
    late = [midway for midway in midways if midway.at is CancelAt.PRE_SWITCHOVER]
    for midway in midways:
        if midway in late:
            continue
        await midway.play(watch, settings, deadline)
        # Whatever it took to be held meanwhile, from here on it goes as it was to go.
        if not watch.is_over:
            await _set_parameters(watch.vm, _limits(settings), deadline)
    if settings.hold_passes > 1:
        await _hold(watch, settings.hold_passes, settings, deadline)
        patience = deadline.within(_WITNESSED_S)
        with contextlib.suppress(DeadlineError):
            await watch.until(lambda _: is_witnessed(), deadline=patience, what="witness")
        await _let_go(watch.vm, settings, deadline)
    if any([await midway.play(watch, settings, deadline) for midway in late]):
        await _run(watch.vm, "migrate-continue", {"state": "pre-switchover"}, deadline)
    await watch.until(lambda w: w.is_over, deadline=deadline, what="end of the migration")


async def _reach(watch: Watch, at: CancelAt, settings: MigrationSettings, deadline: Deadline) -> bool:
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
        await _set_parameters(watch.vm, limits, deadline)


def _is_to_slow_down(watch: Watch, *, rate: float) -> bool:
    is_sending = watch.status == "active" and watch.sync_count > 0
    return watch.is_held or (is_sending and (watch.sync_count > 1 or watch.remaining_bytes / _TAIL_S <= rate / 2))


async def _hold(watch: Watch, passes: int, settings: MigrationSettings, deadline: Deadline) -> None:
    """Wait until the dirty bitmap was read *passes* times, and make no pass but the first shorter than it has to be."""
    for number in range(2, passes + 1):
        reached = partial(_has_read, times=number)
        if not await watch.until(reached, deadline=deadline, what=f"pass {number}"):
            return
        if number < passes and not watch.is_held:
            paced = max(min(watch.remaining_bytes / _PASS_S, _fastest(settings)), _CRAWL_BYTES_S)
            await _set_parameters(watch.vm, {"max-bandwidth": int(paced)}, deadline)


def _fastest(settings: MigrationSettings) -> float:
    """Bytes a second while it is held; QEMU reads 0 as unlimited."""
    return float(settings.hold_bandwidth_bytes or math.inf)


def _has_read(watch: Watch, *, times: int) -> bool:
    return watch.sync_count >= times or watch.is_held


async def cancel(source: Vm, uri: str, settings: MigrationSettings, at: CancelAt, *, deadline: Deadline) -> Moved:
    """Start a migration and cancel it in phase *at*; returns when the source is out of it.

    Raises PreconditionError when the migration was over before the phase came.
    """
    async with Watch(source) as watch:
        await _start(source, uri, deadline)
        if at is CancelAt.PRE_SWITCHOVER:
            await _let_go(source, settings, deadline)
        if not await _reach(watch, at, settings, deadline):
            raise PreconditionError(
                f"the migration was {watch.status} before it could be cancelled in phase {at}",
                hint="lower hold_bandwidth_mib_s or give the guest more to dirty",
            )
        await _run(source, "migrate_cancel", {}, deadline)
        await watch.until(lambda w: w.is_over, deadline=deadline, what="end after migrate_cancel")
        return await _moved(watch, None, settings)


def traffic_of(moved: Moved, *, pages_written: int) -> Traffic:
    """What the RAM phase sent, from the source's last counters (``normal`` and ``duplicate`` are pages)."""
    ram = moved.reply.get("ram", {})
    page_size = int(ram.get("page-size", PAGE_SIZE))
    return Traffic(
        pages_total=int(ram.get("total", 0)) // page_size,
        pages_sent=int(ram.get("normal", 0)) + int(ram.get("duplicate", 0)),
        passes=int(ram.get("dirty-sync-count", 0)),
        pages_written=pages_written,
    )


async def _start(source: Vm, uri: str, deadline: Deadline) -> None:
    try:
        await source.qmp.execute("migrate", {"uri": uri}, deadline=deadline.within(_COMMAND_S))
    except QmpError as refusal:
        reply = await _run(source, "query-migrate", {}, deadline)
        reasons = "; ".join(reply.get("blocked-reasons", ()))
        if reasons:
            raise BlockedError(f"{source.role}: {reasons}", hint="QEMU refuses to migrate this VM") from None
        raise HarnessError(f"{source.role}: {refusal}") from None


def _limits(settings: MigrationSettings) -> dict[str, int]:
    """What a migration begins with."""
    if settings.hold_passes > 1:
        return {"max-bandwidth": settings.hold_bandwidth_bytes, "downtime-limit": _HELD_MS}
    return {"max-bandwidth": settings.max_bandwidth_bytes, "downtime-limit": settings.downtime_limit_ms}


async def _let_go(source: Vm, settings: MigrationSettings, deadline: Deadline) -> None:
    limits = {"downtime-limit": _LET_GO_MS, "max-bandwidth": settings.max_bandwidth_bytes}
    await _set_parameters(source, limits, deadline)


async def _give_up(watch: Watch) -> None:
    """Take the source out of a migration that will not end; best effort, the VM is killed anyway."""
    grace = Deadline.after(_GIVE_UP_S)
    with contextlib.suppress(HarnessError):
        await _run(watch.vm, "migrate_cancel", {}, grace)
        await watch.until(lambda w: w.is_over, deadline=grace, what="end after migrate_cancel")


def _too_slow(watch: Watch) -> str:
    last = watch.samples[-1]
    return (
        f"no convergence in {last.t_s:.1f} s: {last.remaining_bytes >> 20} MiB remaining, "
        f"{last.dirty_pages_per_s} dirty pages/s, {last.throughput_mbps:.0f} Mbit/s"
    )


async def _moved(
    watch: Watch, sink: Watch | None, settings: MigrationSettings, *, stalled_s: float = 0.0, too_slow: str = ""
) -> Moved:
    nobody = SideEnd(role="(none)", status="none", run_state="none")
    if sink:
        source, destination = await asyncio.gather(side_of(watch), side_of(sink, may_exit=True))
    else:
        source, destination = await side_of(watch), nobody
    return Moved(
        end=MigrationEnd(
            source=source,
            destination=destination,
            return_path=settings.capabilities.get("return-path", True),
            stalled_s=stalled_s,
        ),
        samples=tuple(watch.samples),
        started_s=watch.started_s,
        ended_s=time.monotonic(),
        too_slow=too_slow,
        reply=watch.last,
    )


async def side_of(watch: Watch, *, may_exit: bool = False) -> SideEnd:
    """How the side that *watch* follows ended; with *may_exit* a failed one gets the time to say why on stderr."""
    vm = watch.vm
    if may_exit and watch.status == "failed":
        with contextlib.suppress(HarnessError):
            await vm.wait_exit(Deadline.after(_LAST_WORDS_S))
    deadline = Deadline.after(_COMMAND_S if watch.is_over else _LAST_LOOK_S)
    try:
        await watch.refresh(deadline)
        state = await vm.qmp.execute("query-status", deadline=deadline)
    except DeadlineError:
        return SideEnd(role=vm.role, status=watch.status, run_state="silent", error="QEMU does not answer QMP any more")
    except LostError:
        with contextlib.suppress(HarnessError):
            await vm.wait_exit(Deadline.after(_LAST_WORDS_S))
        return SideEnd(role=vm.role, status="lost", run_state="lost", error=vm.last_words, exit=vm.lost.result().words)
    error = str(watch.last.get("error-desc", "")) or (vm.last_words if watch.status == "failed" else "")
    return SideEnd(role=vm.role, status=watch.status, run_state=str(state["status"]), error=error)


async def _set_capabilities(vm: Vm, wanted: Mapping[str, bool], deadline: Deadline) -> None:
    # What an earlier attempt switched on stays on until somebody switches it off.
    now = await _run(vm, "query-migrate-capabilities", {}, deadline)
    stale = {entry["capability"]: False for entry in now if entry["state"]}
    states = [{"capability": name, "state": state} for name, state in sorted({**stale, **wanted}.items())]
    await _run(vm, "migrate-set-capabilities", {"capabilities": states}, deadline)


async def _set_parameters(vm: Vm, parameters: Mapping[str, int], deadline: Deadline) -> None:
    await _run(vm, "migrate-set-parameters", parameters, deadline)
    reply = await _run(vm, "query-migrate-parameters", {}, deadline)
    for name, value in parameters.items():
        if reply.get(name) != value:
            raise HarnessError(f"{vm.role}: {name} was set to {value}, QEMU says {reply.get(name)}")


async def _run(vm: Vm, command: str, arguments: Mapping[str, Any], deadline: Deadline) -> Any:
    return await vm.qmp.execute(command, arguments, deadline=deadline.within(_COMMAND_S))
