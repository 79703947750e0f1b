"""Every fault of the software platform is caught by the check that the catalogue names, with the right diagnosis."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cases.circumstances import NEEDS, Circumstance, Needs
from harness.model.result import CaseResult
from harness.model.soft_fault import SOFT_FAULTS, SoftFault
from harness.model.verdict import Verdict
from testcases.conftest import Player
from testcases.faults.test_reboot_faults import TABLE as OF_REBOOTS

pytestmark = pytest.mark.vm

CASE = "pagemap/precopy"
SMALL = {"memory_mib": 80}
"""A guest of which 32 MiB lie beyond the hole: all that most faults need, in half the time."""
BLOCKED, LOST, TOO_SLOW = Verdict.BLOCKED, Verdict.LOST, Verdict.TOO_SLOW
REFUSED = ("session/packets", "refused")

DIAGNOSES: dict[SoftFault, tuple[str, str] | Verdict] = {
    SoftFault.VC_ENABLES_INTERRUPTS: ("guest/vc", "interrupts-on"),
    SoftFault.UNALIGNED_UNDERCOUNT: ("page-map/views", "undercounted"),
    SoftFault.SEC_GHCB_UNREPORTED: ("page-map/views", "never-reported"),
    SoftFault.VC_DROPS_REGISTERS: ("page-map/hypercalls", "zero-arguments"),
    SoftFault.ASSERT_WITHOUT_FEATURE: ("handshake/blocker", "assert-without-feature"),
    SoftFault.VARIABLE_MISSING: BLOCKED,
    SoftFault.FLASH0_SHARED: ("page-map/blocks", "shared-record"),
    SoftFault.KEXEC_KEEPS_RANGES: ("page-map/reset", "kept-over-kexec"),
    SoftFault.RETRY_IGNORED: ("page-map/views", "never-reported"),
    SoftFault.REUSES_UNCONVERTED: ("page-map/views", "failed-conversion"),
    SoftFault.LIST_KEPT_OVER_RESET: ("page-map/reset", "kept-over-reset"),
    SoftFault.LIST_LOSES_NEIGHBOUR: ("page-map/views", "mismatch"),
    SoftFault.LIST_NOT_MERGED: ("page-map/list", "not-merged"),
    SoftFault.PAGE_SIZE_AS_ENCRYPTED: ("page-map/views", "page-size-bits"),
    SoftFault.GFN_TRUNCATED: ("page-map/views", "narrow-frames"),
    SoftFault.RAM_OFFSET_AS_GPA: ("page-map/views", "offset-for-gpa"),
    SoftFault.LIST_NOT_SENT: ("page-map/views", "not-carried"),
    SoftFault.LIST_APPENDED: ("page-map/views", "mismatch"),
    SoftFault.STALE_BACKING: ("guest/backing", "stale"),
    SoftFault.RECEIVE_WITHOUT_FLUSH: ("memory/host", "line"),
    SoftFault.READY_KEPT: ("handshake/blocker", "ready-kept"),
    SoftFault.BLOCKER_TWICE: ("handshake/blocker", "blocker-twice"),
    SoftFault.BLOCKER_LATE: ("handshake/blocker", "blocker-late"),
    SoftFault.VMSA_NOT_SENT: ("vcpu/vmsa", "missing"),
    SoftFault.VMSA_SWAPPED: ("vcpu/vmsa", "swapped"),
    SoftFault.AUX_NOT_RESTORED: ("vcpu/aux", "changed"),
    SoftFault.GHCB_LOST: ("vcpu/ghcb", "lost"),
    SoftFault.SIPI_FLAG_LOST: ("vcpu/ghcb", "first-sipi-flag"),
    SoftFault.FINISH_ON_FAILURE: ("session/commands", "finish-after-failure"),
    SoftFault.LENGTH_QUERY_IGNORED: LOST,
    SoftFault.DIRTY_FORGOTTEN: ("memory/host", "zeroed"),
    SoftFault.CERTIFICATE_AS_FILE_NAME: ("session/commands", "refused"),
    SoftFault.WINDOW_LOSES_EDGE: ("wire/records", "private-without-packet"),
    SoftFault.PINS_LEAKED: ("host/pins", "leaked"),
    SoftFault.OTHER_TREES_FLAGS: ("wire/records", "unknown-flag"),
    SoftFault.PRIVATE_IN_CLEAR: ("wire/secrecy", "clear-page"),
    SoftFault.IGNORES_NOSEND: ("session/commands", "sent-against-policy"),
    SoftFault.WRONG_CERTIFICATE: ("session/commands", "refused"),
    SoftFault.SLOW: TOO_SLOW,
    SoftFault.SENT_RUNS_AGAIN: ("session/commands", "runs-after-sent"),
    SoftFault.PACKET_TAMPERED: REFUSED,
    SoftFault.PACKET_REPLAYED: REFUSED,
    SoftFault.PACKET_REORDERED: REFUSED,
    SoftFault.PACKET_TRUNCATED: REFUSED,
    SoftFault.PACKET_MISPLACED: REFUSED,
    SoftFault.PACKET_DROPPED: REFUSED,
    SoftFault.PACKET_OF_OTHER_SESSION: REFUSED,
}
"""What each is found as. A verdict stands alone: no finding accuses the product of anything."""

FORBIDDING = {SoftFault.ASSERT_WITHOUT_FEATURE, SoftFault.IGNORES_NOSEND}
"""Without the fault these circumstances end blocked, as they should."""
CONTENT_DIES = (SoftFault.LIST_LOSES_NEIGHBOUR, SoftFault.RAM_OFFSET_AS_GPA, SoftFault.PAGE_SIZE_AS_ENCRYPTED)
"""Faults of the map at which pages with a pattern travel as the wrong kind."""


def size_for(needs: Needs | None) -> dict[str, int]:
    """A conversion of 32 MiB leaves too little else of a small guest."""
    return {} if needs and Circumstance.LARGE in needs.circumstances else SMALL


def findings_of(result: CaseResult) -> set[tuple[str, str]]:
    return {(finding.check, finding.kind) for finding in result.findings}


@pytest.mark.parametrize("fault", DIAGNOSES, ids=str)
def test_the_named_check_catches_it(play: Player, fault: SoftFault) -> None:
    result = play(CASE, fault.value, **size_for(NEEDS.get(fault)))
    expected = DIAGNOSES[fault]
    if isinstance(expected, Verdict):
        assert result.verdict is expected, result.reason
        assert findings_of(result) == set()
        assert SOFT_FAULTS[fault].caught_by == expected.value
        return
    assert result.verdict.is_bad, result.reason
    assert expected in findings_of(result)
    assert SOFT_FAULTS[fault].caught_by == expected[0]


def _siblings() -> dict[str, tuple[dict[str, Any], Verdict]]:
    """Circumstances that faults bring along, each once, and how they end without the fault."""
    found: dict[str, tuple[dict[str, Any], Verdict]] = {"plain": (size_for(None), Verdict.PASS)}
    for fault, needs in NEEDS.items():
        if fault is SoftFault.SLOW:
            continue
        found[str(fault)] = (_words(needs), BLOCKED if fault in FORBIDDING else Verdict.PASS)
    return found


def _words(needs: Needs) -> dict[str, Any]:
    circumstances = sorted(each.value for each in needs.circumstances)
    protection = {f"protection.{name}": value for name, value in needs.protection.items()}
    return {
        **size_for(needs),
        **needs.settings,
        **protection,
        **({"circumstances": ",".join(circumstances)} if circumstances else {}),
    }


@pytest.mark.parametrize(("words", "verdict"), _siblings().values(), ids=_siblings())
def test_the_clean_sibling_is_silent(play: Player, words: dict[str, Any], verdict: Verdict) -> None:
    result = play(CASE, **words)
    assert result.verdict is verdict, result.reason
    assert result.findings == ()


def test_the_table_covers_the_catalogue() -> None:
    of_reboots = {row.fault for row in OF_REBOOTS if isinstance(row.fault, SoftFault)}
    assert set(DIAGNOSES) | of_reboots == set(SOFT_FAULTS)


@pytest.mark.parametrize("fault", ["gfw-sec-ghcb-unreported", "qemu-list-not-merged", "kvm-pins-leaked"])
def test_a_fault_without_a_target_is_an_error_and_no_pass(play: Player, fault: str) -> None:
    result = play("memory/precopy", fault, backend="soft-sev", memory_mib=64)
    assert result.verdict is Verdict.ERROR, result.reason
    assert findings_of(result) == {("precondition", "fault-not-seen")}


@pytest.mark.parametrize("fault", CONTENT_DIES, ids=str)
def test_a_wrong_map_really_destroys_pages(play: Player, fault: SoftFault) -> None:
    """The emulation hurts: what travels as the wrong kind is garbage to the guest."""
    # What the workload writes over before the guest looks at it is not seen; so it writes to a tenth of its memory.
    found = findings_of(play(CASE, fault.value, **SMALL, working_set_mib=8))
    assert ("memory/host", "random") in found
    # A single page may lie in that tenth.
    assert ("memory/guest", "random") in found or fault is SoftFault.LIST_LOSES_NEIGHBOUR


def test_firmware_that_travelled_in_clear_is_garbage(play: Player) -> None:
    result = play(CASE, SoftFault.FLASH0_SHARED.value, **SMALL)
    assert findings_of(result) == {("page-map/blocks", "shared-record"), ("memory/host", "changed")}
