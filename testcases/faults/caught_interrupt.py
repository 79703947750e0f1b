"""A row of the tables of interrupt faults: which fault, on which case, and all that is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.model.result import CaseResult
from testcases.conftest import Player

PENDING_LOST = ("irq/pending", "lost")
APPEARED = ("irq/pending", "appeared")
LOST = ("irq/exactly-once", "lost")
DOUBLED = ("irq/exactly-once", "doubled")
WRONG_VCPU = ("irq/delivery", "wrong-vcpu")
DEVICES = ("state/devices", "changed")
"""The destination's second save differs too: nearly every fault of the wire."""


@dataclass(frozen=True, kw_only=True)
class Caught:
    """One fault on one case, whose seed makes the fault find its target."""

    fault: str
    case: str
    finds: frozenset[tuple[str, str]]
    seed: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.case}-{self.fault}"


def caught(fault: str, case: str, *pairs: tuple[str, str], seed: int = 1, **settings: Any) -> Caught:
    """A row."""
    return Caught(fault=fault, case=case, finds=frozenset(pairs), seed=seed, settings=settings)


def played(play: Player, one: Caught, *faults: str) -> CaseResult:
    """The row's case, with these faults."""
    return play(f"irq/{one.case}", *faults, seed=one.seed, **one.settings)


def siblings(table: tuple[Caught, ...]) -> list[Caught]:
    """Each case, seed and settings of *table* once: what has to be silent without a fault."""
    return list({(one.case, one.seed, str(one.settings)): one for one in table}.values())
