"""PRE_SYSTEM_RESET before and POST_SYSTEM_RESET behind every reset, once each: who else tells KVM to flush (B22, B24).

QEMU's order is PRE, devices, RESET event, vCPUs, POST. A tracer takes the time while the caller stands still at the
entry of a call, and QEMU stamps the event on the same clock between the two: the order of times is that of things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.model.reboot import RebootOutcome
from harness.model.reset import (
    POST_SYSTEM_RESET,
    PRE_SYSTEM_RESET,
    RESET_IOCTLS,
    IoctlCall,
    IoctlTrace,
    MachineEvent,
    ResetEvidence,
)
from harness.model.verdict import Finding, Verdict

CHECK = "reset/calls"

_JUDGED = frozenset({RebootOutcome.PASSES, RebootOutcome.PASSES_WITH_CALLS, RebootOutcome.EITHER})
_B22 = "class B22: without them KVM flushes no caches, and old lines fall over the new boot's memory"
_B24 = "class B24: KVM takes register writes of a protected vCPU only between PRE and POST"


def check_reset_calls(evidence: ResetEvidence, *, expected: RebootOutcome) -> tuple[Finding, ...]:
    """Every reset of the span has its two calls, in order and answered with 0.

    Unsupported where the kernel has no such ioctls or nobody could look; an error where the trace cannot tell.
    """
    if expected not in _JUDGED:
        return ()
    trace, resets = evidence.trace, evidence.resets
    if trace is None:
        return _unwatched() if expected.needs_calls else ()
    calls = sorted((call for call in trace.calls if call.request in RESET_IOCTLS), key=lambda call: call.at_s)
    if not calls and not expected.needs_calls:
        return ()
    return tuple(_doubts(trace, resets)) or _judged(resets, calls)


def _judged(resets: Sequence[MachineEvent], calls: Sequence[IoctlCall]) -> tuple[Finding, ...]:
    if not calls:
        detail = f"{len(resets)} resets, and QEMU issued neither PRE_SYSTEM_RESET nor POST_SYSTEM_RESET"
        return (_finding("not-called", "QEMU", detail, f"{_B22}; this QEMU may lack the series"),)
    if all(call.error == "ENOTTY" for call in calls):
        return (_no_ioctls(),)
    return (*_answers(calls), *_order(resets, calls))


def _doubts(trace: IoctlTrace, resets: Sequence[MachineEvent]) -> Iterator[Finding]:
    """What makes the trace no witness."""
    if not resets:
        yield _error("no-reset", "QEMU sent no RESET event, so nothing can be said of one")
    if not trace.calls and not trace.others:
        yield _error("blind", f"the tracer of process {trace.pid} saw no ioctl at all ({trace.end})")
    if trace.unread:
        yield _error("unread", f"{trace.unread} lines of the tracer were not understood")
    outside = [reset for reset in resets if not trace.started_s <= reset.at_s <= trace.ended_s]
    if outside:
        yield _error("not-covered", f"{len(outside)} of {len(resets)} resets were not traced ({trace.end})")


def _answers(calls: Sequence[IoctlCall]) -> Iterator[Finding]:
    for call in calls:
        if call.result == 0:
            continue
        answer = "no answer: its thread did not live to see one" if call.result is None else call.error or call.result
        detail = f"{RESET_IOCTLS[call.request]} on descriptor {call.fd}: {answer}"
        yield _finding("refused", f"thread {call.thread}", detail, "QEMU ignores the result and goes on")


def _order(resets: Sequence[MachineEvent], calls: Sequence[IoctlCall]) -> Iterator[Finding]:
    pairs = [PRE_SYSTEM_RESET, POST_SYSTEM_RESET] * len(resets)
    if [call.request for call in calls] == pairs:
        for number, reset in enumerate(resets):
            yield from _in_time(number, reset, calls[2 * number], calls[2 * number + 1])
        return
    is_told = False
    for number, reset in enumerate(resets):
        for which, count in zip(("pre", "post"), _around(resets, number, calls), strict=True):
            if count != 1:
                is_told = True
                yield _miscounted(number, reset, which, count)
    if not is_told:
        order = " ".join(RESET_IOCTLS[call.request].partition("_")[0] for call in calls)
        yield _finding("stray", "QEMU", f"{order} for {len(resets)} resets: not one pair around each", _B22)


def _in_time(number: int, reset: MachineEvent, pre: IoctlCall, post: IoctlCall) -> Iterator[Finding]:
    if pre.at_s > reset.at_s:
        late_ms = (pre.at_s - reset.at_s) * 1e3
        yield _of(number, reset, "pre-late", f"PRE_SYSTEM_RESET {late_ms:.3f} ms behind the RESET event", _B24)
    if post.at_s < reset.at_s:
        early_ms = (reset.at_s - post.at_s) * 1e3
        yield _of(number, reset, "post-early", f"POST_SYSTEM_RESET {early_ms:.3f} ms before the RESET event", _B22)


def _around(resets: Sequence[MachineEvent], number: int, calls: Sequence[IoctlCall]) -> tuple[int, int]:
    """How many PRE belong before this reset, and how many POST behind it.

    Between two resets the calls up to the first PRE are the earlier one's.
    """
    at_s = resets[number].at_s
    since_s = resets[number - 1].at_s if number else float("-inf")
    until_s = resets[number + 1].at_s if number + 1 < len(resets) else float("inf")
    before = [call for call in calls if since_s < call.at_s <= at_s]
    after = [call for call in calls if at_s < call.at_s <= until_s]
    following = next((place for place, call in enumerate(after) if call.request == PRE_SYSTEM_RESET), len(after))
    pres = sum(call.request == PRE_SYSTEM_RESET for call in before)
    return pres, len(after[:following])


def _miscounted(number: int, reset: MachineEvent, which: str, count: int) -> Finding:
    name, remedy = f"{which.upper()}_SYSTEM_RESET", _B24 if which == "pre" else _B22
    if count == 0:
        return _of(number, reset, f"{which}-missing", f"no {name}", remedy)
    return _of(number, reset, f"{which}-twice", f"{name} {count} times", remedy)


def _of(number: int, reset: MachineEvent, kind: str, detail: str, remedy: str) -> Finding:
    return _finding(kind, f"reset {number + 1} ({reset.reason or 'no reason'})", detail, remedy)


def _finding(kind: str, where: str, detail: str, remedy: str = "") -> Finding:
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=remedy)


def _no_ioctls() -> Finding:
    return Finding(
        check=CHECK,
        kind="no-ioctls",
        where="kernel",
        detail="KVM answers ENOTTY to PRE_SYSTEM_RESET and POST_SYSTEM_RESET: it does not have them",
        remedy="boot a kernel with the CSV reboot series; until then a reboot of a CSV guest may corrupt its memory",
        verdict=Verdict.UNSUPPORTED,
    )


def _unwatched() -> tuple[Finding, ...]:
    return (
        Finding(
            check=CHECK,
            kind="unwatched",
            where="host",
            detail="nobody watched QEMU's ioctls, so whether KVM was told of the reset is not known",
            remedy="install strace and let it attach; 'cvmig doctor' says what is missing",
            verdict=Verdict.UNSUPPORTED,
        ),
    )


def _error(kind: str, detail: str) -> Finding:
    return Finding(check=CHECK, kind=kind, where="trace", detail=detail, verdict=Verdict.ERROR)
