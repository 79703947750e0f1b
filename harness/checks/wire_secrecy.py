"""Nothing that the guest keeps private is readable on the wire, ever."""

from __future__ import annotations

from harness.model.memory import GpaRange
from harness.model.protection import SealedRecords
from harness.model.verdict import Finding

CHECK = "wire/secrecy"

_SHOWN = 4


def check_secrecy(records: SealedRecords) -> tuple[Finding, ...]:
    """No plain record carries a line that the guest wrote through a private mapping, no cpu section a register.

    An observer of the wire counts both (:class:`SealedRecords`); a stream without any record of private memory proves
    nothing, see :mod:`harness.checks.protection_preconditions`.
    """
    findings = []
    if records.clear_private_pages:
        detail = f"{records.clear_private_pages} of {records.plain_pages} plain records carry lines written as private"
        remedy = "where the guest says private and the host's list says shared it is the map: page-map/views; else the "
        remedy += "sender leaks"
        where = _places(records.clear_private_ranges)
        findings.append(Finding(check=CHECK, kind="clear-page", where=where, detail=detail, remedy=remedy))
    if records.clear_registers:
        first = ", ".join(records.clear_registers[:_SHOWN])
        more = len(records.clear_registers) - _SHOWN
        findings.append(
            Finding(
                check=CHECK,
                kind="clear-register",
                where=f"{first} and {more} more" if more > 0 else first,
                detail="a register of an encrypted vCPU is readable in its cpu section",
                remedy="what the VMSA carries must be zero in the device state",
            )
        )
    return tuple(findings)


def _places(ranges: tuple[GpaRange, ...]) -> str:
    if not ranges:
        return "main memory"
    shown = ", ".join(map(str, ranges[:_SHOWN]))
    more = len(ranges) - _SHOWN
    return f"gpa {shown} and {more} ranges more" if more > 0 else f"gpa {shown}"
