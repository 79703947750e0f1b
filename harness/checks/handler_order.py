"""Order of QEMU's handlers around a move, as it traced them itself.

On the source, devices have to be still before the first table of an interrupt controller is saved: what is raised later
is in nobody's state (B41). On the destination, controllers have to be loaded before the devices that drive their
inputs, or a line that goes up while its device loads is lost (QEMU docs/devel/migration/main.rst, "Device ordering").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

from harness.checks.precondition import CHECK as PRECONDITION
from harness.model.handler_trace import TraceEvent
from harness.model.verdict import Finding, Verdict

CHECK = "irq/handler-order"

CONTROLLERS = ("apic", "ioapic", "i8259", "arm_gicv3*")
"""Sections that hold interrupts which are pending or in service."""

ASSERTING = ("serial", "*/pci-serial", "*/ivshmem-doorbell", "hpet", "i8254", "pckbd")
"""Sections of devices that drive inputs of controllers."""

EARLY: Mapping[str, str] = MappingProxyType(
    {
        "mc146818rtc": "QEMU 10.0 loads it before i8259 and ioapic; it raises nothing while it loads (rtc_post_load)",
    }
)
"""Devices with a line that are known to load early, and why nothing is said of them."""


def check_save_order(events: Sequence[TraceEvent]) -> tuple[Finding, ...]:
    """The source's trace."""
    first = next((at for at, event in enumerate(events) if _is_controller(event.saved)), None)
    if first is None:
        return (_unmet("the source's trace shows no interrupt controller being saved"),)
    return (*_not_stopped(events[:first], events[first]), *_raised_after(events, first))


def check_load_order(events: Sequence[TraceEvent]) -> tuple[Finding, ...]:
    """The destination's trace."""
    loads = [at for at, event in enumerate(events) if _is_controller(event.loaded)]
    if not loads:
        return (_unmet("the destination's trace shows no interrupt controller being loaded"),)
    last = loads[-1]
    begun = next(at for at, event in enumerate(events) if event.loaded)
    return (*_loaded_before(events[:last], events[last]), *_raised_before(events[begun:last], events[last]))


def _not_stopped(before: Sequence[TraceEvent], first: TraceEvent) -> Iterator[Finding]:
    stops = [event for event in before if event.has_stopped or event.runs]
    if not stops or stops[-1].runs:
        yield _finding("saved-while-running", first.saved, "it was saved while the VM's devices had not been stopped")


def _raised_after(events: Sequence[TraceEvent], first: int) -> Iterator[Finding]:
    late = [event for event in events[first:] if event.raises]
    if late:
        detail = f"{len(late)} interrupts were raised after it began to be saved, first {late[0].name} {late[0].words}"
        yield _finding("raised-after-save", events[first].saved, detail)


def _loaded_before(before: Sequence[TraceEvent], last: TraceEvent) -> Iterator[Finding]:
    for event in before:
        if any(fnmatchcase(event.loaded, name) for name in ASSERTING):
            detail = f"it was loaded before the controller {last.loaded}, which takes its lines"
            yield _finding("loaded-before-controller", event.loaded, detail)


def _raised_before(between: Sequence[TraceEvent], last: TraceEvent) -> Iterator[Finding]:
    for event in between:
        if event.raises:
            detail = f"raised while it was not loaded yet: {event.name} {event.words}"
            yield _finding("raised-before-load", last.loaded, detail)


def _is_controller(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in CONTROLLERS)


def _unmet(detail: str) -> Finding:
    return Finding(check=PRECONDITION, kind="not-traced", where="handler order", detail=detail, verdict=Verdict.ERROR)


def _finding(kind: str, where: str, detail: str) -> Finding:
    remedy = "compare the priorities of the VM change-state handlers, and MigrationPriority of the vmstate descriptions"
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=remedy)
