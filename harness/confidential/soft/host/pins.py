"""Pages that are pinned while a command works on them: none may stay so (VmPin, class B33)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from harness.model.soft_fault import SoftFault


class Pins:
    """Of one VM. Whoever issues a command pins its pages first and unpins them behind it."""

    def __init__(self, faults: AbstractSet[SoftFault] = frozenset()) -> None:
        self._leaks = SoftFault.PINS_LEAKED in faults
        self._held = self._leaked = 0
        self._last = 0

    @property
    def pages(self) -> int:
        """Pinned at this moment."""
        return self._held + self._leaked

    def pin(self, ram_pages: NDArray[np.uint64]) -> None:
        """A command begins."""
        self._held = self._last = len(ram_pages)

    def unpin(self) -> None:
        """It is done."""
        self._held = 0

    def failed(self) -> None:
        """It was refused. The bug: who pinned them returns early."""
        self._leak(self._held)

    def cancelled(self) -> None:
        """The session is given up, and with it the latest batch."""
        self._leak(self._last)

    def _leak(self, pages: int) -> None:
        self._held = self._last = 0
        if self._leaks:
            self._leaked += pages
