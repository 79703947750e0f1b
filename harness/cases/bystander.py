"""Who has something to do, or to see, at certain moments of a move."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from harness.cases.witness import SeenState


class Bystander:
    """Does nothing. Whoever wants a moment takes it; the VM waits until it has returned."""

    __slots__ = ()

    stops_source: ClassVar[bool] = False
    """Whether the source has to wait for :meth:`source_stopped`, which it else would not (QEMU's capability
    ``pause-before-switchover``)."""

    async def source_leaves(self) -> None:
        """The migration is about to begin; nothing is asked of the guest any more until it is at the destination."""

    async def source_stopped(self) -> None:
        """The source has stopped, and its devices are not saved yet."""

    async def destination_loaded(self, seen: SeenState | None) -> None:
        """The destination has loaded, and has not run."""

    async def destination_runs(self) -> None:
        """The destination has just been told to run."""


class OnArrival(Bystander):
    """Starts something for the time in which the host waits for the guest's first beat, and has nothing to do."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[], object]) -> None:
        self._begin = begin

    async def destination_runs(self) -> None:
        """Begin."""
        self._begin()
