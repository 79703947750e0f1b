"""Guest memory after a move, by two witnesses: the guest itself, and the host that compares both sides."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from harness.model.evidence import BlockComparison
from harness.model.guest import GuestMemory, PatternCheck, WorkReport
from harness.model.memory import PageDamage, coalesce
from harness.model.verdict import Finding

GUEST = "memory/guest"
HOST = "memory/host"

_SHOWN_BYTES = 32

_REMEDIES = {
    "stale": "a dirty page was not sent again: look at dirty logging and the last passes",
    "newer": "the ledger went back in time: its own page is stale",
    "swapped": "two pages were exchanged: look at ram_addr <-> gpa translation",
    "torn": "the page was written while it was copied and not sent again",
    "zeroed": "never delivered, or taken for a zero page",
    "line": "cache class: a missing flush, not a missing page",
    "random": "ciphertext or another key: wrong view or lost decryption",
}


def check_guest_memory(memory: GuestMemory) -> tuple[Finding, ...]:
    """Every managed page carries its own gpa in its latest generation, and the ledger agrees with its writers."""
    findings = _by_kind(GUEST, memory.damages)
    told = sum(memory.by_kind.values())
    if memory.pages_bad and not findings:
        findings.append(
            Finding(check=GUEST, kind="changed", where="?", detail=f"{memory.pages_bad} bad pages, none was described")
        )
    if memory.pages_bad > len(memory.damages) and findings:
        kinds = ", ".join(f"{count} {kind}" for kind, count in memory.by_kind.items())
        findings.append(
            Finding(
                check=GUEST,
                kind="more",
                where=f"{memory.pages_checked} pages checked",
                detail=f"{memory.pages_bad} bad pages in all ({kinds or told}), {len(memory.damages)} listed",
            )
        )
    if memory.ledger_sum != memory.written_sum:
        findings.append(
            Finding(
                check=GUEST,
                kind="ledger",
                where="ledger",
                detail=f"the ledger counts {memory.ledger_sum} page writes, the vCPUs {memory.written_sum}",
                remedy=_REMEDIES["newer"],
            )
        )
    if memory.pages_checked == 0:
        findings.append(Finding(check=GUEST, kind="nothing-checked", where="?", detail="the guest verified no page"))
    return tuple(findings)


def check_running_reads(work: WorkReport) -> tuple[Finding, ...]:
    """Damage that a reading workload met while it ran."""
    if not work.damages_seen:
        return ()
    first = (work.first_damage,) if work.first_damage else ()
    found = _by_kind("memory/running-reads", first)
    if found:
        return tuple(found)
    return (
        Finding(
            check="memory/running-reads",
            kind="changed",
            where="?",
            detail=f"{work.damages_seen} pages were wrong when the workload read them",
        ),
    )


def check_host_memory(blocks: Iterable[BlockComparison]) -> tuple[Finding, ...]:
    """Source and destination hold the same bytes in every RAM block."""
    return tuple(finding for block in blocks for finding in _block(block))


def check_pattern(found: PatternCheck) -> tuple[Finding, ...]:
    """Every managed page carries its own gpa in the generation that the guest's ledger tells: the host's own look.

    For a guest whose source is not there to compare with, such as one that was loaded from a captured stream.
    """
    if found.pages_checked == 0:
        return (Finding(check=HOST, kind="nothing-checked", where="?", detail="the host found no page to check"),)
    findings = _by_kind(HOST, found.damages)
    if found.pages_bad > len(found.damages):
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.by_kind.items())
        findings.append(
            Finding(
                check=HOST,
                kind="more",
                where=f"{found.pages_checked} pages checked",
                detail=f"{found.pages_bad} bad pages in all ({kinds}), {len(found.damages)} listed",
            )
        )
    return tuple(findings)


def _block(block: BlockComparison) -> list[Finding]:
    if block.source_bytes != block.destination_bytes:
        return [
            Finding(
                check=HOST,
                kind="size",
                where=block.block,
                detail=f"{block.source_bytes} bytes on the source, {block.destination_bytes} on the destination",
            )
        ]
    if not block.pages_bad:
        return []
    findings = _by_kind(HOST, block.damages, place=f"{block.block} ")
    described = len(block.damages)
    if block.pages_bad > described:
        ranges = ", ".join(str(item) for item in block.ranges[:8])
        findings.append(
            Finding(
                check=HOST,
                kind="more",
                where=f"{block.block} {ranges}" + (" ..." if len(block.ranges) > 8 else ""),
                detail=f"{block.pages_bad} pages differ in all; the first {described} were diagnosed",
            )
        )
    return findings


def _by_kind(check: str, damages: Iterable[PageDamage], *, place: str = "") -> list[Finding]:
    ordered = sorted(damages, key=lambda damage: (damage.kind, damage.gpa))
    return [_finding(check, list(group), place) for _, group in groupby(ordered, key=lambda damage: damage.kind)]


def _finding(check: str, damages: list[PageDamage], place: str) -> Finding:
    first = damages[0]
    ranges = coalesce(damage.gpa & ~0xFFF for damage in damages)
    where = ", ".join(str(item) for item in ranges[:4]) + (
        f" and {len(ranges) - 4} ranges more" if len(ranges) > 4 else ""
    )
    parts = [f"{len(damages)} page{'s' if len(damages) > 1 else ''}", first.detail]
    parts.append(f"{first.lines} of 64 lines wrong, first at {first.first_bad_gpa:#x}")
    if first.expected or first.found:
        parts.append(_bytes_that_differ(first))
    return Finding(
        check=check,
        kind=first.kind.value,
        where=f"{place}gpa {where}" if not place or "ram" in place else f"{place}{where}",
        detail="; ".join(part for part in parts if part),
        remedy=_REMEDIES.get(first.kind.value, ""),
    )


def _bytes_that_differ(damage: PageDamage) -> str:
    """The words of the line from the first that differs."""
    pairs = zip(damage.expected, damage.found, strict=False)
    first = next((index for index, (want, got) in enumerate(pairs) if want != got), 0) & ~7
    shown = slice(first, first + _SHOWN_BYTES)
    return f"expected {damage.expected[shown].hex(' ', 8)}, found {damage.found[shown].hex(' ', 8)} at +{first:#x}"
