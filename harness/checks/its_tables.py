"""The ITS's tables in guest memory mean the same on both sides, before the destination runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from harness.model.translation import Translation
from harness.model.verdict import Finding

CHECK = "irq/its-tables"
_REMEDY = "devices raise it for ever, and nobody or somebody else hears: compare the tables that GITS_BASER names"


def check_translations(source: Collection[Translation], destination: Collection[Translation]) -> tuple[Finding, ...]:
    """Each event of *source* becomes the same LPI of the same vCPU at the *destination*."""
    return tuple(_differences(set(source), set(destination)))


def _differences(source: set[Translation], destination: set[Translation]) -> Iterator[Finding]:
    theirs = {(one.device, one.event): one for one in destination - source}
    for one in sorted(source - destination):
        other = theirs.pop((one.device, one.event), None)
        detail = f"{_words(one)} at the source, {_words(other) if other else 'nothing'} at the destination"
        yield _finding("changed" if other else "lost", one, detail)
    for one in sorted(theirs.values()):
        yield _finding("appeared", one, f"{_words(one)} at the destination, nothing at the source")


def _words(one: Translation) -> str:
    return f"{'virtual ' if one.is_virtual else ''}LPI {one.intid} of vCPU {one.vcpu}"


def _finding(kind: str, one: Translation, detail: str) -> Finding:
    where = f"device {one.device:#x} event {one.event}"
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=_REMEDY)
