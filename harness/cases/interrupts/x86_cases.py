"""Interrupts of a PC that are under way while it moves."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from harness.cases.case import case
from harness.cases.interrupts import x86_scenarios as scenarios
from harness.cases.interrupts.play import play
from harness.cases.interrupts.settings import InterruptSettings
from harness.cases.stage import Stage
from harness.model.machine import X86_64_CPU, Accel, Arch, MachineSpec

PC = (Arch.X86_64,)


class LineSettings(InterruptSettings):
    """A machine with a UART on PCI, whose line the guest can hold up."""

    interrupt_vectors: int = Field(default=1, ge=1, le=64)

    def machine_for(self, spec: MachineSpec) -> MachineSpec:
        """With the UART, which nobody listens to."""
        made = InterruptSettings.machine_for(self, spec)
        return replace(made, devices=(*made.devices, f"pci-serial,id=lines,addr={scenarios.PCI_SERIAL_SLOT:#x}"))


class FeatureSettings(InterruptSettings):
    """A processor with an x2APIC and a TSC-deadline timer, as far as the accelerator offers them."""

    def machine_for(self, spec: MachineSpec) -> MachineSpec:
        """Under KVM they are there without asking."""
        made = InterruptSettings.machine_for(self, spec)
        return replace(made, cpu=f"{X86_64_CPU},+x2apic,+tsc-deadline") if spec.accel is Accel.TCG else made


@case(
    "irq/msi-pending",
    summary="MSIs of many priorities pend with interrupts off or behind CR8, others are in service; each arrives once",
    settings=InterruptSettings,
    arches=PC,
)
async def msi_pending(stage: Stage, settings: InterruptSettings) -> None:
    """Edge interrupts in IRR and ISR of the local APICs."""
    await play(stage, settings, scenarios.msi_pending(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/msix-mask",
    summary="vectors masked in the MSI-X table wait in the device's pending bits, and come when they are unmasked",
    settings=InterruptSettings,
    arches=PC,
)
async def msix_mask(stage: Stage, settings: InterruptSettings) -> None:
    """Pending bits of the device."""
    await play(stage, settings, scenarios.msix_mask(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/hlt-wake",
    summary="every vCPU is halted while it moves, and one interrupt wakes it on the other side",
    settings=InterruptSettings,
    arches=PC,
    vcpus=4,
)
async def hlt_wake(stage: Stage, settings: InterruptSettings) -> None:
    """The halted state, and what ends it."""
    await play(stage, settings, scenarios.hlt_wake(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/ipi-pending",
    summary="IPIs from every vCPU to every vCPU pend, and on one of them an NMI that waits for the end of another",
    settings=InterruptSettings,
    arches=PC,
    vcpus=4,
)
async def ipi_pending(stage: Stage, settings: InterruptSettings) -> None:
    """What vCPUs send each other, and themselves."""
    await play(stage, settings, scenarios.ipi_pending(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/timer",
    summary="APIC timers that have fired and pend, are armed for after the move, or tick",
    settings=InterruptSettings,
    arches=PC,
    vcpus=4,
)
async def timer(stage: Stage, settings: InterruptSettings) -> None:
    """One-shot and periodic."""
    await play(stage, settings, scenarios.timer(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/ioapic",
    summary="lines of the I/O APIC: levels held up (remote IRR, delivered again after each EOI) or masked, and edges",
    settings=LineSettings,
    arches=PC,
)
async def ioapic(stage: Stage, settings: LineSettings) -> None:
    """Level and edge."""
    await play(stage, settings, scenarios.ioapic(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/legacy",
    summary="inputs of the PC's 8259A, with the PIT as one: pending, in service, or masked",
    settings=InterruptSettings,
    arches=PC,
)
async def legacy(stage: Stage, settings: InterruptSettings) -> None:
    """What comes through LINT0."""
    await play(stage, settings, scenarios.legacy(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/x2apic",
    summary="as irq/msi-pending, with local APICs in x2APIC mode (QEMU 9.0 and later under TCG)",
    settings=FeatureSettings,
    arches=PC,
)
async def x2apic(stage: Stage, settings: FeatureSettings) -> None:
    """APIC registers by MSR."""
    await play(stage, settings, scenarios.x2apic(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/timer-deadline",
    summary="as irq/timer, with the TSC-deadline timer (TCG has none)",
    settings=FeatureSettings,
    arches=PC,
    vcpus=4,
)
async def timer_deadline(stage: Stage, settings: FeatureSettings) -> None:
    """One-shots by the TSC."""
    await play(stage, settings, scenarios.timer_deadline(stage.seed.rng("scenario"), settings.vcpus))
