"""Interrupts under way in a GICv3 or GICv4: lines and registers from its state, LPIs from tables in guest memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.migration.stream.gic_state import FIRST_LPI, LOCAL_INTIDS, GicState, LpiTables, read_gic
from harness.migration.stream.gic_tables import ReadMemory, pending_lpis, vpe_tables, waiting_events
from harness.model.device_state import DeviceState
from harness.model.interrupts import VPE, At, Held, Source, SourceKind

SEES = frozenset({At.PENDING, At.IN_SERVICE, At.QUEUED})
SOFTWARE_DEVICES = 0xF0
"""DeviceID of the first device that exists in the ITS alone (images/probe/arch/aarch64/irq_lpi.c)."""
ITS_KINDS = frozenset({SourceKind.ITS_LPI, SourceKind.ITS_VLPI})
VIRTUAL_KINDS = frozenset({SourceKind.VLPI, SourceKind.ITS_VLPI})


def held_on_wire(state: DeviceState, sources: Sequence[Source]) -> frozenset[Held]:
    """SGIs, PPIs and SPIs of *sources* that are pending or active in *state*. LPIs are in memory."""
    gic = read_gic(state)
    return held_in_registers(gic, sources) if gic else frozenset()


def held_in_memory(state: DeviceState, read: ReadMemory, sources: Sequence[Source]) -> frozenset[Held]:
    """LPIs and virtual LPIs that are pending in the tables that *state* names."""
    gic = read_gic(state)
    return held_in_tables(gic, read, sources) if gic else frozenset()


def held_in_registers(gic: GicState, sources: Sequence[Source]) -> frozenset[Held]:
    """What *gic* itself holds of *sources*."""
    return frozenset((*_local(gic, sources), *_shared(gic, sources)))


def held_in_tables(gic: GicState, read: ReadMemory, sources: Sequence[Source]) -> frozenset[Held]:
    """Every LPI that is pending in a table of *gic*; one that no source has counts by its INTID."""
    physical = {source.number: source.id for source in sources if source.kind not in VIRTUAL_KINDS}
    virtual = {source.number: source.id for source in sources if source.kind in VIRTUAL_KINDS}
    # The doorbell of a vPE is an LPI of the probe's own.
    last = max(physical, default=FIRST_LPI)
    held: set[Held] = set()
    for one in gic.redistributors:
        pending = _pending(one.lpis, read)
        held |= {Held(one.vcpu, physical.get(intid, intid), At.PENDING) for intid in pending if intid <= last}
    for tables in vpe_tables(gic.its, read) if gic.its else ():
        held |= {Held(VPE, virtual.get(intid, intid), At.PENDING) for intid in pending_lpis(tables, read)}
    waiting = waiting_events(gic.its, read) if gic.its else frozenset()
    return frozenset(held) | {
        Held(source.vcpu, source.id, At.QUEUED)
        for source in sources
        if source.kind in ITS_KINDS and (SOFTWARE_DEVICES + (source.line >> 8), source.line & 0xFF) in waiting
    }


def _pending(tables: LpiTables | None, read: ReadMemory) -> frozenset[int]:
    return pending_lpis(tables, read) if tables else frozenset()


def _local(gic: GicState, sources: Sequence[Source]) -> Iterator[Held]:
    """SGIs and PPIs of every vCPU, also where no source is meant for it."""
    own = {(source.vcpu, source.number): source.id for source in sources if source.number < LOCAL_INTIDS}
    by_intid = {intid: source_id for (_, intid), source_id in own.items()}
    for one in gic.redistributors:
        for intid, somebody in by_intid.items():
            for bits, at in ((one.pending, At.PENDING), (one.active, At.IN_SERVICE)):
                if bits >> intid & 1:
                    yield Held(one.vcpu, own.get((one.vcpu, intid), somebody), at)


def _shared(gic: GicState, sources: Sequence[Source]) -> Iterator[Held]:
    for source in sources:
        if not LOCAL_INTIDS <= source.number < FIRST_LPI:
            continue
        for bits, at in ((gic.pending, At.PENDING), (gic.active, At.IN_SERVICE)):
            if bits >> source.number & 1:
                yield Held(gic.routes.get(source.number, source.vcpu), source.id, at)
