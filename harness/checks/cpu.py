"""vCPU registers across a move: the canaries that each vCPU held in its registers while it was moved."""

from __future__ import annotations

from harness.model.guest import CanaryReport
from harness.model.verdict import Finding, Verdict

CHECK = "cpu/registers"


def check_canaries(report: CanaryReport) -> tuple[Finding, ...]:
    """Every register of every vCPU holds what it held before the move."""
    findings = [
        Finding(
            check=CHECK,
            kind="changed",
            where=f"vcpu {mismatch.vcpu} {mismatch.register}",
            detail=f"expected 0x{mismatch.expected[::-1].hex()}, found 0x{mismatch.found[::-1].hex()}",
            remedy=f"compare {mismatch.register} in the cpu section of the captured stream",
        )
        for mismatch in report.mismatches
    ]
    listed = {mismatch.vcpu for mismatch in report.mismatches}
    findings += [
        Finding(check=CHECK, kind="changed", where=f"vcpu {vcpu}", detail=f"{count} registers differ, none was named")
        for vcpu, count in enumerate(report.mismatch_counts)
        if count and vcpu not in listed
    ]
    findings += [
        Finding(
            check="precondition",
            kind="not-compared",
            where=f"vcpu {vcpu}",
            detail="its canaries were never compared, so nothing is known of its registers",
            verdict=Verdict.ERROR,
        )
        for vcpu, checks in enumerate(report.checks)
        if not checks
    ]
    return tuple(findings)
