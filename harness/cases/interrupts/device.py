"""The harness's device across a move: it numbers what it raises, stops with the machine, and goes on elsewhere."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Container, Iterable

from harness.model.deadline import Deadline
from harness.model.interrupts import Moment, Raised
from harness.vm.doorbell import Doorbell
from harness.vm.vm import Vm


class MovingDevice:
    """Vectors of one ivshmem device, wherever its guest is."""

    def __init__(self, vm: Vm) -> None:
        self._bell: Doorbell = vm.doorbell
        self._numbers: dict[int, int] = {}
        self.raised: list[Raised] = []
        self.queued: list[Raised] = []
        """Raised and not taken in by the VM that was left."""

    def raise_next(self, ids: Iterable[int], moment: Moment) -> None:
        """Raise the next interrupt of each of *ids*."""
        for vector in ids:
            self._bell.raise_vector(vector, self.number(vector, moment))

    def number(self, vector: int, moment: Moment) -> int:
        """Number the next interrupt of *vector*, which is raised now."""
        number = self._numbers[vector] = self._numbers.get(vector, 0) + 1
        self.raised.append(Raised(id=vector, number=number, moment=moment, at_s=time.monotonic()))
        return number

    def pause(self) -> None:
        """The vCPUs do not run any more; the device still does."""

    def flush(self) -> None:
        """The device has raised its last interrupt for now."""

    async def settle(self, go_round: Callable[[], Awaitable[None]], deadline: Deadline) -> None:
        """Wait until the machine, which is stopped, has taken in what has to be in it. *go_round* lets it work."""

    def resume(self) -> None:
        """The vCPUs run again."""

    def retire(self, ids: Container[int]) -> None:
        """What was raised of *ids* is not to arrive any more."""
        self.raised = [one for one in self.raised if one.id not in ids]

    def number_of(self, vector: int) -> int:
        """Of the last interrupt of *vector*, 0 before the first."""
        return self._numbers.get(vector, 0)

    def stop(self) -> None:
        """The machine has stopped: what it has not taken in yet stays in the device."""
        waiting = self._bell.take_back()
        self.queued = [one for one in self.raised if one.id in waiting and one.number == self._numbers[one.id]]

    def raise_late(self, vector: int) -> None:
        """A fault: one more, for a machine that was saved already."""
        self.raise_next((vector,), Moment.SAVED)

    def raise_again(self, vector: int) -> None:
        """A fault: the last one of *vector* once more."""
        self._bell.raise_vector(vector, self._numbers[vector])

    def go_on(self, vm: Vm) -> None:
        """Be the device of *vm* from now on: its registers, then what was still to be raised."""
        self._bell = vm.doorbell
        self._bell.set_numbers(self._numbers)
        for one in self.queued:
            self._bell.raise_vector(one.id, one.number)

    def forget(self, vector: int) -> None:
        """A fault: number the next one of *vector*, and do not raise it."""
        self.number(vector, Moment.LOADED)

    @property
    def bell(self) -> Doorbell:
        """Of the VM that it is in."""
        return self._bell
