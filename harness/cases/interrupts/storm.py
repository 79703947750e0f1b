"""Interrupts without pause: each vector is raised again as soon as the guest has logged the one before."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from harness.cases.interrupts.device import MovingDevice
from harness.guest.interrupts import LedgerReader
from harness.model.deadline import Deadline
from harness.model.errors import PreconditionError
from harness.model.interrupts import Moment

_SILENCE_S = 30.0
"""A guest that lives logs thousands of interrupts a second, on a host that is not much too busy."""


@dataclass(slots=True, kw_only=True)
class Storm:
    """Runs in the harness's loop, woken by the guest's doorbell."""

    device: MovingDevice
    ledger: LedgerReader
    ids: tuple[int, ...]
    _task: asyncio.Task[None] | None = field(default=None)
    _grown: asyncio.Condition = field(default_factory=asyncio.Condition)

    def start(self, ram: memoryview, moment: Moment) -> None:
        """Raise all that are idle, and go on."""
        self._task = asyncio.create_task(self._blow(ram, moment), name="storm")

    async def stop(self) -> None:
        """Raise nothing more. What :meth:`start`'s task ran into is raised here."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            if not self._task.cancelled() and (error := self._task.exception()):
                raise error
            self._task = None

    async def until(self, count: int, deadline: Deadline) -> None:
        """Wait until the guest has logged *count* interrupts in all. PreconditionError when they do not come."""
        try:
            async with asyncio.timeout(deadline.within(_SILENCE_S).left_s), self._grown:
                await self._grown.wait_for(lambda: len(self.ledger.received) >= count or self._has_ended())
        except TimeoutError:
            raise PreconditionError(f"the storm stands still at {len(self.ledger.received)} interrupts") from None
        if self._has_ended():
            await self.stop()

    def idle(self, ram: memoryview) -> tuple[int, ...]:
        """Ids whose last interrupt the guest has logged."""
        counts = self.ledger.counts(ram)
        return tuple(one for one in self.ids if counts[one] >= self.device.number_of(one))

    def _has_ended(self) -> bool:
        return self._task is None or self._task.done()

    async def _blow(self, ram: memoryview, moment: Moment) -> None:
        while True:
            self.device.raise_next(self.idle(ram), moment)
            await self.device.bell.wait_ring(Deadline.after(_SILENCE_S))
            self.ledger.read(ram)
            async with self._grown:
                self._grown.notify_all()
