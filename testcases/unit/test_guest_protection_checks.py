"""What the guest itself met after a move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.checks.guest_protection import check_backing, check_errands, check_vc
from harness.model.protection import ProtectionCounters, VcpuErrands
from harness.model.verdict import Finding, Verdict

FINE = tuple(VcpuErrands(vcpu=vcpu, mmio_ok=8, mmio_bad=0, ipi_ok=True) for vcpu in range(3))


def told(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.check, finding.kind, finding.where) for finding in findings]


def test_errands_that_went_well_are_no_finding() -> None:
    assert check_errands(FINE, vcpus=3, reads=8, during=ProtectionCounters(mmio_ok=24)) == ()


def test_each_errand_that_failed_is_told_with_its_vcpu() -> None:
    bad = (replace(FINE[0], mmio_bad=2), replace(FINE[1], ipi_ok=False), replace(FINE[2], mmio_ok=0))
    found = check_errands(bad, vcpus=4, reads=8, during=ProtectionCounters(ghcb_errors=5))
    assert told(found) == [
        ("guest/errands", "silent", "vcpu 3"),
        ("guest/errands", "mmio", "vcpu 0"),
        ("guest/errands", "ipi", "vcpu 1"),
        ("guest/errands", "silent", "vcpu 2"),
        ("guest/errands", "ghcb", "guest"),
    ]
    assert found[1].detail == "2 of 10 MMIO reads gave wrong data"


def test_errands_that_nobody_did_prove_nothing() -> None:
    (found,) = check_errands((), vcpus=3, reads=8)
    assert (found.check, found.verdict) == ("precondition", Verdict.ERROR)


def test_reads_that_were_not_finished_are_told() -> None:
    found = check_errands(tuple(replace(errand, mmio_ok=7) for errand in FINE), vcpus=3, reads=8)
    assert [finding.detail for finding in found] == ["it finished 7 of 8 MMIO reads"] * 3


def test_a_guest_without_vc_or_with_one_vcpu_has_fewer_errands() -> None:
    plain = tuple(replace(errand, mmio_ok=0) for errand in FINE)
    assert check_errands(plain, vcpus=3, reads=0) == ()
    assert check_errands((replace(FINE[0], ipi_ok=False),), vcpus=1, reads=8) == ()


def test_b2_nesting_and_interrupts_within_the_handler() -> None:
    counted = ProtectionCounters(vc_entries=100)
    assert check_vc(counted) == ()
    found = check_vc(replace(counted, vc_nested=3, vc_interrupts_on=9))
    assert [finding.kind for finding in found] == ["nested", "interrupts-on"]
    assert all("B2:" in finding.remedy for finding in found)
    assert check_vc(ProtectionCounters())[0].verdict is Verdict.ERROR


def test_b21_old_content_after_a_conversion() -> None:
    assert check_backing(stale_pages=0, tried_pages=16) == ()
    (found,) = check_backing(stale_pages=2, tried_pages=16)
    assert (found.check, found.kind) == ("guest/backing", "stale")
    assert check_backing(stale_pages=0, tried_pages=0)[0].verdict is Verdict.ERROR


def test_counters_tell_what_was_added() -> None:
    before = ProtectionCounters(vc_entries=5, mmio_ok=5)
    assert replace(before, vc_entries=9).since(before) == ProtectionCounters(vc_entries=4)
