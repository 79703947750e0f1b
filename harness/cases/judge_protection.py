"""What a protected move has to show beside its memory: session, wire, page map, vCPU state, pins, the guest's word.

Everything here hands evidence to checks. Evidence of the moment of switch-over is taken while both sides stand still.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.cases.map_witness import cvm_page_of, in_flight_pages, maps_at_stop
from harness.cases.protection_settings import ProtectionSettings
from harness.cases.sealed_wire import SealedWire
from harness.cases.shield import Shielded
from harness.cases.stage import Guest, Stage
from harness.checks import (
    guest_protection,
    host_pins,
    page_map_blocks,
    session,
    session_packets,
    vcpu_protection,
    wire_records,
    wire_secrecy,
)
from harness.checks.handshake import CHECK as HANDSHAKE
from harness.checks.handshake import check_handshake
from harness.checks.page_map import HYPERCALLS, LIST, VIEWS, check_hypercalls, check_shared_list, check_views
from harness.checks.precondition import check_fault_applied
from harness.checks.protection_preconditions import check_around_hole, check_both_kinds, check_converted
from harness.confidential.soft.memory.firmware import FIRMWARE_BLOCKS
from harness.confidential.soft.processor.status import CommandRefusedError
from harness.migration.driver import Moved
from harness.model.errors import BlockedError, LostError
from harness.model.map_strip import map_strip
from harness.model.page_set import PageSet
from harness.model.protection import AttemptEnd, ConversionsInMove, SealedRecords, SessionEvidence
from harness.model.session_sequence import sequence_of
from harness.model.verdict import Verdict
from harness.vm.commandline import RAM_ID
from harness.vm.vm import Vm

PRECONDITION = "precondition"
_MMIO_READS = 8
"""Of each vCPU, at once after it runs again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A protected guest on its way: both hosts, and where their logs stood when it left."""

    source: Shielded
    destination: Shielded
    commands_before: int
    conversions_before: int
    title: str
    forbidden_by: str
    """What in the guest's policy forbids to send it there; empty when it may be sent."""


def begin_crossing(stage: Stage, guest: Guest, destination: Vm, *, title: str) -> Crossing | None:
    """Ask the source's host whether the guest may go; None for a guest that is not protected.

    BlockedError with the host's reasons when it may not.
    """
    shield = stage.shield
    if shield is None:
        return None
    source, arriving = shield.of(guest.vm), shield.of(destination)
    reasons = source.protection.ask_to_migrate()
    before = source.protection.snapshot()
    has_arrived = session.succeeded(before.commands, "receive-finish") > 0
    stage.notebook.judge(HANDSHAKE, check_handshake(before.handshake, is_ready=has_arrived))
    if reasons and shield.settings.heeds_blocker:
        hint = "the guest has not said READY: see its console for SevLiveMigrationEnabled"
        raise BlockedError(f"{guest.vm.role}: {'; '.join(reasons)}", hint=hint)
    if whereabouts := source.protection.whereabouts:
        arriving.protection.know(whereabouts)
    return Crossing(
        source=source,
        destination=arriving,
        commands_before=len(before.commands),
        conversions_before=len(before.conversions),
        title=title,
        forbidden_by=shield.settings.forbidden_by,
    )


async def give_up(stage: Stage, guest: Guest, crossing: Crossing, wire: SealedWire | None, moved: Moved) -> None:
    """The attempt came to nothing: SEND_CANCEL, and a word on who refused what.

    Raises BlockedError when the guest's policy is the reason, LostError where QEMU of the series would have aborted.
    """
    if wire:
        await wire.source.relay.aclose()
        wire.check_ours()
        if wire.source.sealer.abort:
            await guest.vm.kill()
            raise LostError(f"src: QEMU of the series aborts: {wire.source.sealer.abort}", hint="class B30")
    crossing.source.protection.send_cancel()
    end = AttemptEnd.CANCELLED if moved.end.source.status == "cancelled" else AttemptEnd.FAILED
    notebook, evidence = stage.notebook, _session(crossing, end)
    notebook.sessions.append(sequence_of(evidence, title=f"{crossing.title}, {end}"))
    notebook.judge(host_pins.CHECK, host_pins.check_pins(crossing.source.protection.snapshot(), role="source"))
    found = session.check_session(evidence)
    if found and all(item.verdict is Verdict.BLOCKED for item in found):
        raise BlockedError(f"{found[0].where}: {found[0].detail}", hint=found[0].remedy)
    notebook.judge(session.CHECK, found)
    notebook.judge(session_packets.CHECK, session_packets.check_packets(evidence, crossing.source.addresses))
    if wire and wire.destination.records().is_whole:
        judge_wire(stage, guest, crossing, wire)
    elif wire:
        refused = [item.reason for item in wire.refusals() if not item.status]
        broken_off = wire_records.check_broken_off(wire.destination.records(), refused)
        notebook.judge(wire_records.CHECK, broken_off)
        _judge_struck(stage, wire)


def settle(crossing: Crossing) -> int:
    """SEND_FINISH here, RECEIVE_FINISH there: what came as the wrong kind becomes what silicon makes of it."""
    crossing.source.protection.send_finish()
    return crossing.destination.protection.receive_finish()


def judge_wire(stage: Stage, guest: Guest, crossing: Crossing, wire: SealedWire) -> None:
    """What went from host to host, before anybody asks whether it could be loaded."""
    wire.check_ours()
    notebook, addresses = stage.notebook, crossing.source.addresses
    attempt, records = _session(crossing, AttemptEnd.COMPLETED), wire.destination.records()
    notebook.wires.append(records)
    sealed = session.succeeded(attempt.source, "send-update-data")
    notebook.judge(wire_records.CHECK, wire_records.check_records(records, sealed_pages=sealed))
    final = crossing.source.protection.snapshot().page_map
    in_flight = in_flight_pages(cvm_page_of(guest, guest.vm), addresses)
    coverage = wire_records.check_coverage(records, final, addresses, in_flight=in_flight)
    notebook.judge(wire_records.CHECK, coverage)
    notebook.judge(wire_secrecy.CHECK, wire_secrecy.check_secrecy(records))
    notebook.judge(page_map_blocks.CHECK, page_map_blocks.check_block_kinds(_block_records(records)))
    notebook.judge(session_packets.CHECK, session_packets.check_packets(attempt, addresses))
    notebook.judge(PRECONDITION, check_both_kinds(records))
    _judge_struck(stage, wire)


def judge_crossing(stage: Stage, guest: Guest, crossing: Crossing) -> None:
    """Map, vCPU state and pins, while both sides stand still."""
    notebook = stage.notebook
    sent, held = crossing.source.protection.snapshot(), crossing.destination.protection.snapshot()
    addresses, said = crossing.source.addresses, cvm_page_of(guest, guest.vm)
    stage.events.emit("guest", "at stop", converting=[f"{item.step.name} {item.range}" for item in said.in_flight])
    evidence = maps_at_stop(crossing.source, crossing.destination, sent=sent, held=held, said=said)
    notebook.judge(VIEWS, check_views(evidence))
    notebook.judge(LIST, [*check_shared_list(sent.entries), *check_shared_list(held.entries)])
    notebook.judge(HYPERCALLS, check_hypercalls(sent.conversions))
    notebook.map_strips.append(map_strip(evidence, title=crossing.title))
    notebook.judge(host_pins.CHECK, host_pins.check_pins(sent, role="source"))
    notebook.judge(host_pins.CHECK, host_pins.check_pins(held, role="destination"))
    if stage.shield and stage.shield.flavour.is_es:
        notebook.judge(vcpu_protection.VMSA, vcpu_protection.check_vmsa(sent.vcpus, held.vcpus))
        notebook.judge(vcpu_protection.AUX, vcpu_protection.check_aux(sent.vcpus, held.vcpus))
        notebook.judge(vcpu_protection.GHCB, vcpu_protection.check_ghcb(sent.vcpus, held.vcpus))
        ghcbs = vcpu_protection.check_ghcb_is_shared(sent.vcpus, sent.page_map, addresses)
        notebook.judge(vcpu_protection.GHCB, ghcbs)


def judge_conversions(stage: Stage, crossing: Crossing, wire: SealedWire, settings: ProtectionSettings) -> None:
    """Whether memory was converted while it was moved, where the case asks for conversions."""
    if not settings.conversions_per_tick:
        return
    sent = crossing.source.protection.snapshot()
    log = sent.conversions[crossing.conversions_before :]
    addresses, touched = crossing.source.addresses, PageSet.empty()
    if len(addresses.windows) > 1:
        stage.notebook.judge(PRECONDITION, check_around_hole(sent.page_map, addresses))
    done = [call for call in log if call.took_effect]
    for call in done:
        touched |= addresses.to_ram(call.gfns)[0]
    times = wire.source.relay.page_counts(RAM_ID)
    resent = int((times[np.flatnonzero(touched.holds(np.arange(len(times), dtype=np.uint64)))] > 1).sum())
    to_private = sum(call.is_private for call in done)
    move = ConversionsInMove(to_shared=len(done) - to_private, to_private=to_private, of_sent_pages=resent)
    stage.events.emit("guest", "converted", to_shared=move.to_shared, to_private=move.to_private, resent=resent)
    stage.notebook.judge(PRECONDITION, check_converted(move))


async def judge_arrival(stage: Stage, guest: Guest, crossing: Crossing, wire: SealedWire) -> None:
    """What the guest does at once where it runs now, and that its source does not run any more."""
    counted = cvm_page_of(guest, guest.vm).counters
    errands = await guest.confidential.errands(deadline=stage.deadline, reads=_MMIO_READS)
    during = cvm_page_of(guest, guest.vm).counters.since(counted)
    vcpus = cvm_page_of(guest, guest.vm).online_mask.bit_count()
    notebook = stage.notebook
    if crossing.source.protection.flavour.is_es:
        found = guest_protection.check_errands(errands, vcpus=vcpus, reads=_MMIO_READS, during=during)
        notebook.judge(guest_protection.ERRANDS, found)
    is_running_twice = may_source_run(crossing)
    stage.events.emit("src", "asked to run", refused=not is_running_twice)
    evidence = _session(crossing, AttemptEnd.COMPLETED)
    notebook.judge(session.CHECK, session.check_session(evidence))
    notebook.sessions.append(sequence_of(evidence, wire.destination.records(), title=crossing.title))


def may_source_run(crossing: Crossing) -> bool:
    """Try to run the guest where it was sent from. Every sane processor refuses."""
    try:
        crossing.source.protection.run()
    except CommandRefusedError:
        return False
    return True


def _block_records(records: SealedRecords) -> list[page_map_blocks.BlockRecords]:
    return [
        page_map_blocks.BlockRecords(
            block=item.block,
            private_pages=item.packet_pages,
            shared_pages=item.plain_pages,
            is_launch_encrypted=item.block in FIRMWARE_BLOCKS,
        )
        for item in records.blocks
    ]


def _judge_struck(stage: Stage, wire: SealedWire) -> None:
    """A fault between the hosts that never struck proves nothing."""
    for struck in wire.between.editor.struck() if wire.between else ():
        stage.notebook.judge(PRECONDITION, check_fault_applied(struck.name, struck.times))


def _session(crossing: Crossing, end: AttemptEnd) -> SessionEvidence:
    sent, held = crossing.source.protection.snapshot(), crossing.destination.protection.snapshot()
    return SessionEvidence(
        end=end,
        source=sent.commands[crossing.commands_before :],
        destination=held.commands,
        source_state=sent.state,
        destination_state=held.state,
        es_vcpus=len(sent.vcpus) if crossing.source.protection.flavour.is_es else 0,
        forbidden_by=crossing.forbidden_by,
    )
