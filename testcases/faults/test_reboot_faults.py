"""Bugs of a reset: each is caught in a reboot by the check that the catalogue names, with the right diagnosis.

Damage of lines is the caches', a wrong map is the list's, registers and flags are the vCPUs'.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.cases.faults import FAULTS, HostFault
from harness.model.errors import UsageError
from harness.model.result import CaseResult
from harness.model.soft_fault import SoftFault
from harness.model.verdict import Verdict
from testcases.conftest import Player

pytestmark = pytest.mark.vm

LINES = frozenset({("reboot/memory", "line"), ("memory/stale-lines", "old-view")})
SHARED, PRIVATE = "C=0", r"ASID \d+, C=1"

LOOP: dict[str, Any] = {"case": "reboot/loop", "times": 6}
ONE_WAY: dict[str, Any] = {"case": "reboot/loop", "times": 1, "ways": ["acpi"]}
KEXEC: dict[str, Any] = {"case": "reboot/loop", "times": 1, "ways": ["kexec"]}
RENEWED: dict[str, Any] = {**ONE_WAY, "times": 2, "protection": {"renews": True}}
RENEWED_LOOP: dict[str, Any] = {**LOOP, "protection": {"renews": True}}
MOVED: dict[str, Any] = {"case": "reboot/then-migrate", "times": 1, "ways": ["acpi"]}
RENEWED_MOVED: dict[str, Any] = {**MOVED, "case": "reboot/round-trip", "protection": {"renews": True}}
CASES = {
    "loop": LOOP,
    "one way": ONE_WAY,
    "kexec": KEXEC,
    "moved": MOVED,
    "renewed": RENEWED,
    "renewed and moved": RENEWED_MOVED,
}


@dataclass(frozen=True, kw_only=True)
class Caught:
    """One fault in one case, and what has to be said about it; no other check may say anything."""

    fault: SoftFault | HostFault
    on: dict[str, Any] = field(default_factory=lambda: ONE_WAY)
    backends: tuple[str, ...] = ("soft-csv2",)
    finds: frozenset[tuple[str, str]]
    views: str = ""
    """Of damaged lines: a view that is named."""


def _of(kind: str, check: str = "reset/vcpu") -> frozenset[tuple[str, str]]:
    return frozenset({(check, kind)})


ALL = ("soft-sev", "soft-csv", "soft-csv2")
TABLE = (
    Caught(fault=SoftFault.FLUSH_SKIPPED, on=LOOP, backends=ALL, finds=LINES),
    Caught(fault=SoftFault.FLUSH_ONE_CPU, on=LOOP, backends=ALL, finds=LINES, views=SHARED),
    Caught(fault=SoftFault.FLUSH_BEFORE_LAST_WRITE, on=LOOP, backends=ALL, finds=LINES),
    Caught(fault=SoftFault.FLUSH_WRONG_VIEW, on=LOOP, backends=ALL, finds=LINES, views=PRIVATE),
    Caught(fault=SoftFault.FLUSH_LINE_SHORT, on=LOOP, backends=ALL, finds=LINES),
    Caught(
        fault=SoftFault.STATE_STAYS_PROTECTED,
        finds=frozenset({("reset/vcpu", "registers-refused"), ("reset/vcpu", "old-control-registers")}),
    ),
    Caught(fault=SoftFault.STATE_UNPROTECTED, finds=_of("unprotected")),
    Caught(fault=SoftFault.VMSA_SNAPSHOT_STALE, finds=_of("old-vmsa")),
    Caught(fault=SoftFault.GHCB_KEPT, finds=_of("ghcb-kept")),
    Caught(fault=SoftFault.SIPI_FLAG_KEPT, finds=_of("sipi-flag-kept")),
    Caught(fault=SoftFault.READY_KEPT, on=MOVED, finds=_of("ready-kept", "handshake/blocker")),
    Caught(fault=SoftFault.LIST_KEPT_OVER_RESET, backends=ALL, finds=_of("kept-over-reset", "page-map/reset")),
    Caught(fault=SoftFault.KEXEC_KEEPS_RANGES, on=KEXEC, backends=ALL, finds=_of("kept-over-kexec", "page-map/reset")),
)
RENEWS = (Caught(fault=HostFault.MEASUREMENT_KEPT, on=RENEWED, backends=ALL, finds=_of("stale", "reset/measurement")),)
TABLE = (*TABLE, *RENEWS)


def _on(backend: str, *values: Any, name: str) -> Any:
    """One backend for each commit, all of them every night."""
    marks = () if backend == ALL[-1] else (pytest.mark.nightly,)
    return pytest.param(*values, backend, marks=marks, id=f"{name}-{backend}")


ROWS = [_on(backend, row, name=str(row.fault)) for row in TABLE for backend in row.backends]
CLEAN = [_on(backend, words, name=name) for name, words in CASES.items() for backend in ALL]


def played(play: Player, words: dict[str, Any], *faults: str, **more: Any) -> CaseResult:
    rest = {name: value for name, value in words.items() if name != "case"}
    return play(words["case"], *faults, **{**rest, **more})


def found_by(result: CaseResult) -> set[tuple[str, str]]:
    return {(finding.check, finding.kind) for finding in result.findings}


@pytest.mark.parametrize(("row", "backend"), ROWS)
def test_it_is_caught_as_what_it_is(play: Player, row: Caught, backend: str) -> None:
    result = played(play, row.on, row.fault.value, backend=backend)
    assert result.verdict is Verdict.FAIL, result.reason
    assert row.finds <= found_by(result)
    assert {check for check, _ in found_by(result)} == {check for check, _ in row.finds}
    assert FAULTS[row.fault].caught_by.partition(":")[0] in {check for check, _ in row.finds}
    told = [finding.detail for finding in result.findings if finding.check == "memory/stale-lines"]
    assert all(re.search(r"lines of 64 bytes .* written through .*: gpa 0x", detail) for detail in told)
    if row.views:
        assert any(re.search(f"written through {row.views} and", detail) for detail in told)


@pytest.mark.parametrize(("words", "backend"), CLEAN)
def test_the_clean_sibling_is_silent(play: Player, words: dict[str, Any], backend: str) -> None:
    result = played(play, words, backend=backend)
    assert result.verdict is Verdict.PASS, result.reason
    assert result.findings == ()
    assert {"memory/stale-lines", "precondition", "reset/measurement"} <= set(result.checks)
    assert ("reset/vcpu" in result.checks) == (words is not KEXEC)


def test_registers_that_are_not_protected_leave_in_clear(play: Player) -> None:
    """What the flag is for: whoever hosts the guest, and the wire, would read the registers of the next boot."""
    result = played(play, MOVED, SoftFault.STATE_UNPROTECTED.value, backend="soft-csv2")
    assert result.verdict is Verdict.FAIL
    assert {("reset/vcpu", "unprotected"), ("wire/secrecy", "clear-register")} <= found_by(result)


def test_a_last_line_alone_is_damaged_where_the_range_is_a_line_short(play: Player) -> None:
    result = played(play, LOOP, SoftFault.FLUSH_LINE_SHORT.value, backend="soft-csv")
    places = re.findall(r"gpa (0x[0-9a-f]+) is", " ".join(finding.detail for finding in result.findings))
    assert places
    assert {int(place, 16) % 4096 for place in places} == {4096 - 64}


@pytest.mark.parametrize("backend", ALL)
def test_a_new_key_does_not_keep_old_lines_out(play: Player, backend: str) -> None:
    """Lines of the old context that no flush has written back fall over the next boot's memory under its key."""
    result = played(play, RENEWED, SoftFault.FLUSH_SKIPPED.value, backend=backend)
    assert result.verdict is Verdict.FAIL, result.reason
    assert ("memory/stale-lines", "old-view") in found_by(result)


def test_who_reads_nothing_new_does_no_harm_where_the_context_stays(play: Player) -> None:
    result = played(play, ONE_WAY, HostFault.MEASUREMENT_KEPT.value, backend="soft-csv2")
    assert result.verdict is Verdict.ERROR
    assert {(finding.check, finding.kind) for finding in result.findings} == {("precondition", "fault-not-applied")}


def test_a_host_that_renews_is_played_where_nothing_else_than_a_reboot_happens(play: Player) -> None:
    for case in ("memory/precopy", "reboot/during-precopy"):
        with pytest.raises(UsageError, match="renews"):
            play(case, backend="soft-csv", protection={"renews": True})


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("backend", ALL)
def test_a_skipped_flush_is_caught_within_fifty_reboots(play: Player, backend: str, seed: int) -> None:
    result = play("reboot/loop", SoftFault.FLUSH_SKIPPED.value, backend=backend, seed=0x2EB007 + seed)
    assert result.verdict is Verdict.FAIL, result.reason
    assert ("memory/stale-lines", "old-view") in found_by(result)
