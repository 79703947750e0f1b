"""Scenarios of a PC, drawn from a seed: pure functions of a generator and the number of vCPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from harness.cases.interrupts.scenario import HoldPlan, Scenario, Step
from harness.guest.protocol import Command
from harness.model.interrupts import DOORBELL_IDS, At, Held, Hold, Moment, Source, SourceFlag, SourceKind, held_of

VECTORS = range(0x30, 0xD0)
"""Free for sources, and below the classes of the probe's own timer and channel."""
CLASSES = range(VECTORS.start >> 4, VECTORS.stop >> 4)
BLOCKING_CR8 = 0xD
"""Holds back every vector in :data:`VECTORS`, and lets the probe's own through."""
COM1_IRQ, PIT_IRQ = 4, 0
PCI_SERIAL_SLOT = 0x11
PCI_PIN = 20 + PCI_SERIAL_SLOT % 4
"""Input of the I/O APIC that INTA of the slot is wired to (QEMU hw/isa/lpc_ich9.c, ich9_cc_init)."""
LEVEL_DELIVERIES = 3
"""A line that is held up is delivered again after each end of interrupt."""
ARMED_NS = 400_000_000
"""A one-shot that is armed as the last thing before the machine is stopped; far longer than that takes."""
PIT_TICKS = 2000
TIMER_DEADLINE = 1
FEATURE_X2APIC, FEATURE_TSC_DEADLINE = 1, 2
"""Bits of the reply to OPEN."""
_MOST_IPIS = 32
_IPI, _TIMER, _NMI, _LINE = DOORBELL_IDS, DOORBELL_IDS + 32, DOORBELL_IDS + 48, DOORBELL_IDS + 56


def doorbells(rng: Random, vectors: Sequence[int], vcpus: int) -> tuple[Source, ...]:
    """One MSI-X source per vector, on drawn vCPUs; the first ones make sure that every vCPU has one."""
    return tuple(
        Source(
            id=line,
            kind=SourceKind.DOORBELL,
            vcpu=line if line < vcpus else rng.randrange(vcpus),
            line=line,
            priority=vector,
        )
        for line, vector in enumerate(vectors)
    )


def _holds(rng: Random, vcpus: int) -> tuple[HoldPlan, ...]:
    return tuple(
        HoldPlan(kind=Hold.OFF, vcpu_mask=1 << vcpu)
        if rng.randrange(2)
        else HoldPlan(kind=Hold.PRIORITY, vcpu_mask=1 << vcpu, argument=BLOCKING_CR8)
        for vcpu in range(vcpus)
    )


def _shuffled_ids(rng: Random, sources: Sequence[Source]) -> tuple[int, ...]:
    return tuple(rng.sample([source.id for source in sources], k=len(sources)))


def msi_pending(rng: Random, vcpus: int) -> Scenario:
    """On every vCPU one MSI of low priority in service, and others pending behind interrupts off or CR8."""
    vectors = sorted(rng.sample(VECTORS, k=32))
    low, high = vectors[:vcpus], vectors[vcpus:]
    sources = doorbells(rng, [*rng.sample(low, k=vcpus), *rng.sample(high, k=len(high))], vcpus)
    taken = tuple(replace(source, flags=SourceFlag.DEFER_EOI) for source in sources[:vcpus])
    before, stopped, loaded = sources[vcpus:-8], sources[-8:-4], sources[-4:]
    return Scenario(
        sources=(*taken, *sources[vcpus:]),
        taken=tuple(source.id for source in taken),
        holds=_holds(rng, vcpus),
        raised={
            Moment.BEFORE: _shuffled_ids(rng, before),
            Moment.STOPPED: _shuffled_ids(rng, stopped),
            Moment.LOADED: _shuffled_ids(rng, loaded),
        },
        planned=held_of(taken, At.IN_SERVICE) | held_of(before, At.PENDING),
    )


def msix_mask(rng: Random, vcpus: int) -> Scenario:
    """Half of the vectors are masked in the MSI-X table; what is raised on them waits in the device's pending bits."""
    sources = doorbells(rng, rng.sample(VECTORS, k=24), vcpus)
    masked = tuple(replace(source, flags=SourceFlag.MASKED) for source in sources[:16])
    quiet, waiting = masked[:4], masked[4:12]
    return Scenario(
        sources=(*masked, *sources[16:]),
        holds=(HoldPlan(kind=Hold.OFF, vcpu_mask=rng.randrange(1 << vcpus)),),
        raised={
            Moment.BEFORE: _shuffled_ids(rng, waiting),
            Moment.STOPPED: tuple(source.id for source in sources[16:20]),
            Moment.LOADED: _shuffled_ids(rng, masked[12:]),
            Moment.RUNNING: _shuffled_ids(rng, sources[20:]),
        },
        planned=held_of(waiting, At.DEVICE),
        unmask=_shuffled_ids(rng, (*quiet, *waiting, *masked[12:])),
    )


def hlt_wake(rng: Random, vcpus: int) -> Scenario:
    """Every vCPU is halted without a timer; one MSI each wakes it, raised at a drawn moment from the stop on."""
    sources = doorbells(rng, rng.sample(VECTORS, k=vcpus), vcpus)
    moments: dict[Moment, tuple[int, ...]] = {}
    for source in sources:
        moment = rng.choice((Moment.STOPPED, Moment.LOADED, Moment.RUNNING))
        moments[moment] = (*moments.get(moment, ()), source.id)
    return Scenario(
        sources=sources,
        holds=(HoldPlan(kind=Hold.SLEEP, vcpu_mask=(1 << vcpus) - 1),),
        raised=moments,
        planned=held_of(sources, At.ASLEEP),
    )


def ipi_pending(rng: Random, vcpus: int) -> Scenario:
    """IPIs from every vCPU to every vCPU, itself too, pending; on one of them an NMI behind another NMI."""
    every = [(sender, target) for sender in range(vcpus) for target in range(vcpus)] * 2
    pairs = rng.sample(every, k=min(len(every), _MOST_IPIS))
    vectors = rng.sample(VECTORS, k=len(pairs))
    sources = tuple(
        Source(id=_IPI + index, kind=SourceKind.IPI, vcpu=target, sender=sender, priority=vector)
        for index, ((sender, target), vector) in enumerate(zip(pairs, vectors, strict=True))
    )
    in_nmi = rng.randrange(vcpus)
    nmi = Source(id=_NMI, kind=SourceKind.NMI, vcpu=in_nmi, sender=rng.randrange(vcpus))
    others = [hold for hold in _holds(rng, vcpus) if hold.vcpu_mask != 1 << in_nmi]
    return Scenario(
        sources=(*sources, nmi),
        holds=(*others, HoldPlan(kind=Hold.NMI, vcpu_mask=1 << in_nmi)),
        raised={Moment.BEFORE: _shuffled_ids(rng, (*sources, nmi))},
        planned=held_of(sources, At.PENDING) | held_of((nmi,), At.VCPU),
    )


def timer(rng: Random, vcpus: int) -> Scenario:
    """Each vCPU's APIC timer has fired and is pending, is armed for later, or ticks."""
    roles = rng.sample(("pending", "armed", "periodic", "pending"), k=4)
    vectors = rng.sample(VECTORS, k=vcpus)
    sources, pending, armed, periodic = [], [], [], []
    for vcpu in range(vcpus):
        role = roles[vcpu % 4]
        source = Source(id=_TIMER + vcpu, kind=SourceKind.TIMER, vcpu=vcpu, sender=vcpu, priority=vectors[vcpu])
        if role == "pending":
            source = replace(source, argument=rng.randrange(10_000, 1_000_000))
            pending.append(source)
        elif role == "armed":
            source = replace(source, argument=ARMED_NS)
            armed.append(source)
        else:
            source = replace(source, argument=rng.randrange(5_000_000, 15_000_000), flags=SourceFlag.PERIODIC)
            periodic.append(source)
        sources.append(source)
    return Scenario(
        sources=tuple(sources),
        holds=(HoldPlan(kind=Hold.OFF, vcpu_mask=sum(1 << source.vcpu for source in pending)),),
        raised={Moment.BEFORE: tuple(source.id for source in (*pending, *periodic))},
        armed=tuple(source.id for source in armed),
        planned=held_of(pending, At.PENDING) | held_of((*armed, *periodic), At.ARMED),
    )


def timer_deadline(rng: Random, vcpus: int) -> Scenario:
    """As :func:`timer`, by the TSC-deadline timer; it has no period."""
    plan = timer(rng, vcpus)
    ticking = {source.id for source in plan.sources if source.is_periodic}
    sources = tuple(
        replace(source, line=TIMER_DEADLINE, flags=SourceFlag.NONE, argument=ARMED_NS)
        if source.id in ticking
        else replace(source, line=TIMER_DEADLINE)
        for source in plan.sources
    )
    raised = tuple(one for one in plan.raised[Moment.BEFORE] if one not in ticking)
    return replace(
        plan,
        sources=sources,
        raised={Moment.BEFORE: raised},
        armed=(*plan.armed, *sorted(ticking)),
        features=FEATURE_TSC_DEADLINE,
        needs="TSC-deadline timer",
    )


def x2apic(rng: Random, vcpus: int) -> Scenario:
    """As :func:`msi_pending`, with IPIs to every vCPU, through APICs in x2APIC mode."""
    plan = msi_pending(rng, vcpus)
    free = sorted(set(VECTORS) - {source.priority for source in plan.sources})
    ipis = tuple(
        Source(id=_IPI + vcpu, kind=SourceKind.IPI, vcpu=vcpu, sender=rng.randrange(vcpus), priority=vector)
        for vcpu, vector in enumerate(rng.sample(free[len(free) // 2 :], k=vcpus))
    )
    return replace(
        plan,
        sources=(*plan.sources, *ipis),
        begun=(Step(code=Command.IRQ_X2APIC),),
        raised={**plan.raised, Moment.BEFORE: (*plan.raised[Moment.BEFORE], *_shuffled_ids(rng, ipis))},
        planned=plan.planned | held_of(ipis, At.PENDING),
        features=FEATURE_X2APIC,
        needs="x2APIC",
    )


def ioapic(rng: Random, vcpus: int) -> Scenario:
    """Two UARTs hold their lines up, pending, in service or masked; the PIT makes an edge."""
    com1 = Source(id=_LINE, kind=SourceKind.LEVEL, line=COM1_IRQ, argument=LEVEL_DELIVERIES)
    pci = Source(id=_LINE + 1, kind=SourceKind.LEVEL, line=PCI_PIN, argument=LEVEL_DELIVERIES)
    pit = Source(id=_LINE + 2, kind=SourceKind.EDGE, line=PIT_IRQ, argument=PIT_TICKS)
    if rng.randrange(2):
        com1 = replace(com1, kind=SourceKind.EDGE)
    # Of different classes, so that one can be taken while another is in service.
    vectors = [rng.randrange(16) | priority << 4 for priority in rng.sample(CLASSES, k=3)]
    placed = [
        replace(source, vcpu=rng.randrange(vcpus), priority=vector)
        for source, vector in zip((com1, pci, pit), vectors, strict=True)
    ]
    planned: set[Held] = set()
    taken, before, unmask, sources = [], [], [], []
    for source in placed:
        levels = ("pending", "in service", "masked") if source.kind is SourceKind.LEVEL else ("pending", "in service")
        role = rng.choice(levels)
        where = {"pending": At.PENDING, "in service": At.IN_SERVICE, "masked": At.DEVICE}[role]
        planned.add(Held(source.vcpu, source.id, where))
        if source.kind is SourceKind.LEVEL and role != "masked":
            planned.add(Held(source.vcpu, source.id, At.REMOTE))
        if role == "in service":
            sources.append(replace(source, flags=SourceFlag.DEFER_EOI))
            taken.append(source)
        else:
            sources.append(replace(source, flags=SourceFlag.MASKED) if role == "masked" else source)
            before.append(source.id)
        if role == "masked":
            unmask.append(source.id)
    return Scenario(
        sources=tuple(sources),
        # The lowest first: what is in service keeps back what is below it.
        taken=tuple(source.id for source in sorted(taken, key=lambda source: source.priority)),
        holds=tuple(HoldPlan(kind=Hold.OFF, vcpu_mask=1 << vcpu) for vcpu in range(vcpus)),
        raised={Moment.BEFORE: tuple(before)},
        planned=frozenset(planned),
        unmask=tuple(unmask),
    )


def legacy(rng: Random, _vcpus: int) -> Scenario:
    """Two inputs of the 8259A: one or both pending, one behind the other that is in service, or one masked."""
    pit = Source(id=_LINE, kind=SourceKind.LEGACY, line=PIT_IRQ, argument=PIT_TICKS)
    com1 = Source(id=_LINE + 1, kind=SourceKind.LEGACY, line=COM1_IRQ)
    off = HoldPlan(kind=Hold.OFF, vcpu_mask=1)
    role = rng.choice(("pending", "alone", "in service", "masked"))
    if role == "alone":
        return Scenario(
            sources=(pit, com1), holds=(off,), raised={Moment.BEFORE: (pit.id,)}, planned=held_of((pit,), At.PENDING)
        )
    if role == "in service":
        pit = replace(pit, flags=SourceFlag.DEFER_EOI)
        planned = held_of((pit,), At.IN_SERVICE) | held_of((com1,), At.PENDING)
        return Scenario(
            sources=(pit, com1), taken=(pit.id,), holds=(off,), raised={Moment.BEFORE: (com1.id,)}, planned=planned
        )
    unmask: tuple[int, ...] = ()
    planned = held_of((pit, com1), At.PENDING)
    if role == "masked":
        com1 = replace(com1, flags=SourceFlag.MASKED)
        planned, unmask = held_of((pit,), At.PENDING) | held_of((com1,), At.DEVICE), (com1.id,)
    order = tuple(rng.sample((pit.id, com1.id), k=2))
    return Scenario(sources=(pit, com1), holds=(off,), raised={Moment.BEFORE: order}, planned=planned, unmask=unmask)
