"""The outcome of one case: what the JSON document, JUnit, the terminal and the HTML page all say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.model.drawings import InterruptTimeline, MapStrip, RebootMark, SessionSequence
from harness.model.seed import Seed
from harness.model.timeline import Timeline
from harness.model.verdict import Finding, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class PageHeat:
    """Counts per bucket of guest pages, for the heat map.

    Bucket *i* covers pages [i * pages_per_bucket, (i + 1) * pages_per_bucket) of RAM in ram_addr order.
    """

    pages_per_bucket: int
    layers: Mapping[str, tuple[int, ...]]
    """Layer name -> one count per bucket: ``written`` (by the guest), ``sent`` (on the wire), ``damaged``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One execution of one case."""

    case: str
    """Case id, e.g. ``memory/precopy``."""
    verdict: Verdict
    reason: str
    """One line: why it is not a pass, or what the pass rests on."""
    seed: Seed
    run_dir: str
    """Folder of this case's artefacts, as the user would type it."""
    checks: Mapping[str, int] = field(default_factory=dict)
    """Every check that judged, with its number of findings: what a pass rests on."""
    findings: tuple[Finding, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    """Named figures with their unit in the name: ``downtime_ms``, ``total_s``, ``probe_ready_s`` ..."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """``harness``, ``qemu_src``, ``qemu_dst``, ``machine``, ``accel``, ``probe``, ``host_kernel`` ..."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The resolved settings of the case, as ``--set`` would take them."""
    faults: tuple[str, ...] = ()
    hint: str = ""
    """What to try, when there is something better than the findings' remedies."""
    timelines: tuple[Timeline, ...] = ()
    heat: PageHeat | None = None
    map_strips: tuple[MapStrip, ...] = ()
    """One per hop of a protected guest, see :func:`harness.model.map_strip.map_strip`."""
    sessions: tuple[SessionSequence, ...] = ()
    """One per attempt, see :func:`harness.model.session_sequence.sequence_of`."""
    interrupts: tuple[InterruptTimeline, ...] = ()
    """One per move of a guest whose interrupts were counted."""
    reboots: tuple[RebootMark, ...] = ()
    """In the order they came."""

    def as_json(self) -> dict[str, Any]:
        """The entry of ``cvmig run --json``: plain JSON types, stable member names."""
        return {
            "case": self.case,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "seed": self.seed.value,
            "run_dir": self.run_dir,
            "checks": dict(self.checks),
            "findings": [{**asdict(finding), "verdict": finding.verdict.value} for finding in self.findings],
            "timings": dict(self.timings),
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "faults": list(self.faults),
            "hint": self.hint,
        }
