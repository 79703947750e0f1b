"""Interrupts without pause, on either architecture."""

from __future__ import annotations

from random import Random

from harness.cases.case import case
from harness.cases.interrupts.arm_draw import Draw
from harness.cases.interrupts.play import play
from harness.cases.interrupts.scenario import Scenario
from harness.cases.interrupts.settings import InterruptSettings
from harness.cases.interrupts.x86_scenarios import VECTORS, doorbells
from harness.cases.stage import Stage
from harness.model.interrupts import Source
from harness.model.machine import Arch

_SOURCES = 16


def storm_scenario(rng: Random, vcpus: int, arch: Arch) -> Scenario:
    """Vectors of the host's device that never rest, spread over all vCPUs."""
    sources: tuple[Source, ...]
    if arch is Arch.AARCH64:
        sources = tuple(Draw(rng, vcpus).doorbells(_SOURCES))
    else:
        sources = doorbells(rng, rng.sample(VECTORS, k=_SOURCES), vcpus)
    return Scenario(sources=sources, storm=tuple(source.id for source in sources))


@case(
    "irq/storm",
    summary="numbered interrupts without pause before, during and after the move: none lost, doubled or reordered",
    settings=InterruptSettings,
    arches=(Arch.X86_64, Arch.AARCH64),
    vcpus=4,
)
async def storm(stage: Stage, settings: InterruptSettings) -> None:
    """Each vector is raised again as soon as the guest has logged the interrupt before."""
    await play(stage, settings, storm_scenario(stage.seed.rng("scenario"), settings.vcpus, stage.request.arch))
