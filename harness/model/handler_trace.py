"""What QEMU traced of stopping, saving, loading, and raising interrupts, in the order in which it happened."""

from __future__ import annotations

import re
from dataclasses import dataclass

EVENTS = (
    "vm_state_notify",
    "savevm_section_start",
    "qemu_loadvm_state_section_startfull",
    "apic_deliver_irq",
    "ioapic_set_irq",
    "pic_set_irq",
    "gicv3_dist_set_irq",
    "gicv3_redist_set_irq",
    "gicv3_redist_send_sgi",
    "gicv3_its_translation_write",
)
"""QEMU's trace events (trace-events in migration, softmmu or system, hw/intc): the same names in 7.2 and 10.0."""

_SAVED = re.compile(r"(?P<name>.+), section_id \d+")
_LOADED = re.compile(r"\d+\((?P<name>.+)\) (?P<instance>\d+) \d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """One line of the trace."""

    name: str
    words: str = ""

    @property
    def has_stopped(self) -> bool:
        """True where the VM's handlers were told that it stops."""
        return self.name == "vm_state_notify" and self.words.startswith("running 0")

    @property
    def runs(self) -> bool:
        """True where the VM's handlers were told that it runs."""
        return self.name == "vm_state_notify" and self.words.startswith("running 1")

    @property
    def saved(self) -> str:
        """The section that begins to be saved; empty for other events."""
        match = _SAVED.fullmatch(self.words) if self.name == "savevm_section_start" else None
        return match["name"] if match else ""

    @property
    def loaded(self) -> str:
        """The section that begins to be loaded; empty for other events."""
        match = _LOADED.fullmatch(self.words) if self.name == "qemu_loadvm_state_section_startfull" else None
        return match["name"] if match else ""

    @property
    def raises(self) -> bool:
        """True where an interrupt is raised: a message, or a line that goes up."""
        if self.name in {"ioapic_set_irq", "pic_set_irq", "gicv3_dist_set_irq", "gicv3_redist_set_irq"}:
            return _LEVEL_UP.search(self.words) is not None
        return self.name in {"apic_deliver_irq", "gicv3_redist_send_sgi", "gicv3_its_translation_write"}


_LEVEL_UP = re.compile(r"(level:? ?|level changed to |level = )1\b", re.IGNORECASE)
