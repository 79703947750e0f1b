"""What one interrupt case does, as data: its sources, what holds the vCPUs, and what is raised when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from harness.cases.interrupts.known_defects import KnownDefect
from harness.model.interrupts import Held, Hold, Moment, Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command of the guest's architecture, images/probe/PROTOCOL.md, codes 80 to 111."""

    code: int
    words: tuple[int, ...] = ()


NOTHING: Mapping[Moment, tuple[int, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPlan:
    """A hold on some vCPUs."""

    kind: Hold
    vcpu_mask: int
    argument: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The order: sources, what is taken before the holds, holds, raised before the move, the move, release."""

    sources: tuple[Source, ...]
    begun: tuple[Step, ...] = ()
    """Commands before anything is raised."""
    taken: tuple[int, ...] = ()
    """Raised first, one after the other, and received before anything else happens (to stay in service)."""
    holds: tuple[HoldPlan, ...] = ()
    raised: Mapping[Moment, tuple[int, ...]] = field(default_factory=lambda: NOTHING)
    """Ids to raise at each moment; guest-made sources only while a guest runs."""
    armed: tuple[int, ...] = ()
    """Timers that are armed as the last thing before the move; the machine is stopped at once, so that none fires."""
    planned: frozenset[Held] = frozenset()
    """Where interrupts must be when the source has stopped; the case is an error otherwise."""
    prepared: tuple[Step, ...] = ()
    """Commands when everything is pending, before the move."""
    moved: Mapping[int, int] = field(default_factory=dict)
    """Source -> vCPU that takes it from then on."""
    retired: frozenset[int] = frozenset()
    """Sources whose pending interrupt these commands have taken away: it must not arrive."""
    late: tuple[int, ...] = ()
    """Raised after these commands, before the move; guest-made only."""
    arrived: tuple[Step, ...] = ()
    """Commands at the destination, before anything is released."""
    unmask: tuple[int, ...] = ()
    """Sources that are unmasked at the destination."""
    forwarded: tuple[int, ...] = ()
    """Doorbells that hardware delivers: :mod:`harness.cases.interrupts.forwarding`."""
    carriers: tuple[int, ...] = ()
    """Doorbells, one for each vCPU, that are raised by the machine's own controller when it has stopped."""
    known: tuple[KnownDefect, ...] = ()
    """Defects of QEMU that this is about."""
    features: int = 0
    """Feature bits of the guest that it needs."""
    needs: str = ""
    """What these bits mean, for who has not got them."""
    storm: tuple[int, ...] = ()
    """Ids that are raised again and again, before the move, while all stands still, and after it."""
