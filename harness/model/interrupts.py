"""Interrupts one by one: where each comes from, where it is at the switch-over, and who saw it arrive."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag, StrEnum

MAX_SOURCES = 128
DOORBELL_IDS = 64
"""Ids below it are vectors of the host's device: the id is the vector."""
SPURIOUS_ID = 0xFFFF
VPE = 7
"""Arm: interrupts of the vPE are in the ledger as those of this vCPU (VPE_CPU in images/probe/arch/aarch64/vpe.h)."""


class SourceKind(IntEnum):
    """What raises it (images/probe/include/irq.h)."""

    DOORBELL = 1
    """MSI-X of the host's ivshmem device; ``line`` is the vector."""
    IPI = 2
    """From one vCPU to another, or to itself; an SGI on Arm."""
    TIMER = 3
    """The vCPU's own timer; ``argument`` is the time until it fires."""
    LEVEL = 4
    EDGE = 5
    NMI = 6
    SOFTWARE = 7
    """Set pending by a register of the controller."""
    LEGACY = 8
    """A line of the PC's 8259A."""
    VLPI = 16
    """Arm: a virtual LPI of the vPE; MSI-X of the host's device, as DOORBELL."""
    ITS_LPI = 17
    """Arm: an LPI of a device that exists in the ITS alone; ``line`` is device << 8 | event."""
    ITS_VLPI = 18


class SourceFlag(IntFlag):
    """Properties of a source."""

    NONE = 0
    DEFER_EOI = 1
    """The first delivery stays in service until the vCPU is let go of."""
    MASKED = 2
    """Masked at the device, the line's controller, or by its configuration."""
    PERIODIC = 4


class Hold(IntEnum):
    """What keeps a vCPU from taking its interrupts."""

    OFF = 1
    """Interrupts off: RFLAGS.IF, PSTATE.I."""
    PRIORITY = 2
    """TPR or PMR raised."""
    SLEEP = 3
    """Asleep, its timer off, until an interrupt of a source comes."""
    NMI = 16
    """x86_64: inside an NMI handler, so that the next NMI stays pending."""
    VPE = 17
    """aarch64: the vPE is not scheduled."""


class Moment(StrEnum):
    """When an interrupt was raised."""

    BEFORE = "before"
    """The source runs."""
    STOPPED = "stopped"
    """The source is stopped and its devices are not saved yet (pre-switchover)."""
    SAVED = "saved"
    """Devices are being saved, or are: nothing may be raised any more. Only a fault does."""
    LOADED = "loaded"
    """The destination is loaded and has not run."""
    RUNNING = "running"
    """The destination runs."""


class At(StrEnum):
    """Where an interrupt is that was raised and is not ended."""

    PENDING = "pending"
    """The vCPU's controller has it (IRR; a redistributor's pending bit)."""
    IN_SERVICE = "in service"
    """It was taken and not ended (ISR; active)."""
    DEVICE = "at the device"
    """Masked there: MSI-X pending bit, a line that is up and masked."""
    REMOTE = "remote IRR"
    """The I/O APIC has sent a level and waits for the end of interrupt."""
    QUEUED = "in the ITS's queue"
    """Arm: the command that makes it waits to be executed."""
    VCPU = "at the vCPU"
    """Pending in the processor itself: an NMI."""
    ARMED = "armed"
    """A timer that has still to fire."""
    ASLEEP = "asleep"
    """Not raised yet: its vCPU is halted, and nothing else will wake it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source of interrupts, as it is asked for."""

    id: int
    kind: SourceKind
    vcpu: int = 0
    """Who is to take it."""
    sender: int = 0
    """The vCPU that raises it, for those that the guest makes."""
    line: int = 0
    """MSI-X vector, ISA IRQ, SPI ..."""
    priority: int = 0
    """The vector on x86_64, whose upper half is its class; the priority on Arm."""
    flags: SourceFlag = SourceFlag.NONE
    argument: int = 0
    number: int = 0
    """Vector or INTID, as the guest told when it had made it."""

    @property
    def label(self) -> str:
        """For people: ``doorbell 5 (0x41) -> vCPU 1``."""
        return f"{self.kind.name.lower()} {self.id} ({self.number:#x}) -> vCPU {self.vcpu}"

    @property
    def deliveries(self) -> int:
        """How often one raise is delivered: a level is delivered again until its line goes down."""
        return max(1, self.argument) if self.kind is SourceKind.LEVEL else 1

    @property
    def is_periodic(self) -> bool:
        """True when it comes again and again, and its count is not fixed."""
        return SourceFlag.PERIODIC in self.flags


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """One interrupt that is somewhere between its device and the end of its handler."""

    vcpu: int
    id: int
    at: At

    def __str__(self) -> str:
        return f"source {self.id} {self.at} (vCPU {self.vcpu})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """One interrupt that was raised, by the host's device or by the guest at the host's word."""

    id: int
    number: int
    """Counts from 1 for each source."""
    moment: Moment
    at_s: float = 0.0
    """Monotonic."""
    at_ticks: int = 0
    """The guest's clock before it was raised, where somebody asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One record of the guest's ledger."""

    order: int
    """Over all vCPUs, from 1."""
    ticks: int
    id: int
    number: int
    vcpu: int
    vector: int
    delivery: int
    """How many of this source there were, this one included."""
    is_spurious: bool = False
    is_nested: bool = False
    is_deferred: bool = False
    is_nmi: bool = False
    line_is_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What one witness saw of the interrupts under way."""

    witness: str
    """``source``, ``wire``, ``destination``, or of an architecture's own."""
    held: frozenset[Held]
    sees: frozenset[At]
    """What it can see at all; nothing else of it is compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptStory:
    """Everything that was raised, seen and received in one move."""

    sources: tuple[Source, ...]
    raised: tuple[Raised, ...]
    received: tuple[Received, ...]
    order_at_stop: int = 0
    """Records with a larger order were written at the destination."""
    planned: frozenset[Held] = frozenset()
    """What must be under way at the switch-over, else the case is about nothing."""
    queued: tuple[Raised, ...] = ()
    """Raised, and not yet taken in by QEMU when the source had stopped: still the device's."""
    sightings: tuple[Sighting, ...] = ()
    left_pending: int = 0
    """What the guest's controllers still held at the end."""
    after_move: frozenset[int] = frozenset()
    """Ids that must have come at the destination, however often they came before: periodic ones."""
    ticks_per_s: float = 0.0
    descending: bool = False
    """Whether a larger number is served first (x86_64 vectors)."""
    moments: Mapping[str, float] = field(default_factory=dict)
    """Monotonic times of the move: stopped, saved, loaded, running."""

    def source(self, source_id: int) -> Source | None:
        """The source of that id."""
        return next((source for source in self.sources if source.id == source_id), None)


def held_of(sources: Iterable[Source], at: At) -> frozenset[Held]:
    """All of *sources* at one place."""
    return frozenset(Held(source.vcpu, source.id, at) for source in sources)
