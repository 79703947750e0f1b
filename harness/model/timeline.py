"""What a migration looked like over time: phases, samples, marks. Times are seconds on the harness's monotonic clock.

A timeline is relative to the ``migrate`` command: 0.0 is the moment it was sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One ``query-migrate`` on the source. Absent members of QEMU's reply are 0."""

    t_s: float
    status: str
    remaining_bytes: int = 0
    transferred_bytes: int = 0
    dirty_pages_per_s: int = 0
    throughput_mbps: float = 0.0
    dirty_sync_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch between two ``MIGRATION`` states of one side, e.g. ``src`` ``active``."""

    side: str
    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment worth a line in the plot: STOP, RESUME, PASS 2, cancel, a wire fault."""

    t_s: float
    side: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Everything above for one migration (one hop)."""

    hop: int = 0
    samples: tuple[Sample, ...] = ()
    phases: tuple[Phase, ...] = ()
    marks: tuple[Mark, ...] = field(default=())
