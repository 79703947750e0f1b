"""Tells what is in a captured stream: what ``cvmig stream inspect FILE`` prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.migration.sealed.records import SealedReader
from harness.migration.sealed.survey import SealedCounts
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import (
    Command,
    Configuration,
    Element,
    Opaque,
    RamBlockList,
    Tail,
    VendorRecords,
)
from harness.migration.stream.format import CommandCode
from harness.migration.stream.ledger import PageLedger
from harness.migration.stream.parser import StreamParser
from harness.model.device_state import DeviceState
from harness.model.errors import SetupError, StreamError
from harness.model.memory import PAGE_SIZE
from harness.model.wire import SectionSummary, StreamSummary

CHUNK_BYTES = 1 << 20


def summarise(source: Path | bytes) -> StreamSummary:
    """Read a captured stream. Damage is in the summary, with all that could be read before it.

    Raises SetupError when the file cannot be read.
    """
    return survey(source)[0]


def survey(source: Path | bytes) -> tuple[StreamSummary, DeviceState]:
    """As :func:`summarise`, with the devices field by field. Memory stays bounded, however large the file is."""
    found = _Survey()
    try:
        for chunk in _chunks(source):
            found.feed(chunk)
        found.close()
    except StreamError as error:
        found.damage = error
    except OSError as error:
        hint = "give a file that the relay recorded"
        raise SetupError(f"cannot read the stream: {error.strerror}: {error.filename}", hint=hint) from error
    return found.summary(), found.devices


def lines(summary: StreamSummary) -> list[str]:
    """The summary for people, one fact per line."""
    text = [f"machine       {summary.machine or 'not sent'}", f"size          {summary.size_bytes} bytes"]
    if summary.capabilities:
        text.append(f"capabilities  {', '.join(summary.capabilities)}")
    text += [f"command       {command}" for command in summary.commands]
    text += _ram_lines(summary)
    if summary.sealed_records:
        counts = ", ".join(f"{name} {count}" for name, count in summary.sealed_records)
        text.append(f"protected     {counts}; blocks count plain records only")
    text += _device_lines(summary)
    text += [f"warning       {warning}" for warning in summary.warnings]
    text.append(_verdict_line(summary))
    return text


def _verdict_line(summary: StreamSummary) -> str:
    if summary.damage:
        return f"damage        {summary.damage}"
    if summary.devices:
        return "complete      every byte is accounted for"
    return "complete      as far as can be told without a description of the devices"


def _ram_lines(summary: StreamSummary) -> Iterator[str]:
    per_pass = ", ".join(map(str, summary.records_per_pass))
    yield f"passes        {summary.passes} ({per_pass} page records)" if summary.passes else "passes        none"
    for block in summary.blocks:
        deltas = f", {block.delta_records} deltas" if block.delta_records else ""
        yield (
            f"block         {block.name}: {block.pages} pages ({_size(block.pages)}), "
            f"{block.pages_sent} sent, {block.pages_resent} resent"
            f" ({block.data_records} data, {block.zero_records} zero{deltas})"
        )


def _size(pages: int) -> str:
    """*pages* of 4 KiB for people: the largest unit that divides them."""
    return f"{pages >> 8} MiB" if pages % 256 == 0 else f"{pages * (PAGE_SIZE >> 10)} KiB"


def _device_lines(summary: StreamSummary) -> Iterator[str]:
    for device in summary.devices:
        subsections = f", with {', '.join(device.subsections)}" if device.subsections else ""
        yield (
            f"device        {device.label}: version {device.version}, {device.fields} fields, "
            f"{device.size_bytes} bytes at {device.offset:#x}{subsections}"
        )


def _chunks(source: Path | bytes) -> Iterator[bytes | memoryview]:
    if isinstance(source, bytes):
        view = memoryview(source)
        yield from (view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES))
        return
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class _Survey:
    """Collects what elements tell."""

    def __init__(self) -> None:
        self.damage: StreamError | None = None
        self._parser = StreamParser(ram_readers=(SealedReader(),))
        self._sealed = SealedCounts()
        self._ledger = PageLedger()
        self._size_bytes = 0
        self._configuration = Configuration(machine="")
        self._commands: list[str] = []
        self._warnings: dict[str, None] = {}
        self.devices = DeviceState(machine="")

    def feed(self, chunk: bytes | memoryview) -> None:
        self._size_bytes += len(chunk)
        try:
            self._parser.feed(chunk)
        finally:
            self._add(self._parser.salvaged)

    def close(self) -> None:
        self._add(self._parser.close())

    def summary(self) -> StreamSummary:
        return StreamSummary(
            size_bytes=self._size_bytes,
            machine=self._configuration.machine,
            capabilities=self._configuration.capabilities,
            blocks=self._ledger.accounts(),
            passes=len(self._ledger.records_per_pass),
            records_per_pass=tuple(self._ledger.records_per_pass),
            sealed_records=self._sealed.counts(),
            commands=tuple(self._commands),
            devices=tuple(
                SectionSummary(
                    label=device.label,
                    version=device.version,
                    fields=len(device.fields),
                    subsections=device.subsections,
                    offset=device.offset,
                    size_bytes=device.size_bytes,
                )
                for device in self.devices.devices
            ),
            warnings=tuple(self._warnings),
            damage="" if self.damage is None else str(self.damage),
            damage_offset=None if self.damage is None else self.damage.offset,
        )

    def _add(self, elements: list[Element]) -> None:
        for element in elements:
            self._ledger.add(element)
            self._tell(element)

    def _tell(self, element: Element) -> None:
        match element:
            case Configuration():
                self._configuration = element
            case VendorRecords():
                self._sealed.add(element)
            case Command():
                self._commands.append(_command(element))
            case RamBlockList() if any(block.gpa is not None for block in element.blocks):
                self._warn("shared RAM blocks are left out (x-ignore-shared)")
            case Opaque():
                self._warn(f"not decoded from there on: {element.reason}")
            case Tail():
                self.devices = decode_tail(element)
                self._warn(element.note)

    def _warn(self, text: str) -> None:
        if text:
            self._warnings[text] = None


def _command(command: Command) -> str:
    name = CommandCode(command.code).name
    if command.code == CommandCode.PING:
        return f"{name} {int.from_bytes(command.payload, 'big'):#x}"
    return f"{name} of {len(command.packaged)} bytes" if command.packaged else name
