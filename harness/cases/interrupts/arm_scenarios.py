"""Scenarios of the Arm cases, drawn from a seed: pure."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from harness.cases.interrupts.arm_draw import Draw
from harness.cases.interrupts.known_defects import RESIDENT_VLPI, SPI_OF_ANOTHER
from harness.cases.interrupts.scenario import HoldPlan, Scenario, Step
from harness.guest.protocol import Command
from harness.model.interrupts import At, Hold, Moment, SourceFlag, SourceKind, held_of

_ITS_OFF, _ITS_ON = Step(code=Command.ITS_SWITCH, words=(0,)), Step(code=Command.ITS_SWITCH, words=(1,))
_LPIS_ON, _LPIS_OFF, _LPIS_FORGOTTEN = range(3)
_FEATURE_VLPI = 2
_UART, _CLOCK = 0, 1
_RESIDENT = 1
"""Argument of a hold on the vPE."""
_URGENT, _CARRIER, _IN_SERVICE_PRIORITY, _LEAST_PRIORITY = 0x10, 0x28, 0x40, 0xE8


def lpis(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/lpi-pending``."""
    draw = Draw(rng, vcpus)
    holds = draw.holds()
    by_configuration = draw.unheld(holds)
    before = [*draw.doorbells(16, masked_on=by_configuration), *draw.its_lpis(16, masked_on=by_configuration)]
    stopped, loaded, running = draw.doorbells(4), draw.doorbells(2), [*draw.doorbells(2), *draw.its_lpis(2)]
    taken = draw.doorbells(2)
    moved = {source.id: draw.another(source.vcpu) for source in rng.sample(before, k=3)} if vcpus > 1 else {}
    # An LPI that nothing else holds must keep its configuration's mask, and stay off vCPUs that others hold.
    moved = {
        source.id: moved[source.id]
        for source in before
        if source.id in moved and (source.flags & SourceFlag.MASKED or moved[source.id] not in by_configuration)
    }
    return Scenario(
        sources=(*taken, *before, *stopped, *loaded, *running),
        taken=tuple(source.id for source in taken),
        holds=holds,
        raised={
            Moment.BEFORE: draw.shuffled(before),
            Moment.STOPPED: draw.shuffled(stopped),
            Moment.LOADED: draw.shuffled(loaded),
            Moment.RUNNING: draw.shuffled(running),
        },
        planned=held_of(before, At.PENDING),
        prepared=tuple(Step(code=Command.ITS_MOVE, words=words) for words in moved.items()),
        moved=moved,
        unmask=tuple(source.id for source in before if source.flags & SourceFlag.MASKED),
    )


def moved_lpis(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/lpi-moved``."""
    draw = Draw(rng, vcpus)
    holds = draw.holds(everyone=True)
    before = [*draw.doorbells(12), *draw.its_lpis(12)]
    queued = draw.its_lpis(4)
    running = draw.its_lpis(2)
    steps: list[Step] = []
    moved: dict[int, int] = {}
    if vcpus > 1:
        for source in rng.sample(before, k=3):
            moved[source.id] = draw.another(source.vcpu)
            steps.append(Step(code=Command.ITS_MOVE, words=(source.id, moved[source.id])))
        left, taker = rng.sample(range(vcpus), k=2)
        steps.append(Step(code=Command.ITS_MOVE_COLLECTION, words=(left, taker)))
        everyone = (*before, *queued, *running)
        moved |= {source.id: taker for source in everyone if moved.get(source.id, source.vcpu) == left}
    return Scenario(
        sources=(*before, *queued, *running),
        holds=holds,
        raised={Moment.BEFORE: draw.shuffled(before), Moment.RUNNING: draw.shuffled(running)},
        planned=held_of(before, At.PENDING) | held_of(queued, At.QUEUED),
        prepared=(*steps, _ITS_OFF),
        moved=moved,
        late=draw.shuffled(queued),
        arrived=(_ITS_ON,),
    )


def lines(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/gic-lines``."""
    draw = Draw(rng, vcpus)
    holds = draw.holds()
    unheld = draw.unheld(holds)
    # vCPU 0 is never free: QEMU gives it what is pending for others, see irq/spi-routed.
    free = frozenset(vcpu for vcpu in unheld if vcpu and rng.random() < 0.5)
    busy = [vcpu for vcpu in range(vcpus) if vcpu not in free]
    taken = [
        draw.software_spi(vcpu, priority=_IN_SERVICE_PRIORITY, flags=SourceFlag.DEFER_EOI)
        for vcpu in unheld
        if vcpu not in free
    ]
    level, edge = rng.sample((_UART, _CLOCK), k=2)
    pending = [
        *(draw.sgi(vcpu, line) for vcpu in busy for line in rng.sample(range(3, 15), k=2)),
        *(draw.timer(vcpu, rng.randrange(1, 1_000_000)) for vcpu in busy),
        *(draw.software_ppi(vcpu) for vcpu in busy),
        *(draw.software_spi(vcpu) for vcpu in busy for _ in range(2)),
        draw.line(SourceKind.LEVEL, level, rng.choice(busy), deliveries=rng.randrange(1, 4)),
        draw.line(SourceKind.EDGE, edge, rng.choice(busy)),
    ]
    # Of less priority than all that is pending elsewhere: who gets it looks again at what is pending for him.
    loaded = [replace(source, priority=_LEAST_PRIORITY) for source in draw.doorbells(vcpus)]
    running = [draw.software_spi(rng.randrange(vcpus))]
    return Scenario(
        sources=(*taken, *pending, *loaded, *running),
        taken=tuple(source.id for source in taken),
        holds=holds,
        raised={
            Moment.BEFORE: draw.shuffled(pending),
            Moment.LOADED: draw.shuffled(loaded),
            Moment.RUNNING: draw.shuffled(running),
        },
        planned=held_of(taken, At.IN_SERVICE) | held_of(pending, At.PENDING),
    )


def routed_spis(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/spi-routed``.

    They go before the probe's own interrupts, which would have QEMU look again.
    """
    draw = Draw(rng, vcpus)
    others = range(1, vcpus)
    pending = [draw.software_spi(vcpu, priority=_URGENT) for vcpu in others for _ in range(2)]
    running = [replace(source, vcpu=0) for source in draw.doorbells(1)]
    return Scenario(
        sources=(*pending, *running),
        holds=tuple(HoldPlan(kind=Hold.OFF, vcpu_mask=1 << vcpu) for vcpu in others),
        raised={Moment.BEFORE: draw.shuffled(pending), Moment.RUNNING: draw.shuffled(running)},
        planned=held_of(pending, At.PENDING),
        known=(SPI_OF_ANOTHER,),
    )


def resident_vlpis(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/vlpi-resident``."""
    draw = Draw(rng, vcpus)
    host = rng.randrange(vcpus)
    pending = [*draw.vlpis(6, host), *draw.its_vlpis(6, host)]
    return Scenario(
        sources=tuple(pending),
        holds=(HoldPlan(kind=Hold.VPE, vcpu_mask=1 << host, argument=_RESIDENT),),
        raised={Moment.BEFORE: draw.shuffled(pending)},
        planned=held_of(pending, At.PENDING),
        features=_FEATURE_VLPI,
        needs="GICv4, entered at EL2",
        known=(RESIDENT_VLPI,),
    )


def vlpis(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/vlpi-pending``."""
    draw = Draw(rng, vcpus)
    host = rng.randrange(vcpus)
    before = [*draw.vlpis(10, host), *draw.its_vlpis(10, host)]
    masked = {source.id for source in rng.sample(before, k=4)}
    before = [draw.masked(source) if source.id in masked else source for source in before]
    physical = [draw.masked(source) for source in draw.doorbells(6)]
    stopped, loaded, running = draw.vlpis(3, host), draw.vlpis(2, host), draw.its_vlpis(2, host)
    other = draw.another(host)
    moves = (Step(code=Command.ITS_MOVE, words=(before[0].id, other)),) if vcpus > 1 and rng.random() < 0.5 else ()
    return Scenario(
        sources=(*before, *physical, *stopped, *loaded, *running),
        holds=(HoldPlan(kind=Hold.VPE, vcpu_mask=1 << host),),
        raised={
            Moment.BEFORE: draw.shuffled([*before, *physical]),
            Moment.STOPPED: draw.shuffled(stopped),
            Moment.LOADED: draw.shuffled(loaded),
            Moment.RUNNING: draw.shuffled(running),
        },
        planned=held_of((*before, *physical), At.PENDING),
        prepared=moves,
        unmask=(*masked, *(source.id for source in physical)),
        features=_FEATURE_VLPI,
        needs="GICv4, entered at EL2",
    )


def forwarded_lpis(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/vlpi-forwarding``."""
    draw = Draw(rng, vcpus)
    carriers = [replace(source, vcpu=vcpu, priority=_CARRIER) for vcpu, source in enumerate(draw.doorbells(vcpus))]
    forwarded = draw.doorbells(12)
    stopped = rng.sample(forwarded, k=8)
    before = rng.sample(forwarded, k=6)
    return Scenario(
        sources=(*carriers, *forwarded),
        taken=tuple(source.id for source in before),
        raised={Moment.STOPPED: draw.shuffled(stopped)},
        forwarded=tuple(source.id for source in forwarded),
        carriers=tuple(source.id for source in carriers),
    )


def reset_lpis(rng: Random, vcpus: int) -> Scenario:
    """The scenario of ``irq/gic-reset``."""
    draw = Draw(rng, vcpus)
    holds = draw.holds(everyone=True)
    before = [*draw.doorbells(16), *draw.its_lpis(16)]
    off = rng.randrange(vcpus)
    forgotten = draw.another(off) if vcpus > 1 else None
    retired = frozenset(source.id for source in before if source.vcpu == forgotten)
    running = [source for source in draw.its_lpis(vcpus) if source.vcpu != off]
    reset = 0 if forgotten is None else 1 << forgotten
    return Scenario(
        sources=(*before, *running),
        holds=holds,
        raised={Moment.BEFORE: draw.shuffled(before), Moment.RUNNING: draw.shuffled(running)},
        planned=held_of(before, At.PENDING),
        prepared=(
            Step(code=Command.LPI_SWITCH, words=(_LPIS_OFF, 1 << off)),
            Step(code=Command.LPI_SWITCH, words=(_LPIS_FORGOTTEN, reset)),
            Step(code=Command.LPI_SWITCH, words=(_LPIS_ON, reset)),
        ),
        retired=retired,
        arrived=(Step(code=Command.LPI_SWITCH, words=(_LPIS_ON, 1 << off)),),
    )
