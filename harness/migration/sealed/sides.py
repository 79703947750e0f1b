"""Assembles the wire between two hosts: source side -> [what errs between them] -> destination side.

Each side knows its own guest's platform and nothing of the other's but what comes by its socket, so the two may run in
different processes, or on different machines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.confidential.soft.processor.guest_context import SendTarget
from harness.confidential.soft.processor.ring_buffer import WINDOW_PAGES
from harness.migration.relay import Endpoint, Relay
from harness.migration.sealed.guest import IncomingGuest, OutgoingGuest, Refusal
from harness.migration.sealed.opener import Opener
from harness.migration.sealed.packet_faults import PacketFaultEditor
from harness.migration.sealed.records import RECORDS, SealedReader
from harness.migration.sealed.sealer import Sealer
from harness.migration.sealed.tap import Tap
from harness.migration.stream.parser import StreamParser
from harness.model.protection import SealedRecords
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault
from harness.model.wire import WireFault


def sealed_parser() -> StreamParser:
    """A parser of what passes between two hosts."""
    return StreamParser(ram_records=RECORDS, ram_readers=(SealedReader(),))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSide:
    """The source host's end, open."""

    uri: str
    """What QEMU migrates to."""
    relay: Relay
    """Sees QEMU's own stream: snapshot, page counts, account."""
    sealing: Relay
    """Sends to the other host; the same as *relay* unless faults strike QEMU's own stream."""
    sealer: Sealer


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationSide:
    """The destination host's end, open."""

    uri: str
    """What the source side connects to."""
    relay: Relay
    opener: Opener
    tap: Tap
    parser: StreamParser

    def records(self) -> SealedRecords:
        """What was seen on the wire so far."""
        return self.tap.records(self.parser.unknown_flags)

    def refusals(self) -> tuple[Refusal, ...]:
        """Why this side closed the connection, when it did."""
        error = self.relay.error
        broken = [Refusal(is_source=False, reason=str(error))] if error else []
        return (*self.opener.refusals, *broken)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacketFaults:
    """What errs between the sides, open."""

    uri: str
    """What the source side connects to."""
    relay: Relay
    editor: PacketFaultEditor


@asynccontextmanager
async def open_packet_faults(
    faults: Sequence[SoftFault], *, listen: Endpoint, connect: Endpoint, seed: Seed, record: Path | None = None
) -> AsyncIterator[PacketFaults]:
    """A relay between the two sides that does to packets what *faults* say. Raises SetupError as Relay."""
    editor = PacketFaultEditor(faults, seed)
    async with Relay(listen, connect, record=record, editor=editor, parser=sealed_parser()) as relay:
        yield PacketFaults(uri=relay.listen.uri, relay=relay, editor=editor)


@asynccontextmanager
async def open_source_side(
    guest: OutgoingGuest,
    target: SendTarget,
    *,
    listen: Endpoint,
    connect: Endpoint,
    seed: Seed,
    soft_faults: frozenset[SoftFault] = frozenset(),
    wire_faults: Sequence[WireFault] = (),
    fault_listen: Endpoint | None = None,
    record: Path | None = None,
    window_pages: int = WINDOW_PAGES,
) -> AsyncIterator[SourceSide]:
    """Listen for QEMU on *listen*, send to *connect*.

    *wire_faults* strike QEMU's own stream, in a relay of their own that listens on *fault_listen*. *record* keeps what
    goes to the other host. Raises SetupError as Relay.
    """
    sealer = Sealer(guest, target, seed=seed, faults=soft_faults, window_pages=window_pages)
    async with AsyncExitStack() as stack:
        sealing = await stack.enter_async_context(Relay(listen, connect, record=record, seed=seed, editor=sealer))
        relay = sealing
        if wire_faults:
            front = Relay(fault_listen or Endpoint.tcp(), sealing.listen, faults=wire_faults, seed=seed)
            relay = await stack.enter_async_context(front)
        yield SourceSide(uri=relay.listen.uri, relay=relay, sealing=sealing, sealer=sealer)


@asynccontextmanager
async def open_destination_side(
    guest: IncomingGuest,
    *,
    listen: Endpoint,
    connect: Endpoint,
    private_seed: int | None = None,
    record: Path | None = None,
) -> AsyncIterator[DestinationSide]:
    """Listen for the other host on *listen*, give QEMU at *connect* what it understands.

    *private_seed*: see Tap. Raises SetupError as Relay.
    """
    parser, tap = sealed_parser(), Tap(private_seed=private_seed, is_es=guest.flavour.is_es)
    opener = Opener(guest, tap=tap)
    async with Relay(listen, connect, record=record, editor=opener, parser=parser) as relay:
        yield DestinationSide(uri=relay.listen.uri, relay=relay, opener=opener, tap=tap, parser=parser)
