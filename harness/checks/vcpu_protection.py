"""What KVM and the secure processor keep of each vCPU, on the source at STOP against the destination before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from harness.checks.page_map import place
from harness.model.address_map import AddressMap
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet
from harness.model.protection import VcpuProtection
from harness.model.verdict import Finding, Verdict

VMSA = "vcpu/vmsa"
AUX = "vcpu/aux"
GHCB = "vcpu/ghcb"

_SHOWN_DIGITS = 12

Compare = Callable[[VcpuProtection, VcpuProtection], Iterator[Finding]]


def check_vmsa(source: Sequence[VcpuProtection], destination: Sequence[VcpuProtection]) -> tuple[Finding, ...]:
    """Each vCPU has its own register page again, and no other's (B26)."""
    if not any(vcpu.vmsa_sha256 for vcpu in source):
        return (_unmet("no-vmsa", "no vCPU of the source has a VMSA, so none could be lost"),)
    owners = {vcpu.vmsa_sha256: vcpu.vcpu for vcpu in source if vcpu.vmsa_sha256}

    def compare(sent: VcpuProtection, arrived: VcpuProtection) -> Iterator[Finding]:
        if arrived.vmsa_sha256 == sent.vmsa_sha256:
            return
        told = f"sha256 {_short(sent.vmsa_sha256)} was sent, the destination holds {_short(arrived.vmsa_sha256)}"
        kind, remedy = "changed", "compare the VMSA packet of this vCPU on both sides"
        if not arrived.vmsa_sha256:
            kind, remedy = "missing", "class B26: its VMSA was not sent or not loaded, it would start in reset state"
        elif arrived.vmsa_sha256 in owners:
            kind, remedy = "swapped", f"class B26: it holds the registers of vcpu {owners[arrived.vmsa_sha256]}"
        yield _finding(VMSA, kind, sent, told, remedy)

    return _each(VMSA, source, destination, compare)


def check_aux(source: Sequence[VcpuProtection], destination: Sequence[VcpuProtection]) -> tuple[Finding, ...]:
    """What KVM tracks beside the VMSA is what it was: apic_base, cr0, cr4, cr8, efer (B27)."""
    if not any(vcpu.aux for vcpu in source):
        return (_unmet("no-aux", "no register that KVM tracks was seen on the source"),)

    def compare(sent: VcpuProtection, arrived: VcpuProtection) -> Iterator[Finding]:
        for name, value in sent.aux.items():
            found = arrived.aux.get(name)
            if found == value:
                continue
            now = "the destination has none" if found is None else f"the destination has {found:#x}"
            remedy = "class B27: KVM takes the vCPU for one in another mode, and emulates its instructions wrongly"
            kind = "missing" if found is None else "changed"
            yield _finding(AUX, kind, sent, f"{name} was {value:#x}, {now}", remedy, name)

    return _each(AUX, source, destination, compare)


def check_ghcb(source: Sequence[VcpuProtection], destination: Sequence[VcpuProtection]) -> tuple[Finding, ...]:
    """Each vCPU has its GHCB value again, and both flags that travel with it (B28)."""
    if not any(vcpu.ghcb for vcpu in source):
        return (_unmet("no-ghcb", "no vCPU of the source has a GHCB value, so none could be lost"),)

    def compare(sent: VcpuProtection, arrived: VcpuProtection) -> Iterator[Finding]:
        if arrived.ghcb != sent.ghcb:
            kind, remedy = "changed", "class B28: MSR 0xc0010130 travels in the subsection cpu/svm_msr_ghcb_gpa"
            if not arrived.ghcb:
                kind, remedy = "lost", f"{remedy}, only when it is not zero"
            yield _finding(GHCB, kind, sent, f"was {sent.ghcb:#x}, the destination has {arrived.ghcb:#x}", remedy)
        flags = (
            ("mapped", 63, sent.is_ghcb_mapped, arrived.is_ghcb_mapped),
            ("first-sipi", 62, sent.has_first_sipi, arrived.has_first_sipi),
        )
        for name, bit, was, now in flags:
            if was != now:
                detail = f"flag {name} was {was:d}, the destination has {now:d}"
                remedy = f"class B28: bit {bit} of the value that travels; an AP may never start, or start twice"
                yield _finding(GHCB, f"{name}-flag", sent, detail, remedy)

    return _each(GHCB, source, destination, compare)


def check_ghcb_is_shared(
    vcpus: Sequence[VcpuProtection], page_map: PageMap, addresses: AddressMap
) -> tuple[Finding, ...]:
    """The GHCB of a vCPU in the page protocol lies in a page that the host's list has as shared (B14)."""
    findings = []
    for vcpu in vcpus:
        if not vcpu.ghcb or vcpu.ghcb % PAGE_SIZE:
            continue
        gfn = vcpu.ghcb >> PAGE_SHIFT
        pages, nowhere = addresses.to_ram(PageSet.of((gfn, gfn + 1)))
        if not nowhere and pages.issubset(page_map.shared):
            continue
        why = "lies outside of RAM" if nowhere else f"lies in a private page, {place(addresses, pages)}"
        remedy = "class B14: the host would read ciphertext as a request, or map nothing"
        findings.append(_finding(GHCB, "not-shared", vcpu, f"GHCB {vcpu.ghcb:#x} {why}", remedy))
    return tuple(findings)


def _each(
    check: str, source: Sequence[VcpuProtection], destination: Sequence[VcpuProtection], compare: Compare
) -> tuple[Finding, ...]:
    arrived = {vcpu.vcpu: vcpu for vcpu in destination}
    findings: list[Finding] = []
    for sent in source:
        other = arrived.get(sent.vcpu)
        if other is None:
            detail = "the destination knows nothing of it"
            findings.append(_finding(check, "vcpu-missing", sent, detail, "same topology on both sides?"))
        else:
            findings += compare(sent, other)
    known = {vcpu.vcpu for vcpu in source}
    surplus = [vcpu for vcpu in destination if vcpu.vcpu not in known]
    findings += [_finding(check, "vcpu-surplus", vcpu, "the source has no such vCPU") for vcpu in surplus]
    return tuple(findings)


def _short(digest: str) -> str:
    return digest[:_SHOWN_DIGITS] or "none"


def _finding(check: str, kind: str, vcpu: VcpuProtection, detail: str, remedy: str = "", register: str = "") -> Finding:
    where = f"vcpu {vcpu.vcpu} {register}".rstrip()
    return Finding(check=check, kind=kind, where=where, detail=detail, remedy=remedy)


def _unmet(kind: str, detail: str) -> Finding:
    return Finding(check="precondition", kind=kind, where="vCPUs", detail=detail, verdict=Verdict.ERROR)
