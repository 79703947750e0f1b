"""Aims faults at pending tables: which bits of which pages of guest memory they change on their way."""

from __future__ import annotations

from dataclasses import replace

from harness.cases.interrupts.arm_monitor import Reader, state_of
from harness.cases.stage import Guest, Stage
from harness.migration.stream.gic_state import GicState, LpiTables
from harness.migration.stream.gic_tables import ReadMemory, collection_gpa, pending_lpis, translations, vpe_tables
from harness.model.machine import Arch
from harness.model.memory import PAGE_SIZE
from harness.model.wire import TABLE_FAULTS, TableBit, WireFault
from harness.model.wire import WireFaultName as Name
from harness.vm.monitor_gic import look_at_gic


async def aim_at_tables(stage: Stage, guest: Guest, fault: WireFault) -> WireFault:
    """*fault* with what it is to change; unchanged when it is none of these, or nothing is there to change."""
    if fault.name not in TABLE_FAULTS or guest.vm.spec.arch is not Arch.AARCH64:
        return fault
    gic, read = state_of(await look_at_gic(guest.vm, (), deadline=stage.deadline)), Reader(guest)
    wrong = fault.name is Name.ITS_WRONG_COLLECTION
    found = sorted(_other_collections(gic, read) if wrong else _candidates(fault.name, gic, read))
    if not found:
        return fault
    changes = stage.seed.rng("lpi-fault", fault.name).choice(found)
    bits = tuple(_bit(guest, gpa, bit, is_set=is_set) for gpa, bit, is_set in changes)
    return replace(fault, bits=bits)


Change = tuple[int, int, bool]
"""Table, bit from its start (in a pending table the INTID), whether it is set or cleared."""


def _other_collections(gic: GicState, read: ReadMemory) -> list[tuple[Change, ...]]:
    """Of LPIs that are not pending: the probe's collections are numbered as its vCPUs, neighbours differ in one bit."""
    if gic.its is None:
        return []
    pending = {one.vcpu: pending_lpis(one.lpis, read) for one in gic.redistributors if one.lpis}
    return [
        ((collection_gpa(gic.its, read, one.device, one.event), 0, not one.vcpu & 1),)
        for one in translations(gic.its, read)
        if not one.is_virtual and one.vcpu ^ 1 in pending and one.intid not in pending[one.vcpu]
    ]


def _candidates(name: Name, gic: GicState, read: ReadMemory) -> list[tuple[Change, ...]]:
    tables = [one.lpis for one in gic.redistributors if one.lpis]
    virtual = list(vpe_tables(gic.its, read)) if gic.its else []
    pending = {one.pending_gpa: _mapped_and_pending(gic, one, read) for one in (*tables, *virtual)}
    if name is Name.LPI_CLEAR:
        return [((gpa, intid, False),) for gpa, intids in pending.items() for intid in intids]
    if name is Name.LPI_WRONG_VCPU:
        return [
            ((one.pending_gpa, intid, False), (other.pending_gpa, intid, True))
            for one in tables
            for other in tables
            for intid in pending[one.pending_gpa] - pending[other.pending_gpa]
        ]
    mapped = translations(gic.its, read) if gic.its else ()
    return [
        ((one.lpis.pending_gpa, entry.intid, True),)
        for entry in mapped
        for one in gic.redistributors
        if one.lpis and one.vcpu == entry.vcpu and not entry.is_virtual
        if entry.intid not in pending[one.lpis.pending_gpa]
    ]


def _mapped_and_pending(gic: GicState, tables: LpiTables, read: ReadMemory) -> frozenset[int]:
    """A vPE's doorbell is pending too, and nobody's interrupt."""
    mapped = {entry.intid for entry in translations(gic.its, read)} if gic.its else set()
    return pending_lpis(tables, read) & mapped


def _bit(guest: Guest, table_gpa: int, bit: int, *, is_set: bool) -> TableBit:
    ram_addr = guest.layout.gpa_to_ram(table_gpa + bit // 8)
    return TableBit(page=ram_addr & -PAGE_SIZE, bit=ram_addr % PAGE_SIZE * 8 + bit % 8, is_set=is_set)
