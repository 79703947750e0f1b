"""A point in time that crosses function borders instead of a timeout that starts again in each of them."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on :func:`time.monotonic`'s clock."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment *seconds* from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds that remain, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def has_passed(self) -> bool:
        """True when no time is left."""
        return time.monotonic() >= self.at_s

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and *seconds* from now: a step's own bound inside a longer story."""
        return Deadline(min(self.at_s, time.monotonic() + seconds))
