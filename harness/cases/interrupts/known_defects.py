"""Defects of stock QEMU that cases have found: the finding stays a failure, and says that it is known.

What shows was seen in the versions named; the causes were read from other revisions of QEMU's source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.model.verdict import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDefect:
    """One defect, and how it shows."""

    check: str
    kinds: frozenset[str]
    versions: tuple[str, ...]
    """Beginnings of the version numbers in which it was seen."""
    why: str

    def fits(self, finding: Finding, version: str) -> bool:
        """Whether it explains *finding* about a destination of *version*."""
        is_known = any(version == known or version.startswith(f"{known}.") for known in self.versions)
        return is_known and finding.check == self.check and finding.kind in self.kinds


SPI_OF_ANOTHER = KnownDefect(
    check="irq/delivery",
    kinds=frozenset({"wrong-vcpu"}),
    versions=("7.2", "10.0"),
    why="as it seems, arm_gicv3_post_load (hw/intc/arm_gicv3.c) looks for what is pending before it has filled the "
    "cache of targets (gicv3_cache_all_target_cpustates), so each SPI counts as vCPU 0's until something has it look "
    "again",
)

RESIDENT_VLPI = KnownDefect(
    check="irq/exactly-once",
    kinds=frozenset({"lost", "stuck"}),
    versions=("7.2", "10.0"),
    why="as it seems, arm_gicv3_post_load (hw/intc/arm_gicv3.c) looks for pending LPIs, and for no virtual ones "
    "(gicv3_redist_update_vlpi_only), so those of a resident vPE wait until it is made resident anew",
)


def with_explanation(findings: Iterable[Finding], known: Sequence[KnownDefect], version: str) -> list[Finding]:
    """*findings*, those that a known defect explains with its words."""
    return [_explained(finding, known, version) for finding in findings]


def _explained(finding: Finding, known: Sequence[KnownDefect], version: str) -> Finding:
    why = [defect.why for defect in known if defect.fits(finding, version)]
    return replace(finding, remedy=f"known in this version: {why[0]}") if why else finding
