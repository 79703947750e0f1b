"""What one stream says of everything but main memory: the small RAM blocks and the devices.

Collected while the stream passes, at no cost for main memory's pages. Two of them are comparable: the stream that a
destination was loaded from, and the destination's own save.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.migration.stream.blocks import BlockContents
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import Configuration, Element, Tail
from harness.migration.stream.parser import StreamParser
from harness.model.device_state import DeviceState
from harness.model.errors import StreamError
from harness.model.machine import MAIN_RAM_IDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state beside main memory."""

    blocks: Mapping[str, bytes] = field(repr=False)
    """Content of each small RAM block by name."""
    devices: DeviceState

    @classmethod
    def of(cls, data: bytes | memoryview) -> Snapshot:
        """The snapshot of a whole stream. Raises StreamError."""
        collector, parser = SnapshotCollector(), StreamParser()
        for element in [*parser.feed(data), *parser.close()]:
            collector.add(element)
        return collector.snapshot()


class SnapshotCollector:
    """Feed it every element of a stream."""

    def __init__(self) -> None:
        self._blocks = BlockContents(without=MAIN_RAM_IDS)
        self._machine = ""
        self._tail: Tail | None = None
        self._damage = ""

    def add(self, element: Element) -> None:
        """Take one element. What cannot be understood is told by :meth:`snapshot`, not raised: nobody waits here."""
        match element:
            case Configuration():
                self._machine = element.machine
            case Tail():
                self._tail = element
            case _ if not self._damage:
                self._take(element)

    @property
    def tail_bytes(self) -> bytes:
        """The device sections as they came; empty before their end was seen."""
        return self._tail.data if self._tail else b""

    def snapshot(self) -> Snapshot:
        """What was collected. Raises StreamError when a block or the devices cannot be decoded."""
        if self._damage:
            raise StreamError(self._damage, offset=0)
        devices = DeviceState(machine=self._machine, note="the stream ended before the devices")
        if self._tail is not None:
            devices = decode_tail(self._tail, machine=self._machine)
        return Snapshot(blocks=self._blocks.contents(), devices=devices)

    def _take(self, element: Element) -> None:
        try:
            self._blocks.add(element)
        except StreamError as error:
            self._damage = str(error)
