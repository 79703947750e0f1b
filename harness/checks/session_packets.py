"""Packets between two secure processors: each that was made is taken, once, in order, unchanged, in its own place."""

from __future__ import annotations

from collections.abc import Iterator

from harness.checks.page_map import place
from harness.checks.refusals import words_of
from harness.checks.session import succeeded
from harness.confidential.soft.memory.firmware import block_page_of
from harness.confidential.soft.processor.status import FirmwareStatus
from harness.model.address_map import AddressMap
from harness.model.page_set import PageSet
from harness.model.protection import AttemptEnd, SessionCommand, SessionEvidence
from harness.model.verdict import Finding

CHECK = "session/packets"

_REMEDIES: dict[int, str] = {
    FirmwareStatus.BAD_MEASUREMENT: "it was changed on its way, came with another page's address, or is of another "
    "session",
    FirmwareStatus.SECURE_DATA_INVALID: "it came twice, too early or too late, or one before it is missing",
    FirmwareStatus.INVALID_LENGTH: "it was cut short, or its lengths were changed",
}
_SHOWN = 8


def check_packets(evidence: SessionEvidence, addresses: AddressMap) -> tuple[Finding, ...]:
    """The destination took every packet that the source made."""
    findings = [*_refused(evidence, addresses)]
    if evidence.end is AttemptEnd.COMPLETED:
        findings += _counts(evidence)
    return tuple(findings)


def _refused(evidence: SessionEvidence, addresses: AddressMap) -> Iterator[Finding]:
    taken, shown = 0, 0
    for command in evidence.destination:
        if not command.name.startswith("receive-update"):
            continue
        if command.status == 0:
            taken += command.count
            continue
        shown += 1
        if shown > _SHOWN:
            return
        yield Finding(
            check=CHECK,
            kind="refused",
            where=_where(command, addresses),
            detail=f"{words_of(command)}, after {taken} packets that were taken",
            remedy=_REMEDIES.get(command.status, ""),
        )


def _where(command: SessionCommand, addresses: AddressMap) -> str:
    if command.vcpu is not None:
        return f"vcpu {command.vcpu}"
    if command.ram_page is None:
        return f"destination {command.name}"
    if (block_page := block_page_of(command.ram_page)) is not None:
        return f"page {block_page:#x} of the firmware's block"
    if command.ram_page >= addresses.pages:
        return f"RAM page {command.ram_page:#x}, beyond {addresses.pages:#x} pages of main memory"
    return place(addresses, PageSet.of((command.ram_page, command.ram_page + 1)))


def _counts(evidence: SessionEvidence) -> Iterator[Finding]:
    for what in ("data", "vmsa"):
        made = succeeded(evidence.source, f"send-update-{what}")
        taken = succeeded(evidence.destination, f"receive-update-{what}")
        if made != taken:
            yield Finding(
                check=CHECK,
                kind="missing" if taken < made else "surplus",
                where=f"update-{what}",
                detail=f"the source made {made} packets, the destination took {taken}",
                remedy="a packet that is missing at the end is refused by nobody: only the counts tell",
            )
