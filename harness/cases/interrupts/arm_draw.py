"""Draws the sources and holds of an Arm scenario from its seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from random import Random

from harness.cases.interrupts.scenario import HoldPlan
from harness.model.interrupts import DOORBELL_IDS, VPE, Hold, Source, SourceFlag, SourceKind

PRIORITIES = range(0x48, 0xE8, 8)
"""Of sources: QEMU has 5 bits; the probe's own interrupts have 0x20 and are never held by PMR."""
SOFTWARE_SPIS = range(210, 288)
"""INTIDs of virt's distributor that no device is wired to (QEMU hw/arm/virt.c, a15irqmap; 256 SPIs)."""
SOFTWARE_PPI = 21
ITS_DEVICES, EVENTS_OF_A_DEVICE = 3, 32
_SHARE_OFF = 0.6


class Draw:
    """Hands out ids, events and INTIDs, each once."""

    mask = 0x40
    """ICC_PMR_EL1 of a vCPU that is held by priority: nothing of a source gets through, the probe's own do."""

    def __init__(self, rng: Random, vcpus: int) -> None:
        self._rng, self._vcpus = rng, vcpus
        self._vectors = iter(range(DOORBELL_IDS))
        self._ids = iter(range(DOORBELL_IDS, 2 * DOORBELL_IDS))
        events = [device << 8 | event for device in range(ITS_DEVICES) for event in range(EVENTS_OF_A_DEVICE)]
        self._events = iter(rng.sample(events, k=len(events)))
        self._spis = iter(rng.sample(SOFTWARE_SPIS, k=len(SOFTWARE_SPIS)))
        self._next_vcpu = rng.randrange(vcpus)

    def holds(self, *, everyone: bool = False) -> tuple[HoldPlan, ...]:
        """Each vCPU is held by PSTATE, by PMR, or, unless it is *everyone*, not at all; one of them is held at least.

        One by PSTATE at most: it cannot sleep, and takes a whole processor of the host.
        """
        kinds: list[Hold | None] = [Hold.PRIORITY] if everyone else [Hold.PRIORITY, None]
        drawn = [self._rng.choice(kinds) for _ in range(self._vcpus)]
        if self._rng.random() < _SHARE_OFF or not any(drawn):
            drawn[self._rng.randrange(self._vcpus)] = Hold.OFF
        return tuple(
            HoldPlan(kind=kind, vcpu_mask=1 << vcpu, argument=self.mask) for vcpu, kind in enumerate(drawn) if kind
        )

    def unheld(self, holds: Sequence[HoldPlan]) -> tuple[int, ...]:
        """The vCPUs that *holds* leave alone."""
        held = sum(hold.vcpu_mask for hold in holds)
        return tuple(vcpu for vcpu in range(self._vcpus) if not held >> vcpu & 1)

    def another(self, vcpu: int) -> int:
        """Another vCPU, where there is one."""
        return self._rng.choice([other for other in range(self._vcpus) if other != vcpu] or [vcpu])

    def shuffled(self, sources: Iterable[Source]) -> tuple[int, ...]:
        """Their ids in a drawn order."""
        ids = [source.id for source in sources]
        self._rng.shuffle(ids)
        return tuple(ids)

    def masked(self, source: Source) -> Source:
        """*source*, masked by its configuration."""
        return replace(source, flags=source.flags | SourceFlag.MASKED)

    def doorbells(self, count: int, *, masked_on: Collection[int] = ()) -> list[Source]:
        """LPIs of the host's device, on every vCPU in turn; masked on the vCPUs that nothing else holds."""
        return [self._lpi(next(self._vectors), SourceKind.DOORBELL, masked_on=masked_on) for _ in range(count)]

    def its_lpis(self, count: int, *, masked_on: Collection[int] = ()) -> list[Source]:
        """LPIs of devices that exist in the ITS alone."""
        return [self._lpi(next(self._ids), SourceKind.ITS_LPI, masked_on=masked_on) for _ in range(count)]

    def vlpis(self, count: int, host: int) -> list[Source]:
        """Virtual LPIs of the host's device, for the vPE on vCPU *host*."""
        return [replace(self._lpi(next(self._vectors), SourceKind.VLPI), vcpu=VPE, sender=host) for _ in range(count)]

    def its_vlpis(self, count: int, host: int) -> list[Source]:
        """Virtual LPIs of devices that exist in the ITS alone."""
        return [replace(self._lpi(next(self._ids), SourceKind.ITS_VLPI), vcpu=VPE, sender=host) for _ in range(count)]

    def _lpi(self, source_id: int, kind: SourceKind, *, masked_on: Collection[int] = ()) -> Source:
        vcpu = self._next_vcpu = (self._next_vcpu + 1) % self._vcpus
        return Source(
            id=source_id,
            kind=kind,
            vcpu=vcpu,
            sender=self._rng.randrange(self._vcpus),
            line=source_id if source_id < DOORBELL_IDS else next(self._events),
            priority=self._rng.choice(PRIORITIES),
            flags=SourceFlag.MASKED if vcpu in masked_on else SourceFlag.NONE,
        )

    def sgi(self, vcpu: int, line: int) -> Source:
        """A software-generated interrupt from any vCPU."""
        return self._own(SourceKind.IPI, vcpu, line, sender=self._rng.randrange(self._vcpus))

    def timer(self, vcpu: int, after_ns: int) -> Source:
        """The physical timer of *vcpu*."""
        return self._own(SourceKind.TIMER, vcpu, 0, sender=vcpu, argument=after_ns)

    def software_ppi(self, vcpu: int) -> Source:
        """A private interrupt set pending by GICR_ISPENDR0."""
        return self._own(SourceKind.SOFTWARE, vcpu, SOFTWARE_PPI, sender=self._rng.randrange(self._vcpus))

    def software_spi(self, vcpu: int, *, priority: int = 0, flags: SourceFlag = SourceFlag.NONE) -> Source:
        """A shared interrupt set pending by GICD_ISPENDR."""
        source = self._own(
            SourceKind.SOFTWARE, vcpu, next(self._spis), sender=self._rng.randrange(self._vcpus), flags=flags
        )
        return replace(source, priority=priority) if priority else source

    def line(self, kind: SourceKind, line: int, vcpu: int, *, deliveries: int = 1) -> Source:
        """A device's line."""
        return self._own(kind, vcpu, line, sender=0, argument=deliveries)

    def _own(
        self,
        kind: SourceKind,
        vcpu: int,
        line: int,
        *,
        sender: int,
        argument: int = 0,
        flags: SourceFlag = SourceFlag.NONE,
    ) -> Source:
        return Source(
            id=next(self._ids),
            kind=kind,
            vcpu=vcpu,
            sender=sender,
            line=line,
            priority=self._rng.choice(PRIORITIES),
            flags=flags,
            argument=argument,
        )
