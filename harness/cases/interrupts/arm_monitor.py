"""The host's own look at a stopped Arm machine: its GIC's registers by the monitor, its LPI tables in shared memory."""

from __future__ import annotations

from collections.abc import Sequence

from harness.cases.stage import Guest
from harness.migration.stream import gic_interrupts
from harness.migration.stream.gic_interrupts import SEES, held_in_registers, held_in_tables
from harness.migration.stream.gic_state import (
    ENABLE_LPIS,
    LOCAL_INTIDS,
    VALID,
    GicState,
    Its,
    Redistributor,
    read_gic,
    tables_at,
)
from harness.migration.stream.gic_tables import translations
from harness.model.deadline import Deadline
from harness.model.device_state import DeviceState
from harness.model.interrupts import Held, Sighting, Source
from harness.model.translation import Translation
from harness.vm.monitor_gic import GicView, RedistributorView, look_at_gic

_AFFINITY_0 = 0xFF
_FIRST_SPECIAL = 1020


class Reader:
    """Guest memory by gpa; what is no RAM reads as nothing, as a table that lies there would hold nothing."""

    def __init__(self, guest: Guest) -> None:
        self._ram, self._layout = guest.vm.ram.view, guest.layout

    def __call__(self, gpa: int, size: int) -> bytes:
        """*size* bytes at *gpa*."""
        try:
            at = self._layout.gpa_to_ram(gpa)
        except ValueError:
            return b""
        return bytes(self._ram[at : at + size])


async def look_at_source(guest: Guest, sources: Sequence[Source], deadline: Deadline) -> Sighting:
    """What the source's registers and tables hold."""
    spis = [source.number for source in sources if LOCAL_INTIDS <= source.number < _FIRST_SPECIAL]
    gic = state_of(await look_at_gic(guest.vm, spis, deadline=deadline))
    held = held_in_registers(gic, sources) | held_in_tables(gic, Reader(guest), sources)
    return Sighting(witness="source", held=held, sees=SEES)


def held_in_memory(state: DeviceState, guest: Guest, sources: Sequence[Source]) -> frozenset[Held]:
    """LPIs that are pending in the memory of *guest*, in the tables that *state* names."""
    return gic_interrupts.held_in_memory(state, Reader(guest), sources)


def translations_of(state: DeviceState, guest: Guest) -> frozenset[Translation]:
    """What the ITS of *state* makes of events, by its tables in the memory of *guest*."""
    gic = read_gic(state)
    return translations(gic.its, Reader(guest)) if gic and gic.its else frozenset()


def state_of(view: GicView) -> GicState:
    """The same picture as a stream gives."""
    return GicState(
        pending=view.pending,
        active=view.active,
        enabled=view.enabled,
        redistributors=tuple(map(_redistributor, view.redistributors)),
        routes={intid: router & _AFFINITY_0 for intid, router in view.routers.items()},
        its=Its(
            is_on=bool(view.its_ctlr & 1),
            read_at=view.its_read_at,
            written_to=view.its_written_to,
            queue=view.its_queue,
            tables=tuple(table for table in view.its_tables if table & VALID),
        ),
    )


def _redistributor(view: RedistributorView) -> Redistributor:
    return Redistributor(
        vcpu=view.vcpu,
        pending=view.pending,
        active=view.active,
        enabled=view.enabled,
        lpis=tables_at(view.pendbaser, view.propbaser),
        lpis_are_on=bool(view.ctlr & ENABLE_LPIS),
        has_resident_vpe=bool(view.vpendbaser & VALID),
    )
