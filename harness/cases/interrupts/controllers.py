"""Who can see interrupts under way in a machine, by architecture."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from harness.cases.interrupts import arm_monitor
from harness.cases.interrupts.x86_monitor import look_at_source
from harness.cases.stage import Guest
from harness.migration.stream import gic_interrupts, x86_interrupts
from harness.model.deadline import Deadline
from harness.model.device_state import DeviceState
from harness.model.interrupts import At, Held, Sighting, Source
from harness.model.machine import Arch
from harness.model.translation import Translation

Look = Callable[[Guest, Sequence[Source], Deadline], Awaitable[Sighting]]
"""Looks at a stopped guest; the sighting is the host's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controllers:
    """The interrupt controllers of an architecture, and how they can be seen into."""

    on_wire: Callable[[DeviceState, Sequence[Source]], frozenset[Held]]
    sees: frozenset[At]
    """What the device sections tell."""
    at_source: Look
    in_memory: Callable[[DeviceState, Guest, Sequence[Source]], frozenset[Held]] | None = None
    """What guest memory tells, where the controller keeps some of its state there: tables that the devices name."""
    translations: Callable[[DeviceState, Guest], frozenset[Translation]] | None = None
    """What a translation service in guest memory makes of devices' events; None where there is none."""
    descending: bool = False
    """Whether a larger number is served first."""


CONTROLLERS: Mapping[Arch, Controllers] = MappingProxyType(
    {
        Arch.X86_64: Controllers(
            on_wire=x86_interrupts.held_on_wire, sees=x86_interrupts.SEES, at_source=look_at_source, descending=True
        ),
        Arch.AARCH64: Controllers(
            on_wire=gic_interrupts.held_on_wire,
            sees=gic_interrupts.SEES,
            at_source=arm_monitor.look_at_source,
            in_memory=arm_monitor.held_in_memory,
            translations=arm_monitor.translations_of,
        ),
    }
)
