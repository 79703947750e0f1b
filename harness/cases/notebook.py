"""What a case has to say while it plays: findings, checks that judged, timings, timelines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.model.drawings import InterruptTimeline, MapStrip, RebootMark, SessionSequence
from harness.model.protection import SealedRecords
from harness.model.result import PageHeat
from harness.model.timeline import Timeline
from harness.model.verdict import Finding


@dataclass(slots=True)
class Notebook:
    """Grows; nothing is ever taken out."""

    findings: list[Finding] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=dict)
    """Check -> number of its findings."""
    timings: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    timelines: list[Timeline] = field(default_factory=list)
    heat: PageHeat | None = None
    map_strips: list[MapStrip] = field(default_factory=list)
    sessions: list[SessionSequence] = field(default_factory=list)
    interrupts: list[InterruptTimeline] = field(default_factory=list)
    reboots: list[RebootMark] = field(default_factory=list)
    wires: list[SealedRecords] = field(default_factory=list)
    """What was counted between the hosts, hop by hop."""
    notes: list[str] = field(default_factory=list)
    """What was not judged, and why: the reason of a pass tells."""
    has_moved: bool = False
    """Whether a guest was sent on its way or rebooted: before that, trouble of the guest is not the product's."""

    @property
    def has_failed(self) -> bool:
        """True when a finding is about the product."""
        return any(finding.verdict.is_bad for finding in self.findings)

    def judge(self, check: str, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Write down that *check* judged, and what it found."""
        found = tuple(findings)
        self.checks[check] = self.checks.get(check, 0) + len(found)
        self.findings.extend(found)
        return found

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the timing *name*."""
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - start_s
