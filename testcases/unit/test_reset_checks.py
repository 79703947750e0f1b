"""What is said of a reset: the calls around it, its end, the kernel's log; and the table of what to expect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.checks.kernel_log import check_kernel_log
from harness.checks.reboot_end import check_reboot_end
from harness.checks.reset_calls import check_reset_calls
from harness.checks.reset_measurement import ContextsOverReset, check_contexts
from harness.confidential.backend import BACKENDS
from harness.model.protection import LaunchIdentity
from harness.model.reboot import REBOOTS, RebootOutcome, expected_reboot
from harness.model.reset import (
    POST_SYSTEM_RESET,
    PRE_SYSTEM_RESET,
    IoctlCall,
    IoctlTrace,
    KernelLogDifference,
    MachineEvent,
    RebootEnd,
    ResetEvidence,
)
from harness.model.verdict import Finding, Verdict, verdict_of

CALLS = RebootOutcome.PASSES_WITH_CALLS
KINDS = {"P": PRE_SYSTEM_RESET, "Q": POST_SYSTEM_RESET}


def evidence(order: str, *, result: int | None = 0, error: str = "", others: int = 100) -> ResetEvidence:
    """``PRQ`` is PRE, a RESET event, POST; each a second after the other."""
    events, calls = [], []
    for at_s, letter in enumerate(order, 100):
        if letter == "R":
            events.append(MachineEvent(name="RESET", reason="guest-reset", by_guest=True, at_s=at_s))
        else:
            calls.append(IoctlCall(at_s=at_s, thread=7, fd=9, request=KINDS[letter], result=result, error=error))
    trace = IoctlTrace(pid=7, started_s=99, ended_s=999, calls=tuple(calls), others=others, end="asked")
    return ResetEvidence(events=tuple(events), trace=trace)


def kinds(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where.partition(" (")[0]) for finding in findings]


@pytest.mark.parametrize("resets", [1, 2, 50])
def test_a_pair_around_each_reset_is_right(resets: int) -> None:
    assert check_reset_calls(evidence("PRQ" * resets), expected=CALLS) == ()


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ("RQ", [("pre-missing", "reset 1")]),
        ("PR", [("post-missing", "reset 1")]),
        ("PRQRQPRQ", [("pre-missing", "reset 2")]),
        ("PRQPRPRQ", [("post-missing", "reset 2")]),
        ("PPRQ", [("pre-twice", "reset 1")]),
        ("PRQPRQQ", [("post-twice", "reset 2")]),
        ("RPQ", [("pre-late", "reset 1")]),
        ("PQR", [("post-early", "reset 1")]),
        ("PRQPQR", [("post-early", "reset 2")]),
        ("PRQRPQ", [("pre-late", "reset 2")]),
        ("PQRQ", [("stray", "QEMU")]),
        ("PRQPQ", [("stray", "QEMU")]),
        ("QRP", [("pre-missing", "reset 1"), ("post-missing", "reset 1")]),
        ("RR", [("not-called", "QEMU")]),
    ],
)
def test_what_is_wrong_is_told_of_the_reset_that_it_is_wrong_of(order: str, told: list[tuple[str, str]]) -> None:
    findings = check_reset_calls(evidence(order), expected=CALLS)
    assert kinds(findings) == told
    assert verdict_of(findings) is Verdict.FAIL
    assert all(finding.remedy for finding in findings)


def test_a_kernel_without_the_ioctls_is_unsupported() -> None:
    findings = check_reset_calls(evidence("PRQPRQ", result=-1, error="ENOTTY"), expected=CALLS)
    assert kinds(findings) == [("no-ioctls", "kernel")]
    assert verdict_of(findings) is Verdict.UNSUPPORTED


@pytest.mark.parametrize(("result", "error", "words"), [(-1, "EIO", "EIO"), (None, "", "no answer"), (3, "", "3")])
def test_another_answer_than_0_is_a_defect(result: int | None, error: str, words: str) -> None:
    findings = check_reset_calls(evidence("PRQ", result=result, error=error), expected=CALLS)
    assert kinds(findings) == [("refused", "thread 7")] * 2
    assert words in findings[0].detail


def test_one_call_of_two_that_is_not_there_is_a_defect() -> None:
    whole = evidence("PRQ")
    assert whole.trace
    pre, post = whole.trace.calls
    trace = replace(whole.trace, calls=(pre, replace(post, result=-1, error="ENOTTY")))
    findings = check_reset_calls(replace(whole, trace=trace), expected=CALLS)
    assert kinds(findings) == [("refused", "thread 7")]
    assert "POST_SYSTEM_RESET" in findings[0].detail


def test_where_nobody_looked_nothing_is_known() -> None:
    unwatched = replace(evidence("PRQ"), trace=None)
    assert verdict_of(check_reset_calls(unwatched, expected=CALLS)) is Verdict.UNSUPPORTED
    assert check_reset_calls(unwatched, expected=RebootOutcome.PASSES) == ()


def test_a_trace_that_cannot_tell_is_an_error_of_ours() -> None:
    whole = evidence("PRQ")
    assert whole.trace
    for kind, broken in (
        ("no-reset", evidence("PQ")),
        ("blind", evidence("R", others=0)),
        ("unread", replace(whole, trace=replace(whole.trace, unread=1))),
        ("not-covered", replace(whole, trace=replace(whole.trace, started_s=101.5))),
        ("not-covered", replace(whole, trace=replace(whole.trace, ended_s=100.5))),
    ):
        findings = check_reset_calls(broken, expected=CALLS)
        assert kinds(findings) == [(kind, "trace")]
        assert verdict_of(findings) is Verdict.ERROR


def test_calls_are_judged_where_they_come_and_not_missed_where_they_need_not() -> None:
    assert check_reset_calls(evidence("RR"), expected=RebootOutcome.PASSES) == ()
    assert kinds(check_reset_calls(evidence("PR"), expected=RebootOutcome.PASSES)) == [("post-missing", "reset 1")]
    assert check_reset_calls(evidence("PR"), expected=RebootOutcome.NEW_CONTEXT) == ()


SHUTDOWN = MachineEvent(name="SHUTDOWN", reason="guest-reset", by_guest=True, at_s=1)
BACK = RebootEnd(came_back=True)
ENDED = RebootEnd(came_back=False, shutdown=SHUTDOWN, last_words="cpus are not resettable, terminating")
HUNG = RebootEnd(came_back=False, waited_s=30)
OTHER_END = RebootEnd(came_back=False, shutdown=replace(SHUTDOWN, reason="guest-panic"), waited_s=30)
DIED = RebootEnd(came_back=False, exit="was killed by SIGABRT", last_words="kvm_vcpu_ioctl failed")


@pytest.mark.parametrize("expected", RebootOutcome)
def test_every_end_against_every_expectation(expected: RebootOutcome) -> None:
    right = {
        RebootOutcome.PASSES: {"back"},
        CALLS: {"back"},
        RebootOutcome.NEW_CONTEXT: {"back"},
        RebootOutcome.NOT_RESETTABLE: {"ended"},
        RebootOutcome.EITHER: {"back", "ended"},
        RebootOutcome.UNKNOWN: {"back", "ended"},
        RebootOutcome.NOT_APPLICABLE: set(),
    }[expected]
    verdicts = {
        name: verdict_of(check_reboot_end(end, expected=expected))
        for name, end in {"back": BACK, "ended": ENDED, "hung": HUNG, "other": OTHER_END, "died": DIED}.items()
    }
    assert verdicts == {
        "back": Verdict.PASS if "back" in right else Verdict.FAIL,
        "ended": Verdict.UNSUPPORTED if "ended" in right else Verdict.FAIL,
        "hung": Verdict.FAIL,
        "other": Verdict.FAIL,
        "died": Verdict.LOST,
    }


def test_a_qemu_that_exits_after_its_shutdown_event_ended_cleanly() -> None:
    gone = replace(ENDED, exit="exited with status 0")
    (finding,) = check_reboot_end(gone, expected=RebootOutcome.NOT_RESETTABLE)
    assert (finding.kind, finding.verdict) == ("not-resettable", Verdict.UNSUPPORTED)
    assert "cpus are not resettable" in finding.detail
    assert verdict_of(check_reboot_end(replace(ENDED, exit="exited with status 1"), expected=RebootOutcome.EITHER)) is (
        Verdict.LOST
    )


def test_the_table_of_what_to_expect() -> None:
    def row(name: str) -> tuple[RebootOutcome, RebootOutcome, RebootOutcome]:
        return (
            expected_reboot(name, has_arrived=False, qemu=(8, 2)),
            expected_reboot(name, has_arrived=False, qemu=(11, 0)),
            expected_reboot(name, has_arrived=True, qemu=(8, 2)),
        )

    passes, ends, new = RebootOutcome.PASSES, RebootOutcome.NOT_RESETTABLE, RebootOutcome.NEW_CONTEXT
    assert {name: row(name) for name in REBOOTS} == {
        "none": (passes, passes, passes),
        "sev": (passes, passes, passes),
        "sev-es": (ends, new, RebootOutcome.NOT_APPLICABLE),
        "sev-snp": (ends, new, RebootOutcome.NOT_APPLICABLE),
        "csv": (CALLS, CALLS, CALLS),
        "csv2": (CALLS, CALLS, ends),
        "csv3": (ends, ends, ends),
        "tdx": (ends, new, RebootOutcome.UNKNOWN),
        "soft-sev": (passes, passes, passes),
        "soft-csv": (CALLS, CALLS, CALLS),
        "soft-csv2": (CALLS, CALLS, RebootOutcome.EITHER),
    }
    assert set(BACKENDS) <= set(REBOOTS)
    assert REBOOTS["tdx"].words() == (
        "fresh: ends, not resettable (since QEMU 11: passes in a new context); migrated in: not known"
    )


@pytest.mark.parametrize(
    "line",
    [
        "<4>[12.000001] WARNING: CPU: 3 PID: 77 at virt/kvm/arm/vgic/vgic-init.c:222 vgic_v3_save_pending_tables",
        "<1>[12.000001] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "<0>[12.000001] watchdog: BUG: soft lockup - CPU#1 stuck for 22s!",
        "<3>[12.000001] INFO: task qemu-system-x86:77 blocked for more than 120 seconds.",
    ],
)
def test_the_kernels_complaints_are_findings(line: str) -> None:
    quiet = ("<6>[11.5] kvm: debugging is off", "<4>[11.6] warning is a word", "<6>[11.7] DEBUG: x")
    (finding,) = check_kernel_log(KernelLogDifference(lines=(*quiet, line)))
    assert (finding.kind, finding.detail) == ("complaint", line)
    assert check_kernel_log(KernelLogDifference(lines=quiet)) == ()


def test_lines_that_were_lost_may_be_complaints() -> None:
    (finding,) = check_kernel_log(KernelLogDifference(lost=2))
    assert finding.verdict is Verdict.ERROR


OLD = LaunchIdentity(handle=1, measurement=b"old" * 10)
NEW = LaunchIdentity(handle=2, measurement=b"new" * 10)


@pytest.mark.parametrize(
    ("now", "held", "is_renewed", "told"),
    [
        (OLD, OLD, False, []),
        (NEW, NEW, True, []),
        (NEW, OLD, True, ["stale"]),
        (OLD, OLD, True, ["same-context"]),
        (replace(NEW, handle=1), replace(NEW, handle=1), True, ["same-context"]),
        (replace(NEW, measurement=OLD.measurement), OLD, True, ["same-context", "stale"]),
        (NEW, NEW, False, ["other-context"]),
        (NEW, OLD, False, ["other-context", "stale"]),
        (OLD, NEW, False, ["stale"]),
    ],
)
def test_a_context_changes_where_it_is_to_and_who_attests_it_knows(
    now: LaunchIdentity, held: LaunchIdentity, is_renewed: bool, told: list[str]
) -> None:
    found = check_contexts(ContextsOverReset(before=OLD, now=now, held=held, is_renewed=is_renewed))
    assert [finding.kind for finding in found] == told
    assert {finding.check for finding in found} <= {"reset/measurement"}
