"""What went over the wire between two QEMUs, and the faults that can be switched on there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WireFaultName(StrEnum):
    """Names as ``cvmig run --fault`` takes them; harness.migration.relay.faults says what each does."""

    DROP_PAGE = "wire-drop-page"
    STALE_PAGE = "wire-stale-page"
    DUPLICATE_PAGE = "wire-duplicate-page"
    TEAR_PAGE = "wire-tear-page"
    SWAP_PAGES = "wire-swap-pages"
    FLIP_BIT = "wire-flip-bit"
    ZERO_PAGE = "wire-zero-page"
    LOST_LINE = "wire-lost-line"
    SHIFT_PAGE = "wire-shift-page"
    RANDOM_PAGE = "wire-random-page"
    TRUNCATE = "wire-truncate"
    STALL = "wire-stall"
    CUT = "wire-cut"
    SLOW = "wire-slow"
    CORRUPT_HEADER = "wire-corrupt-header"
    CORRUPT_DEVICE = "wire-corrupt-device"
    IRQ_CLEAR_PENDING = "irq-clear-pending"
    IRQ_SET_PENDING = "irq-set-pending"
    IRQ_WRONG_VCPU = "irq-wrong-vcpu"
    IRQ_DROP_IN_SERVICE = "irq-drop-in-service"
    IRQ_DROP_MSIX = "irq-drop-msix-pending"
    IRQ_DROP_LINE = "irq-drop-line"
    IRQ_CLEAR_PIC = "irq-clear-pic"
    IRQ_SET_PIC = "irq-set-pic"
    IRQ_DROP_NMI = "irq-drop-nmi"
    IRQ_DISARM_TIMER = "irq-disarm-timer"
    IRQ_WAKE_HALTED = "irq-wake-halted"
    IRQ_LATE_CONTROLLER = "irq-late-controller"
    LPI_CLEAR = "irq-lpi-clear-pending"
    LPI_WRONG_VCPU = "irq-lpi-wrong-vcpu"
    LPI_STALE = "irq-lpi-stale"
    ITS_WRONG_COLLECTION = "irq-its-wrong-collection"


TABLE_FAULTS = frozenset(
    {
        WireFaultName.LPI_CLEAR,
        WireFaultName.LPI_WRONG_VCPU,
        WireFaultName.LPI_STALE,
        WireFaultName.ITS_WRONG_COLLECTION,
    }
)
"""Those that change bits of tables in guest memory, which whoever switches them on has found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableBit:
    """A bit of guest memory that a fault sets or clears, however often its page is sent."""

    page: int
    """ram_addr."""
    bit: int
    """In the page, bit 0 of byte 0 first."""
    is_set: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WireFault:
    """One fault and where it strikes. What is left open is drawn from the seed."""

    name: WireFaultName
    count: int = 1
    """Pages that are hit (pairs of pages for swap)."""
    targets: tuple[int, ...] = ()
    """ram_addrs to choose from; empty: pages that the stream shows to carry data."""
    bits: tuple[TableBit, ...] = ()
    """Table faults: what they change."""
    block: str = ""
    """RAM block of the targets; empty: main memory, or the biggest where none has its name."""
    at_fraction: float | None = None
    """Truncate, stall, cut: after this share of the guest's pages in the first pass; None: drawn from 0.1 to 0.6."""
    bytes_per_s: int = 16 << 20
    """Slow: the bandwidth that is left."""
    device: str = "cpu/*"
    """Corrupt-device: glob over device labels such as ``cpu/0``."""
    field: str = "env.regs[[]*[]]"
    """Corrupt-device: glob over field paths; a literal ``[`` is written ``[[]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedFault:
    """What one fault did at one place."""

    name: WireFaultName
    times: int
    """Records (or bytes of control) that it changed; 0: it never struck, and the case proves nothing."""
    block: str = ""
    ram_addr: int | None = None
    is_harmful: bool = True
    """False when the destination ended with the right bytes all the same (the page was not written again)."""
    detail: str = ""


class WireEnd(StrEnum):
    """How the connection ended."""

    WAITING = "waiting"
    """No source has connected."""
    OPEN = "open"
    COMPLETE = "complete"
    """The whole stream went through: its last element was seen, or the source closed behind its EOF."""
    CLOSED = "closed"
    """The source closed, but its stream was not understood, so the wire cannot say whether it was whole."""
    CUT = "cut"
    """A side closed, or reset, in the middle."""
    REFUSED = "refused"
    """The destination could not be reached."""
    FAULT = "fault"
    """One of our own faults ended it."""
    ABORTED = "aborted"
    """The relay was closed by its owner while the stream was going."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAccount:
    """One RAM block on the wire."""

    name: str
    pages: int
    """Target pages of the block's used length."""
    data_records: int = 0
    zero_records: int = 0
    delta_records: int = 0
    """XBZRLE and compressed."""
    pages_sent: int = 0
    """Pages with at least one record."""
    pages_resent: int = 0
    """Pages with at least two records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireAccount:
    """Everything that one witness, the wire, can tell of a migration."""

    blocks: tuple[BlockAccount, ...] = ()
    bytes_forwarded: int = 0
    bytes_returned: int = 0
    passes: int = 0
    """Times that the RAM was walked: a pass ends where the page order jumps back; the END section is one of its own."""
    records_per_pass: tuple[int, ...] = ()
    machine: str = ""
    return_messages: tuple[str, ...] = ()
    """``PONG 0x1``, ``SHUT 0x0`` ... in order, the first of them when there are very many."""
    shut_code: int | None = None
    """The destination's verdict, 0 when it loaded everything; None when none came."""
    faults: tuple[AppliedFault, ...] = ()
    end: WireEnd = WireEnd.WAITING
    record_path: str = ""
    notes: tuple[str, ...] = ()
    """Anything that narrows what this account says: recording stopped, bytes not understood, a peer's errno."""

    @property
    def pages_resent(self) -> int:
        """Pages of all blocks that were sent more than once: without any, nothing was live."""
        return sum(block.pages_resent for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionSummary:
    """A device section of a captured stream."""

    label: str
    version: int
    fields: int
    subsections: tuple[str, ...] = ()
    offset: int = 0
    """Offset of the section in the stream."""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """What is in a captured stream."""

    size_bytes: int
    machine: str = ""
    capabilities: tuple[str, ...] = ()
    blocks: tuple[BlockAccount, ...] = ()
    passes: int = 0
    records_per_pass: tuple[int, ...] = ()
    sealed_records: tuple[tuple[str, int], ...] = ()
    """Records of a protected guest between two hosts, by kind; none in QEMU's own stream."""
    commands: tuple[str, ...] = ()
    devices: tuple[SectionSummary, ...] = ()
    warnings: tuple[str, ...] = ()
    damage: str = ""
    """The StreamError's text when the stream is damaged; all else is what could be read before."""
    damage_offset: int | None = None

    @property
    def is_complete(self) -> bool:
        """True when nothing is damaged."""
        return not self.damage
