"""The wire of a protected guest: both hosts' ends, and between them what errs, when that was asked for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.cases.settings import MigrationCaseSettings
from harness.cases.shield import Shield
from harness.cases.stage import Stage
from harness.migration.relay import Endpoint
from harness.migration.sealed.guest import Refusal
from harness.migration.sealed.sides import (
    DestinationSide,
    PacketFaults,
    SourceSide,
    open_destination_side,
    open_packet_faults,
    open_source_side,
)
from harness.migration.settings import Transport
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError
from harness.model.soft_fault import SOFT_FAULTS, Owner
from harness.model.wire import WireFault
from harness.vm.vm import Vm

_WIRE_S = 5.0
"""How long the wire may take to close after a completed migration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedWire:
    """Both ends, open."""

    source: SourceSide
    destination: DestinationSide
    between: PacketFaults | None = None
    """What errs between the hosts."""

    async def settled(self) -> None:
        """Wait until the destination's end has seen all that came.

        QEMU has loaded the guest a moment before its own end of the wire has counted the last record.
        """
        with contextlib.suppress(DeadlineError):
            await self.destination.relay.wait(Deadline.after(_WIRE_S))

    def check_ours(self) -> None:
        """Raise HarnessError when an end broke by a mistake of ours: that says nothing about the product."""
        relays = (self.source.relay, self.source.sealing, self.destination.relay)
        for relay in (*relays, *((self.between.relay,) if self.between else ())):
            relay.check_ours()

    def refusals(self) -> tuple[Refusal, ...]:
        """Why an end closed the connection."""
        return (*self.source.sealer.refusals, *self.destination.refusals())


@asynccontextmanager
async def open_sealed_wire(
    stage: Stage,
    shield: Shield,
    source: Vm,
    destination: Vm,
    *,
    uri: str,
    settings: MigrationCaseSettings,
    faults: tuple[WireFault, ...],
    name: str,
    record: Path | None,
) -> AsyncIterator[SealedWire]:
    """*uri* is where the destination's QEMU listens; *faults* strike the source's own stream.

    *name* tells the sockets of this wire from others; *record* keeps what reaches the other host.
    """

    def listen(part: str) -> Endpoint:
        is_unix = settings.transport is Transport.UNIX
        return Endpoint.unix(stage.runtime / f"{part}{name}") if is_unix else Endpoint.tcp()

    leaving, arriving = shield.of(source), shield.of(destination)
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(
            open_destination_side(
                arriving.protection,
                listen=listen("host"),
                connect=Endpoint.parse(uri),
                private_seed=stage.pattern_seed,
            )
        )
        between = None
        if on_the_wire := sorted(fault for fault in shield.faults if SOFT_FAULTS[fault].owner is Owner.WIRE):
            erring = open_packet_faults(
                on_the_wire, listen=listen("wire"), connect=Endpoint.parse(behind.uri), seed=stage.seed, record=record
            )
            between = await stack.enter_async_context(erring)
        front = await stack.enter_async_context(
            open_source_side(
                leaving.protection,
                arriving.platform.certificates(),
                listen=listen("relay"),
                connect=Endpoint.parse(between.uri if between else behind.uri),
                seed=stage.seed,
                soft_faults=shield.faults,
                wire_faults=faults,
                fault_listen=listen("errs"),
                record=None if between else record,
            )
        )
        yield SealedWire(source=front, destination=behind, between=between)
