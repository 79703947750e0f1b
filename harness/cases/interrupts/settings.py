"""What can be set on an interrupt case."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from harness.cases.settings import MigrationCaseSettings
from harness.model.guest import Workload
from harness.model.handler_trace import EVENTS
from harness.model.machine import MachineSpec


class InterruptSettings(MigrationCaseSettings):
    """The guest does nothing but take interrupts, so memory is small, and it is moved as soon as it can be."""

    memory_mib: int = Field(default=64, ge=64, le=1 << 20)
    workload: Workload = Workload.IDLE
    passes: int = Field(default=1, ge=1, le=1000)
    interrupt_vectors: int = Field(default=64, ge=1, le=64)
    """MSI-X vectors of the device that the harness plays."""

    def machine_for(self, spec: MachineSpec) -> MachineSpec:
        """With the device, and a guest that counts."""
        return replace(spec, interrupt_vectors=self.interrupt_vectors, append="irq=on", traces=EVENTS)


class VlpiSettings(InterruptSettings):
    """A machine with GICv4, whose guest is entered at EL2."""

    def machine_for(self, spec: MachineSpec) -> MachineSpec:
        """With virtualization, which GICv4 needs."""
        return replace(super().machine_for(spec), gic_version=4, has_el2=True)
