"""A wire or a guest that fails ends a case inside its deadline, with what QEMU or the guest itself said of it."""

from __future__ import annotations

import pytest

from harness.migration.relay.books import Books
from harness.migration.stream.elements import Element, RamPages
from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from testcases.conftest import Player

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("clean")]

DEADLINE_S = 15
STALL_DEADLINE_S = 20
"""A wire counts as stalled after 5 s without a byte; a busy machine takes its time to get that far."""


@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize(
    ("fault", "verdict", "words"),
    [
        ("wire-cut:at_fraction=0", Verdict.FAIL, "qemu-system-x86_64:"),
        ("wire-cut:at_fraction=0.9", Verdict.FAIL, "qemu-system-x86_64:"),
        ("wire-truncate:at_fraction=0.5", Verdict.FAIL, "qemu-system-x86_64:"),
        ("wire-stall:at_fraction=0.2", Verdict.FAIL, "no byte was transferred"),
        ("wire-slow:bytes_per_s=2000000", Verdict.TOO_SLOW, "no convergence"),
        ("wire-corrupt-header", Verdict.FAIL, "Not a migration stream"),
        ("host-other-machine", Verdict.FAIL, "Machine type received is"),
    ],
)
def test_a_bad_wire_ends_inside_the_deadline(
    play: Player, fault: str, verdict: Verdict, words: str, transport: str
) -> None:
    deadline_s = STALL_DEADLINE_S if fault.startswith("wire-stall") else DEADLINE_S
    result = play("memory/precopy", fault, memory_mib=64, deadline_s=deadline_s, transport=transport)
    judge(result, verdict, words, deadline_s=deadline_s)


@pytest.mark.parametrize(
    ("fault", "words"), [("guest-crash", "the guest crashed: vector 6"), ("guest-hang", "until the deadline")]
)
def test_a_bad_guest_ends_inside_the_deadline(play: Player, fault: str, words: str) -> None:
    judge(play("memory/precopy", fault, memory_mib=64, deadline_s=DEADLINE_S), Verdict.FAIL, words)


def test_a_relay_that_breaks_is_our_error_and_no_failure_of_qemu(play: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Books, element: Element) -> None:
        if isinstance(element, RamPages):
            raise ZeroDivisionError

    monkeypatch.setattr(Books, "element", broken)
    result = play("memory/precopy", memory_mib=64, deadline_s=DEADLINE_S)
    judge(result, Verdict.ERROR, "bug in the harness: the relay broke: ZeroDivisionError()")


def judge(result: CaseResult, verdict: Verdict, words: str, *, deadline_s: float = DEADLINE_S) -> None:
    assert result.verdict is verdict, result.reason
    assert words in result.reason
    assert "\n" not in result.reason
    assert result.timings["total_s"] < deadline_s + 1
