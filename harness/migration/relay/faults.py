"""The catalogue of wire faults: what each does, and which check has to catch it with which diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from harness.model.memory import Damage
from harness.model.wire import WireFaultName as Name


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEntry:
    """One line of ``cvmig list faults``."""

    name: Name
    does: str
    caught_as: str
    """The check and the kind that it has to report, or the verdict."""
    belongs_to: str = "wire"
    is_page_fault: bool = False
    bug_class: str = ""
    """As the field's bug reports are numbered."""
    needs_resend: bool = False
    """Does nothing unless its page is written, and sent, again: targets are pages that the guest keeps dirtying."""


def _page(name: Name, does: str, damage: Damage, *, needs_resend: bool = False) -> FaultEntry:
    return FaultEntry(
        name=name,
        does=does,
        caught_as=f"memory/host, memory/guest: {damage.value}",
        is_page_fault=True,
        needs_resend=needs_resend,
    )


def _interrupt(name: Name, does: str, caught_as: str, *, bug_class: str = "") -> FaultEntry:
    return FaultEntry(
        name=name, does=does, caught_as=f"irq/pending; {caught_as}", belongs_to="QEMU", bug_class=bug_class
    )


def _table(name: Name, does: str, caught_as: str, *, bug_class: str = "") -> FaultEntry:
    return FaultEntry(
        name=name,
        does=f"{does} (aarch64)",
        caught_as=f"memory/host; irq/pending; {caught_as}",
        belongs_to="QEMU",
        bug_class=bug_class,
        is_page_fault=True,
    )


CATALOGUE: Mapping[Name, FaultEntry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _page(
                Name.DROP_PAGE,
                "drops every record of a page but the first: the destination keeps the first version",
                Damage.STALE,
                needs_resend=True,
            ),
            _page(
                Name.STALE_PAGE,
                "later records of a page carry its first content",
                Damage.STALE,
                needs_resend=True,
            ),
            _page(
                Name.DUPLICATE_PAGE,
                "delivers a page's first record again at the end of RAM, over its newer version",
                Damage.STALE,
                needs_resend=True,
            ),
            _page(
                Name.TEAR_PAGE,
                "later records of a page carry half of its first content",
                Damage.TORN,
                needs_resend=True,
            ),
            _page(Name.SWAP_PAGES, "two pages exchange their content", Damage.SWAPPED),
            _page(Name.FLIP_BIT, "flips one bit of a page", Damage.BIT),
            _page(Name.ZERO_PAGE, "delivers a page as zeros", Damage.ZEROED),
            _page(Name.LOST_LINE, "zeroes one 64-byte line of a page", Damage.LINE),
            _page(Name.SHIFT_PAGE, "rotates a page's content by one line", Damage.SHIFTED),
            _page(Name.RANDOM_PAGE, "replaces a page by random bytes", Damage.RANDOM),
            FaultEntry(
                name=Name.TRUNCATE,
                does="ends the stream in the middle of a record, with an orderly close",
                caught_as="migration/ends: not-loaded",
            ),
            FaultEntry(
                name=Name.STALL,
                does="stops forwarding for ever",
                caught_as="migration/ends: stalled",
            ),
            FaultEntry(
                name=Name.CUT,
                does="resets both connections in the middle of the stream",
                caught_as="migration/ends: not-loaded",
            ),
            FaultEntry(name=Name.SLOW, does="limits the bandwidth", caught_as="too-slow"),
            FaultEntry(
                name=Name.CORRUPT_HEADER,
                does="flips a bit of the stream's magic number",
                caught_as="migration/ends: not-loaded",
            ),
            FaultEntry(
                name=Name.CORRUPT_DEVICE,
                does="flips a bit in one field of a device section, a vCPU register unless told otherwise",
                caught_as="state/devices: changed (cpu/registers, cpu/clock by field)",
            ),
            _interrupt(
                Name.IRQ_CLEAR_PENDING, "clears a pending bit of a local APIC (IRR) or a GIC", "irq/exactly-once: lost"
            ),
            _interrupt(
                Name.IRQ_SET_PENDING,
                "sets a pending bit of a local APIC (IRR) or a GIC",
                "irq/delivery: spurious, wrong-vcpu; irq/exactly-once: doubled",
            ),
            _interrupt(
                Name.IRQ_WRONG_VCPU,
                "moves a pending bit to another vCPU's local APIC or redistributor, or an SPI's route",
                "irq/delivery: wrong-vcpu",
                bug_class="B42",
            ),
            _interrupt(
                Name.IRQ_DROP_IN_SERVICE, "drops an in-service bit of a local APIC (ISR) or a GIC", "irq/pending: lost"
            ),
            _interrupt(Name.IRQ_DROP_MSIX, "drops a pending bit of an MSI-X device", "irq/exactly-once: lost"),
            _interrupt(
                Name.IRQ_DROP_LINE,
                "drops the remote IRR, or the line, of an input of the I/O APIC",
                "irq/exactly-once: lost",
            ),
            _interrupt(Name.IRQ_CLEAR_PIC, "clears a pending bit of an 8259A", "irq/exactly-once: lost"),
            _interrupt(
                Name.IRQ_SET_PIC, "sets a pending bit of an 8259A", "irq/pending: appeared; irq/exactly-once: doubled"
            ),
            _interrupt(Name.IRQ_DROP_NMI, "drops an NMI that is pending in a vCPU", "irq/exactly-once: lost"),
            _interrupt(Name.IRQ_DISARM_TIMER, "disarms an APIC timer", "irq/exactly-once: lost"),
            FaultEntry(
                name=Name.IRQ_LATE_CONTROLLER,
                does="sends the I/O APIC, or the GIC, behind all devices: their lines go up before it is loaded",
                caught_as="irq/handler-order: loaded-before-controller",
                belongs_to="QEMU",
            ),
            _table(Name.LPI_CLEAR, "clears an LPI's bit in a pending table", "irq/exactly-once: lost"),
            _table(
                Name.LPI_WRONG_VCPU,
                "moves an LPI's pending bit to the table of another vCPU",
                "irq/delivery: wrong-vcpu",
                bug_class="B42",
            ),
            _table(
                Name.LPI_STALE,
                "sets a bit in a pending table, of an LPI that is not pending (any more)",
                "irq/exactly-once: doubled",
                bug_class="B43",
            ),
            _table(
                Name.ITS_WRONG_COLLECTION,
                "an event's entry in the ITS's tables names another collection, that of another vCPU",
                "irq/its-tables: changed; irq/delivery: wrong-vcpu",
            ),
            _interrupt(Name.IRQ_WAKE_HALTED, "a halted vCPU arrives as one that runs", "irq/pending: lost"),
        )
    },
)
"""All wire faults by name."""
