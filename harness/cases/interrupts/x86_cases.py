"""Interrupts of a PC that are under way while it moves."""

from __future__ import annotations

from random import Random

from harness.cases.case import case
from harness.cases.interrupts.play import play
from harness.cases.interrupts.scenario import HoldPlan, Scenario
from harness.cases.interrupts.settings import InterruptSettings
from harness.cases.stage import Stage
from harness.model.interrupts import At, Hold, Moment, Source, SourceFlag, SourceKind, held_of

VECTORS = range(0x30, 0xD0)
"""Free for sources, and below the classes of the probe's own timer and channel."""


def doorbells(rng: Random, count: int, vcpus: int, vectors: list[int]) -> tuple[Source, ...]:
    """MSI-X sources with drawn vectors, on drawn vCPUs, every vCPU at least once where there are enough."""
    return tuple(
        Source(
            id=index,
            kind=SourceKind.DOORBELL,
            vcpu=index if index < vcpus else rng.randrange(vcpus),
            line=index,
            priority=vectors[index],
        )
        for index in range(count)
    )


@case(
    "irq/msi-pending",
    summary="MSIs of many priorities are pending with interrupts off, blocked by CR8 or in service; each arrives once",
    settings=InterruptSettings,
)
async def msi_pending(stage: Stage, settings: InterruptSettings) -> None:
    """Some in service, the rest pending behind a hold; some more raised when all stands still."""
    rng = stage.seed.rng("scenario")
    vcpus = settings.vcpus
    vectors = sorted(rng.sample(VECTORS, k=32))
    low = vectors[: vcpus * 2]
    rng.shuffle(low)
    high = vectors[vcpus * 2 :]
    rng.shuffle(high)
    sources = doorbells(rng, 32, vcpus, [*low, *high])
    taken = sources[:vcpus]
    sources = (
        *(
            Source(
                id=one.id,
                kind=one.kind,
                vcpu=one.vcpu,
                line=one.line,
                priority=one.priority,
                flags=SourceFlag.DEFER_EOI,
            )
            for one in taken
        ),
        *sources[vcpus:],
    )
    holds = tuple(
        HoldPlan(kind=Hold.OFF, vcpu_mask=1 << vcpu)
        if rng.random() < 0.5
        else HoldPlan(kind=Hold.PRIORITY, vcpu_mask=1 << vcpu, argument=0xD)
        for vcpu in range(vcpus)
    )
    rest = sources[vcpus:]
    before, stopped, loaded = rest[:-8], rest[-8:-4], rest[-4:]
    order = [one.id for one in before]
    rng.shuffle(order)
    scenario = Scenario(
        sources=sources,
        taken=tuple(one.id for one in sources[:vcpus]),
        holds=holds,
        raised={
            Moment.BEFORE: tuple(order),
            Moment.STOPPED: tuple(one.id for one in stopped),
            Moment.LOADED: tuple(one.id for one in loaded),
        },
        planned=held_of(sources[:vcpus], At.IN_SERVICE) | held_of(before, At.PENDING),
    )
    await play(stage, settings, scenario)
