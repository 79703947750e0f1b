"""The host's own look at a stopped PC: its monitor's words, turned into interrupts under way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.cases.stage import Guest
from harness.migration.stream.x86_interrupts import (
    FIRST_VECTOR,
    IOAPIC_MASKED,
    LAST_VECTOR,
    REMOTE_IRR,
    by_vector,
    pin_of,
)
from harness.model.deadline import Deadline
from harness.model.interrupts import At, Held, Sighting, Source, SourceKind
from harness.vm.monitor_interrupts import LapicView, LinesView, look_at_lapics, look_at_lines

SEES = frozenset({At.PENDING, At.IN_SERVICE, At.REMOTE})
"""The monitor shows neither MSI-X pending bits nor pending NMIs."""


async def look_at_source(guest: Guest, sources: Sequence[Source], deadline: Deadline) -> Sighting:
    """What the source's monitor shows."""
    lapics = await look_at_lapics(guest.vm, deadline=deadline)
    lines = await look_at_lines(guest.vm, deadline=deadline)
    held = frozenset((*_lapics(lapics, sources), *_lines(lines, sources)))
    return Sighting(witness="source", held=held, sees=SEES)


def _lapics(lapics: Sequence[LapicView], sources: Sequence[Source]) -> Iterator[Held]:
    for lapic in lapics:
        for vectors, at in ((lapic.pending, At.PENDING), (lapic.in_service, At.IN_SERVICE)):
            for vector in sorted(vectors):
                if FIRST_VECTOR <= vector <= LAST_VECTOR:
                    yield Held(lapic.vcpu, by_vector(sources, vector, lapic.vcpu), at)


def _lines(lines: LinesView, sources: Sequence[Source]) -> Iterator[Held]:
    for source in sources:
        if source.kind is SourceKind.LEVEL:
            entry = lines.pins[pin_of(source)]
            if entry & REMOTE_IRR:
                yield Held(source.vcpu, source.id, At.REMOTE)
            if entry & IOAPIC_MASKED and pin_of(source) in lines.up:
                yield Held(source.vcpu, source.id, At.DEVICE)
        if source.kind is SourceKind.LEGACY:
            chip, bit = source.line // 8, 1 << source.line % 8
            if lines.pic_irr[chip] & bit:
                yield Held(source.vcpu, source.id, At.DEVICE if lines.pic_imr[chip] & bit else At.PENDING)
            if lines.pic_isr[chip] & bit:
                yield Held(source.vcpu, source.id, At.IN_SERVICE)
