"""The wire of a protected guest: both hosts' ends, and between them what errs, when that was asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.cases.settings import MigrationCaseSettings
from harness.cases.shield import Shield
from harness.cases.stage import Stage
from harness.migration.relay import Endpoint
from harness.migration.sealed.sides import (
    DestinationSide,
    SourceSide,
    open_destination_side,
    open_source_side,
)
from harness.migration.settings import Transport
from harness.model.wire import WireFault
from harness.vm.vm import Vm


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedWire:
    """Both ends, open."""

    source: SourceSide
    destination: DestinationSide


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

    *name* tells the sockets of this wire from others; *record* keeps what goes from host to host.
    """

    def listen(part: str) -> Endpoint:
        is_unix = settings.transport is Transport.UNIX
        return Endpoint.unix(stage.runtime / f"{part}{name}") if is_unix else Endpoint.tcp()

    leaving, arriving = shield.of(source), shield.of(destination)
    async with (
        open_destination_side(
            arriving.protection,
            listen=listen("host"),
            connect=Endpoint.parse(uri),
            private_seed=stage.seed.sub("pattern"),
        ) as behind,
        open_source_side(
            leaving.protection,
            arriving.platform.certificates(),
            listen=listen("relay"),
            connect=Endpoint.parse(behind.uri),
            seed=stage.seed,
            soft_faults=shield.faults,
            wire_faults=faults,
            fault_listen=listen("errs"),
            record=record,
        ) as front,
    ):
        yield SealedWire(source=front, destination=behind)
