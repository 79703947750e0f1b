"""Precopy under QMP: set up both sides, start the migration, steer it to its end, or cancel it, and tell both ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.migration.capabilities import require_driven, set_capabilities
from harness.migration.hold import COMMAND_S, hold, let_go, limits_of, reach, run, set_parameters
from harness.migration.settings import CancelAt, MigrationSettings
from harness.migration.watch import PULSE_S, Watch
from harness.model.deadline import Deadline
from harness.model.errors import (
    BlockedError,
    DeadlineError,
    HarnessError,
    LostError,
    PreconditionError,
    ProtocolError,
)
from harness.model.evidence import MigrationEnd, SideEnd, Traffic
from harness.model.memory import PAGE_SIZE
from harness.model.timeline import Sample
from harness.vm.qmp import QmpError
from harness.vm.vm import Vm

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
    require_driven(settings.capabilities)
    wanted = {"events": True, "return-path": True, **settings.capabilities}
    await asyncio.gather(set_capabilities(vm, wanted, deadline), set_parameters(vm, limits_of(settings), deadline))


async def listen(destination: Vm, uri: str, *, deadline: Deadline) -> str:
    """Make *destination* wait for the stream; returns the URI to migrate to (a tcp port 0 becomes the real one)."""
    await run(destination, "migrate-incoming", {"uri": uri}, deadline)
    if uri.startswith("tcp:"):
        reply = await run(destination, "query-migrate", {}, deadline)
        address: Mapping[str, str] = next(iter(reply.get("socket-address", ())), {})
        if not {"host", "port"} <= set(address):
            raise ProtocolError(f"{destination.role}: query-migrate does not tell where QEMU listens")
        uri = f"tcp:{address['host']}:{address['port']}"
    destination.listens_at = uri
    return uri


@dataclass(frozen=True, slots=True)
class Midway:
    """Something that happens in the midst of a migration."""

    at: CancelAt
    """In which phase. Pre-switchover, when the source has stopped and its devices are not saved yet, needs the
    capability ``pause-before-switchover``, and is left behind it."""
    work: Callable[[], Awaitable[None]]

    async def play(self, watch: Watch, settings: MigrationSettings, deadline: Deadline) -> bool:
        """Do it once its phase has come; False, and not at all, when the migration is over before."""
        if not await reach(watch, self.at, settings, deadline):
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
        Watch(destination, poll_s=PULSE_S) as sink,
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
            await set_parameters(watch.vm, limits_of(settings), deadline)
    if settings.hold_passes > 1:
        await hold(watch, settings.hold_passes, settings, deadline)
        patience = deadline.within(_WITNESSED_S)
        with contextlib.suppress(DeadlineError):
            await watch.until(lambda _: is_witnessed(), deadline=patience, what="witness")
        await let_go(watch.vm, settings, deadline)
    if any([await midway.play(watch, settings, deadline) for midway in late]):
        await run(watch.vm, "migrate-continue", {"state": "pre-switchover"}, deadline)
    await watch.until(lambda w: w.is_over, deadline=deadline, what="end of the migration")


async def cancel(source: Vm, uri: str, settings: MigrationSettings, at: CancelAt, *, deadline: Deadline) -> Moved:
    """Start a migration and cancel it in phase *at*; returns when the source is out of it.

    Raises PreconditionError when the migration was over before the phase came.
    """
    async with Watch(source) as watch:
        await _start(source, uri, deadline)
        if at is CancelAt.PRE_SWITCHOVER:
            await let_go(source, settings, deadline)
        if not await reach(watch, at, settings, deadline):
            raise PreconditionError(
                f"the migration was {watch.status} before it could be cancelled in phase {at}",
                hint="lower hold_bandwidth_mib_s or give the guest more to dirty",
            )
        await run(source, "migrate_cancel", {}, deadline)
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
        await source.qmp.execute("migrate", {"uri": uri}, deadline=deadline.within(COMMAND_S))
    except QmpError as refusal:
        reply = await run(source, "query-migrate", {}, deadline)
        reasons = "; ".join(reply.get("blocked-reasons", ()))
        if reasons:
            raise BlockedError(f"{source.role}: {reasons}", hint="QEMU refuses to migrate this VM") from None
        raise HarnessError(f"{source.role}: {refusal}") from None


async def _give_up(watch: Watch) -> None:
    """Take the source out of a migration that will not end; best effort, the VM is killed anyway."""
    grace = Deadline.after(_GIVE_UP_S)
    with contextlib.suppress(HarnessError):
        await run(watch.vm, "migrate_cancel", {}, grace)
        await watch.until(lambda w: w.is_over, deadline=grace, what="end after migrate_cancel")


def _too_slow(watch: Watch) -> str:
    if not watch.samples:
        return f"{watch.vm.role} told nothing about its migration"
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
        source, destination = await asyncio.gather(side_of(watch), side_of(sink, is_destination=True))
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


async def side_of(watch: Watch, *, is_destination: bool = False) -> SideEnd:
    """How the side that *watch* follows ended; a destination that failed gets the time to say why on stderr."""
    vm = watch.vm
    if is_destination and watch.status == "failed":
        with contextlib.suppress(HarnessError):
            await vm.wait_exit(Deadline.after(_LAST_WORDS_S))
    deadline = Deadline.after(COMMAND_S if watch.is_over else _LAST_LOOK_S)
    try:
        asking = vm.qmp.execute("query-status", deadline=deadline)
        if is_destination and watch.status == "completed":
            state = await asking  # a source has its last counters a moment after its last status
        else:
            _, state = await asyncio.gather(watch.refresh(deadline), asking)
    except DeadlineError:
        return SideEnd(role=vm.role, status=watch.status, run_state="silent", error="QEMU does not answer QMP any more")
    except LostError:
        with contextlib.suppress(HarnessError):
            await vm.wait_exit(Deadline.after(_LAST_WORDS_S))
        return SideEnd(role=vm.role, status="lost", run_state="lost", error=vm.last_words, exit=vm.lost.result().words)
    error = str(watch.last.get("error-desc", "")) or (vm.last_words if watch.status == "failed" else "")
    return SideEnd(role=vm.role, status=watch.status, run_state=str(state["status"]), error=error)
