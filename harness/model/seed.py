"""One 64-bit seed per run; everything random is drawn from a named sub-seed of it.

A new consumer of randomness takes a new name and so leaves every other sequence as it was.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

SEED_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Seed:
    """The seed of a run, 0 <= value < 2**64."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value <= SEED_MASK:
            raise ValueError(f"a seed has 64 bits, got {self.value:#x}")

    def sub(self, *names: str | int) -> int:
        """A 64-bit number that depends on the seed and on *names* only."""
        text = "/".join([f"{self.value:016x}", *map(str, names)])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def rng(self, *names: str | int) -> random.Random:
        """A generator of its own for one purpose, e.g. ``seed.rng("fault", "drop")``."""
        return random.Random(self.sub(*names))  # noqa: S311 - reproducible on purpose, not for secrets

    def __str__(self) -> str:
        return f"{self.value:#018x}"
