"""vCPU state outside the device sections: source against destination."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from harness.checks.host_pins import check_pins
from harness.checks.vcpu_protection import check_aux, check_ghcb, check_ghcb_is_shared, check_vmsa
from harness.model.address_map import AddressMap, Window
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet
from harness.model.protection import ProtectionSnapshot, VcpuProtection
from harness.model.verdict import Finding, Verdict

ADDRESSES = AddressMap(windows=(Window(0, 0, 64),), unmapped=PageSet.empty())
AUX = {"apic_base": 0xFEE00900, "cr0": 0x80000011, "cr4": 0x20, "cr8": 0, "efer": 0xD00}
VCPUS = tuple(
    VcpuProtection(
        vcpu=vcpu, ghcb=(0x10 + vcpu) << 12, is_ghcb_mapped=vcpu == 0, has_first_sipi=vcpu != 2, aux=AUX,
        vmsa_sha256=f"{vcpu:064x}",
    )
    for vcpu in range(3)
)  # fmt: skip
Check = Callable[[Sequence[VcpuProtection], Sequence[VcpuProtection]], tuple[Finding, ...]]
CHECKS: dict[str, Check] = {"vcpu/vmsa": check_vmsa, "vcpu/aux": check_aux, "vcpu/ghcb": check_ghcb}


def with_vcpu(number: int, **members: object) -> tuple[VcpuProtection, ...]:
    return tuple(replace(vcpu, **members) if vcpu.vcpu == number else vcpu for vcpu in VCPUS)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_same_on_both_sides_is_no_finding(check: Check) -> None:
    assert check(VCPUS, tuple(reversed(VCPUS))) == ()


@pytest.mark.parametrize(("name", "check"), CHECKS.items(), ids=CHECKS)
def test_every_vcpu_has_to_arrive_and_no_other(name: str, check: Check) -> None:
    (lost,) = check(VCPUS, VCPUS[:2])
    assert (lost.check, lost.kind, lost.where) == (name, "vcpu-missing", "vcpu 2")
    (surplus,) = check(VCPUS[:2], VCPUS)
    assert (surplus.kind, surplus.where) == ("vcpu-surplus", "vcpu 2")


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_source_without_such_state_proves_nothing(check: Check) -> None:
    bare = tuple(VcpuProtection(vcpu=vcpu, ghcb=0) for vcpu in range(3))
    (found,) = check(bare, bare)
    assert (found.check, found.verdict) == ("precondition", Verdict.ERROR)
    assert check((), ())[0].verdict is Verdict.ERROR


def test_b26_missing_swapped_and_changed_registers() -> None:
    (missing,) = check_vmsa(VCPUS, with_vcpu(2, vmsa_sha256=""))
    assert (missing.kind, missing.where) == ("missing", "vcpu 2")
    assert "B26" in missing.remedy
    swapped = check_vmsa(VCPUS, (*with_vcpu(0, vmsa_sha256=VCPUS[1].vmsa_sha256)[:1], *VCPUS[1:]))
    assert [finding.kind for finding in swapped] == ["swapped"]
    assert "vcpu 1" in swapped[0].remedy
    (changed,) = check_vmsa(VCPUS, with_vcpu(1, vmsa_sha256="f" * 64))
    assert changed.kind == "changed"
    assert "ffffffffffff" in changed.detail


def test_b27_each_register_beside_the_vmsa_is_named() -> None:
    found = check_aux(VCPUS, with_vcpu(1, aux={**AUX, "cr0": 0x60000010, "efer": 0}))
    assert [(finding.kind, finding.where) for finding in found] == [
        ("changed", "vcpu 1 cr0"),
        ("changed", "vcpu 1 efer"),
    ]
    assert found[0].detail == "cr0 was 0x80000011, the destination has 0x60000010"
    (gone,) = check_aux(VCPUS, with_vcpu(1, aux={name: value for name, value in AUX.items() if name != "cr4"}))
    assert (gone.kind, gone.where) == ("missing", "vcpu 1 cr4")


def test_b28_a_lost_value_and_lost_flags() -> None:
    (lost,) = check_ghcb(VCPUS, with_vcpu(1, ghcb=0))
    assert (lost.check, lost.kind, lost.where) == ("vcpu/ghcb", "lost", "vcpu 1")
    (changed,) = check_ghcb(VCPUS, with_vcpu(1, ghcb=0x012))
    assert changed.kind == "changed"
    (mapped,) = check_ghcb(VCPUS, with_vcpu(0, is_ghcb_mapped=False))
    assert mapped.kind == "mapped-flag"
    (sipi,) = check_ghcb(VCPUS, with_vcpu(2, has_first_sipi=True))
    assert (sipi.kind, sipi.detail) == ("first-sipi-flag", "flag first-sipi was 0, the destination has 1")


def test_b14_a_ghcb_lies_in_a_shared_page() -> None:
    shared = PageMap(total_pages=64, shared=PageSet.of((0x10, 0x13)))
    assert check_ghcb_is_shared(VCPUS, shared, ADDRESSES) == ()
    private = shared.with_pages(PageSet.of((0x11, 0x12)), private=True)
    (found,) = check_ghcb_is_shared(VCPUS, private, ADDRESSES)
    assert (found.kind, found.where) == ("not-shared", "vcpu 1")
    assert "private page, gpa 0x11000-0x11fff" in found.detail
    (outside,) = check_ghcb_is_shared(with_vcpu(1, ghcb=0x50 << 12), shared, ADDRESSES)
    assert "outside of RAM" in outside.detail
    assert check_ghcb_is_shared(with_vcpu(1, ghcb=0x012), shared, ADDRESSES) == ()


def test_b33_pins_that_stay() -> None:
    snapshot = ProtectionSnapshot(
        page_map=PageMap.all_private(64),
        initial=PageMap.all_private(64),
        entries=(),
        conversions=(),
        vcpus=(),
        commands=(),
        handshake=(),
        state="running",
    )
    assert check_pins(snapshot, role="src") == ()
    (found,) = check_pins(replace(snapshot, pinned_pages=2047), role="src")
    assert (found.check, found.kind, found.where) == ("host/pins", "leaked", "src")
    assert "2047 pages" in found.detail
