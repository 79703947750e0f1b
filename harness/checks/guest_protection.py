"""What a protected guest itself met: errands right after the move, its #VC handler, the content of converted pages."""

from __future__ import annotations

from collections.abc import Sequence

from harness.model.protection import ProtectionCounters, VcpuErrands
from harness.model.verdict import Finding, Verdict

ERRANDS = "guest/errands"
VC = "guest/vc"
BACKING = "guest/backing"


def check_errands(
    errands: Sequence[VcpuErrands], *, vcpus: int, reads: int, during: ProtectionCounters | None = None
) -> tuple[Finding, ...]:
    """At once after it ran again every vCPU could do MMIO and send an IPI, and no GHCB request went wrong.

    *reads* is how many MMIO reads each was to do; 0 for a guest whose MMIO does not go through #VC. *during* is what
    the guest counted meanwhile, see :meth:`ProtectionCounters.since`.
    """
    if not errands:
        return (_unmet("no-errands", "no vCPU was sent on an errand after the move"),)
    heard = {errand.vcpu for errand in errands}
    findings = [
        _finding(ERRANDS, "silent", f"vcpu {vcpu}", "it never told of its errands", "class B26, B28: it does not run")
        for vcpu in range(vcpus)
        if vcpu not in heard
    ]
    for errand in errands:
        where = f"vcpu {errand.vcpu}"
        if errand.mmio_bad:
            detail = f"{errand.mmio_bad} of {errand.mmio_bad + errand.mmio_ok} MMIO reads gave wrong data"
            findings.append(_finding(ERRANDS, "mmio", where, detail, "class B27, B28: vcpu/aux and vcpu/ghcb say more"))
        elif errand.mmio_ok < reads:
            detail = f"it finished {errand.mmio_ok} of {reads} MMIO reads"
            findings.append(_finding(ERRANDS, "silent", where, detail, "class B27, B28"))
        if not errand.ipi_ok and vcpus > 1:
            detail = "the IPI to the next vCPU was not answered"
            findings.append(_finding(ERRANDS, "ipi", where, detail, "class B27, B28: cr8, or an AP that never started"))
    if during and during.ghcb_errors:
        detail = f"{during.ghcb_errors} requests through the GHCB failed"
        remedy = "class B14, B28: GHCB not registered, or its page not shared in the host's list"
        findings.append(_finding(ERRANDS, "ghcb", "guest", detail, remedy))
    return tuple(findings)


def check_vc(counted: ProtectionCounters) -> tuple[Finding, ...]:
    """The #VC handler ran with interrupts off and never within itself (B2)."""
    if not counted.vc_entries:
        return (_unmet("no-vc", "the #VC handler never ran"),)
    findings = []
    remedy = "class B2: something in the handler restores the interrupt flag, such as a lock or a PCD protocol"
    if counted.vc_nested:
        detail = f"{counted.vc_nested} of {counted.vc_entries} entries came while another was under way"
        findings.append(
            _finding(VC, "nested", "#VC handler", detail, f"{remedy}; the outer GHCB request is overwritten")
        )
    if counted.vc_interrupts_on:
        detail = f"interrupts were on {counted.vc_interrupts_on} times in {counted.vc_entries} entries"
        findings.append(_finding(VC, "interrupts-on", "#VC handler", detail, remedy))
    return tuple(findings)


def check_backing(*, stale_pages: int, tried_pages: int) -> tuple[Finding, ...]:
    """No page showed what it held in its other state before it went there and back (B21).

    *tried_pages* were converted to shared, written, converted to private and read.
    """
    if not tried_pages:
        return (_unmet("no-conversion", "no page was converted there and back"),)
    if not stale_pages:
        return ()
    detail = f"{stale_pages} of {tried_pages} pages show as private what was written to them as shared"
    remedy = "class B21: the backing of the other state was not discarded, or could not be"
    return (_finding(BACKING, "stale", "converted pages", detail, remedy),)


def _finding(check: str, kind: str, where: str, detail: str, remedy: str) -> Finding:
    return Finding(check=check, kind=kind, where=where, detail=detail, remedy=remedy)


def _unmet(kind: str, detail: str) -> Finding:
    return Finding(check="precondition", kind=kind, where="guest", detail=detail, verdict=Verdict.ERROR)
