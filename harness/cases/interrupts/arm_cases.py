"""Interrupts of an Arm machine that are under way while it moves: lines, LPIs by the ITS, virtual LPIs of a vPE."""

from __future__ import annotations

from harness.cases.case import case
from harness.cases.interrupts import arm_scenarios as scenarios
from harness.cases.interrupts.play import play
from harness.cases.interrupts.settings import InterruptSettings, VlpiSettings
from harness.cases.stage import Stage
from harness.model.machine import Arch

ARM = (Arch.AARCH64,)


@case(
    "irq/lpi-pending",
    summary="LPIs of several devices pend on every vCPU, held by PSTATE, PMR or configuration; each arrives once",
    settings=InterruptSettings,
    arches=ARM,
    vcpus=4,
)
async def lpi_pending(stage: Stage, settings: InterruptSettings) -> None:
    """Raised before, while all stands still, and after; some are moved to another vCPU while they are pending."""
    await play(stage, settings, scenarios.lpis(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/lpi-moved",
    summary="a collection is moved with its pending LPIs, then commands wait in the ITS's queue while the VM moves",
    settings=InterruptSettings,
    arches=ARM,
    vcpus=4,
)
async def lpi_moved(stage: Stage, settings: InterruptSettings) -> None:
    """MOVI, MAPC with MOVALL, and INT commands that an ITS which is off has not executed."""
    await play(stage, settings, scenarios.moved_lpis(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/gic-lines",
    summary="SGIs, timers' PPIs and SPIs (edge, level, by hand) pend or are in service; each arrives where it is due",
    settings=InterruptSettings,
    arches=ARM,
    vcpus=4,
)
async def gic_lines(stage: Stage, settings: InterruptSettings) -> None:
    """What the distributor and the redistributors keep in registers."""
    await play(stage, settings, scenarios.lines(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/spi-routed",
    summary="SPIs pend for other vCPUs while vCPU 0 may take any: it takes none (QEMU 7.2 and 10.0 fail)",
    settings=InterruptSettings,
    arches=ARM,
    vcpus=2,
)
async def spi_routed(stage: Stage, settings: InterruptSettings) -> None:
    """A case for a defect of QEMU: see known_defects.py."""
    await play(stage, settings, scenarios.routed_spis(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/vlpi-resident",
    summary="virtual LPIs pend for a vPE that is resident while the VM moves (QEMU 7.2 and 10.0 lose them)",
    settings=VlpiSettings,
    arches=ARM,
)
async def vlpi_resident(stage: Stage, settings: VlpiSettings) -> None:
    """A case for a defect of QEMU: see known_defects.py."""
    await play(stage, settings, scenarios.resident_vlpis(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/vlpi-pending",
    summary="virtual LPIs pend while their vPE is not resident (GICv4); its guest gets each once when it is scheduled",
    settings=VlpiSettings,
    arches=ARM,
    vcpus=2,
)
async def vlpi_pending(stage: Stage, settings: VlpiSettings) -> None:
    """A monitor at EL2 in the probe holds the vPE back until the machine has moved."""
    await play(stage, settings, scenarios.vlpis(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/vlpi-forwarding",
    summary="LPIs that hardware delivers pend when the VM stops; save and resume paths keep them (a model of KVM's)",
    settings=InterruptSettings,
    arches=ARM,
    vcpus=2,
)
async def vlpi_forwarding(stage: Stage, settings: InterruptSettings) -> None:
    """The workflow of GICv4.1 as a component of the harness, on the pending tables of a real machine."""
    await play(stage, settings, scenarios.forwarded_lpis(stage.seed.rng("scenario"), settings.vcpus))


@case(
    "irq/gic-reset",
    summary="one redistributor is disabled with LPIs pending, another is reset: those come later, these never",
    settings=InterruptSettings,
    arches=ARM,
    vcpus=4,
)
async def gic_reset(stage: Stage, settings: InterruptSettings) -> None:
    """What is pending in a table of a redistributor that is off comes with it; what was cleared does not come back."""
    await play(stage, settings, scenarios.reset_lpis(stage.seed.rng("scenario"), settings.vcpus))
