"""What the relay sends instead of what it received: the faults of one stream, applied to its elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.migration.relay.device_editor import DeviceEditor
from harness.migration.relay.page_editor import Buffers, PageEditor
from harness.migration.stream.elements import Element, Header, RamBlockList, RamPages, Tail, TailPiece
from harness.migration.stream.writer import encode
from harness.model.memory import PAGE_SIZE
from harness.model.seed import Seed
from harness.model.wire import AppliedFault, WireFault
from harness.model.wire import WireFaultName as Name

POINT_FAULTS = frozenset({Name.TRUNCATE, Name.STALL, Name.CUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """What to send for one element, and the point fault that strikes behind it."""

    buffers: Buffers
    strike: Name | None = None
    pause_s: float = 0.0
    """How long a slow maker of them takes: waited for before they are sent."""


class EditorRefusedError(Exception):
    """An editor does not go on with this stream: the relay closes both sides, and the account says why."""


class Editor(Protocol):
    """Says what to send for each element. Called by one thread only."""

    @property
    def is_holding(self) -> bool:
        """True while something is held back that :meth:`release` gives when nothing more comes."""
        ...

    def release(self) -> bytes:
        """Give up waiting."""
        ...

    def edit(self, element: Element) -> Edited:
        """What to send for *element*. Raises EditorRefusedError, and StreamError for what is no stream."""
        ...

    def applied(self) -> tuple[AppliedFault, ...]:
        """What each of its faults did."""
        ...


class StreamEditor:
    """All faults of one stream that work on its content. Slow is none of them: it is the pump's."""

    def __init__(self, faults: Sequence[WireFault], seed: Seed) -> None:
        self._pages = PageEditor(faults, seed)
        self._devices = DeviceEditor(faults, seed)
        self._header_faults = [fault for fault in faults if fault.name == Name.CORRUPT_HEADER]
        self._points = [_Point(fault, seed) for fault in faults if fault.name in POINT_FAULTS]
        self._seed = seed
        self._header_detail = ""

    @property
    def is_holding(self) -> bool:
        """True while device sections are held back."""
        return self._devices.is_holding

    def release(self) -> bytes:
        """Give up waiting for the description of the devices."""
        return self._devices.release()

    def edit(self, element: Element) -> Edited:
        """The bytes to send for *element*."""
        match element:
            case Header() if self._header_faults:
                return Edited(buffers=[self._corrupt_header(encode(element))])
            case TailPiece(data=data) if self._devices.is_wanted:
                self._devices.hold(data)
                return Edited(buffers=[])
            case Tail() if self._devices.is_wanted:
                return Edited(buffers=[self._devices.finish(element)])
            case TailPiece(data=data):
                return Edited(buffers=[data])
            case RamBlockList():
                self._aim(element)
            case RamPages():
                return self._strike(element)
        return Edited(buffers=self._pages.edit(element))

    def applied(self) -> tuple[AppliedFault, ...]:
        """What each fault did."""
        header = [
            AppliedFault(name=fault.name, times=1 if self._header_detail else 0, detail=self._header_detail)
            for fault in self._header_faults
        ]
        points = [point.applied() for point in self._points]
        return (*self._pages.applied(), *self._devices.applied(), *header, *points)

    def _corrupt_header(self, data: bytes) -> bytes:
        bit = self._seed.rng("wire", Name.CORRUPT_HEADER).randrange(32)
        self._header_detail = f"bit {bit} of the magic number"
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        return bytes(broken)

    def _aim(self, found: RamBlockList) -> None:
        for point in self._points:
            point.aim(sum(block.used_bytes for block in found.blocks) // PAGE_SIZE)

    def _strike(self, pages: RamPages) -> Edited:
        for point in self._points:
            index = point.reached(pages)
            if index is not None:
                # Half of the record at the point still goes out: the wire breaks in its middle.
                start = int(pages.starts[index])
                middle = (start + pages.end_of(index)) // 2
                head = pages.buffer[int(pages.starts[0]) : middle]
                return Edited(buffers=[head], strike=point.fault.name)
        return Edited(buffers=self._pages.edit(pages))


class _Point:
    """Counts page records up to the one at which a point fault strikes."""

    def __init__(self, fault: WireFault, seed: Seed) -> None:
        self.fault = fault
        drawn = seed.rng("wire", fault.name).uniform(0.1, 0.6)
        self._fraction = drawn if fault.at_fraction is None else fault.at_fraction
        self._at: int | None = None
        self._seen = 0
        self._times = 0

    def aim(self, pages: int) -> None:
        self._at = int(pages * self._fraction)

    def reached(self, pages: RamPages) -> int | None:
        """Index of the record in *pages* at which the fault strikes."""
        if self._at is None:
            return None
        before, self._seen = self._seen, self._seen + len(pages)
        if self._times or not before <= self._at < self._seen:
            return None
        self._times = 1
        return self._at - before

    def applied(self) -> AppliedFault:
        detail = f"at page record {self._at}" if self._times else f"only {self._seen} page records were sent"
        return AppliedFault(name=self.fault.name, times=self._times, detail=detail)
