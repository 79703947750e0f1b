"""How the stream of one hop reaches its destination: directly, or through the relay that witnesses and errs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.cases.capture import stream_path
from harness.cases.interrupts.lpi_faults import aim_at_tables
from harness.cases.sealed_wire import SealedWire, open_sealed_wire
from harness.cases.settings import MigrationCaseSettings
from harness.cases.stage import Guest, Stage
from harness.checks.precondition import check_fault_applied
from harness.migration.driver import Moved
from harness.migration.relay import Endpoint, Relay
from harness.migration.relay.faults import CATALOGUE
from harness.migration.settings import Transport
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError
from harness.model.wire import TABLE_FAULTS, WireAccount, WireFault, WireFaultName
from harness.report.store import write_whole
from harness.vm.vm import Vm

_WIRE_S = 5.0
"""How long the wire may take to close after a completed migration."""

_TARGETS = 256
"""Candidates that a wire fault on pages chooses from."""


def sent_devices_path(stream: Path) -> Path:
    """Where the device sections lie as the source sent them, beside a captured *stream* that a fault may have touched.

    Only a replay wants them, so a disk that is full costs the replay one comparison and the case nothing.
    """
    return stream.with_name(f"{stream.stem}.devices.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How the stream of one hop reaches its destination."""

    uri: str
    """Where the source migrates to."""
    relay: Relay | None
    """Sees the source's own stream."""
    sealed: SealedWire | None = None
    """Both hosts' ends, for a protected guest."""

    @property
    def passed_on(self) -> Callable[[], int] | None:
        """Tells the bytes that have reached the destination's QEMU so far; None when nobody is there to count."""
        last = self.sealed.destination.relay if self.sealed else self.relay
        return (lambda: last.bytes_forwarded) if last else None


@asynccontextmanager
async def open_wire(
    stage: Stage, guest: Guest, destination: Vm, settings: MigrationCaseSettings, number: int
) -> AsyncIterator[Wire]:
    """The way to *destination*, which listens, with the relay before it when the case wants one."""
    uri = destination.listens_at
    if stage.shield:
        wire = open_sealed_wire(
            stage,
            stage.shield,
            guest.vm,
            destination,
            uri=uri,
            settings=settings,
            faults=await _aimed(stage, guest),
            name=str(number),
            record=stream_path(stage.folder, number) if stage.faults.wire or settings.record else None,
        )
        async with wire as sealed:
            yield Wire(uri=sealed.source.uri, relay=sealed.source.relay, sealed=sealed)
        return
    if not (settings.relay or stage.faults.wire):
        yield Wire(uri=uri, relay=None)
        return
    async with Relay(
        Endpoint.unix(stage.runtime / f"relay{number}") if settings.transport is Transport.UNIX else Endpoint.tcp(),
        Endpoint.parse(uri),
        faults=await _aimed(stage, guest),
        record=stream_path(stage.folder, number) if stage.faults.wire or settings.record else None,
        seed=stage.seed,
    ) as relay:
        yield Wire(uri=relay.listen.uri, relay=relay)


async def _aimed(stage: Stage, guest: Guest) -> tuple[WireFault, ...]:
    """The wire faults, those on pages aimed at pages that carry the pattern: what happened to them can be told."""
    if not stage.faults.wire:
        return ()
    rng = stage.seed.rng("wire-targets")
    pages = rng.sample(range(guest.description.managed_pages), k=min(_TARGETS, guest.description.managed_pages))
    targets = tuple(guest.layout.gpa_to_ram(guest.description.page_gpa(page)) for page in sorted(pages))
    faults = [replace(fault, targets=targets) if _wants_targets(fault) else fault for fault in stage.faults.wire]
    return tuple([await aim_at_tables(stage, guest, fault) for fault in faults])


def _wants_targets(fault: WireFault) -> bool:
    """Only main memory carries the pattern; in another block the relay chooses."""
    is_aimed = fault.targets or fault.block or fault.name in TABLE_FAULTS
    return CATALOGUE[fault.name].is_page_fault and not is_aimed


async def close_account(stage: Stage, relay: Relay, moved: Moved) -> WireAccount:
    """What the wire saw. Faults that never struck are an error, whatever else came out."""
    with contextlib.suppress(DeadlineError):
        await relay.wait(Deadline.after(_WIRE_S if moved.completed else 0.0))
    if not moved.completed:
        await relay.aclose()
    relay.check_ours()
    account = relay.account()
    if account.record_path and (tail := relay.sent_tail()):
        with contextlib.suppress(OSError):
            write_whole(sent_devices_path(Path(account.record_path)), tail)
    for note in account.notes:
        if note.startswith("recording"):
            stage.losses.note(Path(account.record_path or "stream").name, OSError(note))
    stage.events.emit("wire", "account", end=account.end, passes=account.passes, notes=account.notes)
    for fault in stage.faults.wire:
        struck = [applied for applied in account.faults if applied.name is fault.name]
        times = sum(applied.times for applied in struck if applied.is_harmful or fault.name is WireFaultName.SLOW)
        stage.notebook.judge("precondition", check_fault_applied(fault.name, times))
    return account
