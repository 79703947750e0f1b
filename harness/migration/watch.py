"""Follow one side of a migration: every status and sample that ``query-migrate`` gave, and waits for them.

Events alone are not enough on a source: QEMU 10.0 emits nothing after ``setup`` when the connection is refused, so the
status is polled as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError
from harness.model.memory import PAGE_SIZE
from harness.model.timeline import Sample
from harness.vm.vm import Vm

POLL_S = 0.01
PULSE_S = 1.0
"""Enough where every status is told by an event, and asking only shows that QEMU still answers."""
TERMINAL = frozenset({"completed", "failed", "cancelled"})
"""MigrationStatus values after which nothing more happens; unknown states are taken as transient."""

_QUERY_S = 10.0
"""After this a question is asked again. A source that sends its last pages answers nothing until they are sent."""

_SILENT_S = 30.0
"""A QEMU that answers nothing while no byte moves for this long answers never."""


class Watch:
    """Asks *vm* ``query-migrate`` at every event, and each *poll_s* seconds, while the ``async with`` block runs.

    *passed_on* tells how many bytes who stands between the two sides has passed on: what a source has written to its
    socket it counts as sent, and it may take long from there.
    """

    def __init__(
        self,
        vm: Vm,
        *,
        poll_s: float = POLL_S,
        on_sample: Callable[[Sample], None] | None = None,
        passed_on: Callable[[], int] | None = None,
    ) -> None:
        self.vm = vm
        self.started_s = time.monotonic()
        self.samples: list[Sample] = []
        self.last: Mapping[str, Any] = {}
        self.last_progress_s = self.started_s
        self._on_sample = on_sample
        self._passed_on = passed_on or (lambda: 0)
        self._poll_s = poll_s
        self._moved = (0, 0)
        self._changed = asyncio.Condition()
        self._lost: HarnessError | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._poll(self.vm.qmp.cursor), name=f"watch {self.vm.role}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def status(self) -> str:
        """Newest status; ``none`` before QEMU told one."""
        return str(self.last.get("status", "none"))

    @property
    def sync_count(self) -> int:
        """Newest ``dirty-sync-count``: how often the dirty bitmap was synchronised."""
        return int(self.last.get("ram", {}).get("dirty-sync-count", 0))

    @property
    def remaining_bytes(self) -> int:
        """Newest ``remaining``: what of RAM is still to be sent, as far as the bitmap tells."""
        return int(self.last.get("ram", {}).get("remaining", 0))

    @property
    def has_resent(self) -> bool:
        """True when a page was sent again: more were sent than there are, or the bitmap was read a third time."""
        ram = self.last.get("ram", {})
        sent = (int(ram.get("normal", 0)) + int(ram.get("duplicate", 0))) * int(ram.get("page-size", PAGE_SIZE))
        return self.sync_count > 2 or (self.sync_count == 2 and sent > int(ram.get("total", 0)))

    @property
    def is_held(self) -> bool:
        """True while QEMU waits for ``migrate-continue``: all but the rest is sent, and the source stands still."""
        return self.status == "pre-switchover"

    @property
    def is_over(self) -> bool:
        """True in a terminal state or when the process is gone."""
        return self.status in TERMINAL or self._lost is not None

    @property
    def stalled_s(self) -> float:
        """Seconds since the number of bytes that were sent, or passed on by who stands between, last changed."""
        return time.monotonic() - self.last_progress_s

    async def until(self, reached: Callable[[Watch], bool], *, deadline: Deadline, what: str) -> bool:
        """Wait until *reached*, or until the migration is over; tells whether it was reached.

        Raises DeadlineError naming *what*. The watch goes on after it.
        """
        async with self._changed:
            try:
                async with asyncio.timeout(deadline.left_s):
                    await self._changed.wait_for(lambda: self.is_over or reached(self))
            except TimeoutError:
                raise DeadlineError(
                    f"{self.vm.role}: no {what} before the deadline; status {self.status}",
                    hint="raise deadline_s, or see the timeline for what held it up",
                ) from None
        return reached(self)

    async def refresh(self, deadline: Deadline) -> None:
        """Ask now, so that ``last`` carries what QEMU says at the end. DeadlineError when it says nothing."""
        await self._ask(deadline)

    async def _poll(self, seen: int) -> None:
        try:
            while True:
                with contextlib.suppress(DeadlineError):
                    await self.vm.qmp.wait_event("MIGRATION", since=seen, deadline=Deadline.after(self._poll_s))
                seen = self.vm.qmp.cursor
                try:
                    await self._ask(Deadline.after(_QUERY_S))
                except DeadlineError:
                    self._see_progress(self._moved[0])
                    if self.stalled_s >= _SILENT_S:
                        raise
        except HarnessError as lost:
            async with self._changed:
                self._lost = lost
                self._changed.notify_all()

    def _see_progress(self, transferred_bytes: int) -> None:
        moved = (transferred_bytes, self._passed_on())
        if moved != self._moved:
            self._moved, self.last_progress_s = moved, time.monotonic()

    async def _ask(self, deadline: Deadline) -> None:
        reply = await self.vm.qmp.execute("query-migrate", deadline=deadline)
        sample = sample_of(reply, time.monotonic() - self.started_s)
        self._see_progress(sample.transferred_bytes)
        async with self._changed:
            self.last = reply
            self.samples.append(sample)
            self._changed.notify_all()
        if self._on_sample:
            self._on_sample(sample)


def sample_of(reply: Mapping[str, Any], t_s: float) -> Sample:
    """Turn a ``query-migrate`` reply into a sample; every member is optional in practice."""
    ram = reply.get("ram", {})
    return Sample(
        t_s=t_s,
        status=str(reply.get("status", "none")),
        remaining_bytes=int(ram.get("remaining", 0)),
        transferred_bytes=int(ram.get("transferred", 0)),
        dirty_pages_per_s=int(ram.get("dirty-pages-rate", 0)),
        throughput_mbps=float(ram.get("mbps", 0.0)),
        dirty_sync_count=int(ram.get("dirty-sync-count", 0)),
    )
