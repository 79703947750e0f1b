"""The checks of a move on planted evidence: silent on what is right, and one statement for each thing that is wrong."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from harness.checks.ends import check_ends, check_stayed_alive
from harness.checks.precondition import check_fault_applied, check_redirtied
from harness.checks.pulse import check_clocks, check_pulse
from harness.model.evidence import ClockSpan, MigrationEnd, Pulse, SideEnd, StayedAlive, Traffic
from harness.model.guest import Heartbeat, VcpuBeat
from harness.model.verdict import Finding, Verdict

END = MigrationEnd(
    source=SideEnd(role="src", status="completed", run_state="postmigrate"),
    destination=SideEnd(role="dst", status="completed", run_state="paused"),
    return_path=True,
    shut_code=0,
)


def heart(*beats: int, boot_id: int = 1) -> Heartbeat:
    vcpus = tuple(
        VcpuBeat(
            vcpu=vcpu,
            beats=count,
            tsc=0,
            pages_written=0,
            writing_gpa=0,
            backward_tsc=0,
            gap_tsc=0,
            gap_at_tsc=0,
        )
        for vcpu, count in enumerate(beats)
    )
    return Heartbeat(boot_id=boot_id, vcpus=vcpus)


PULSE = Pulse(
    source_before=heart(10, 11),
    source_after=heart(10, 11),
    destination_before=heart(10, 11),
    destination_after=heart(12, 12),
    source_run_state="postmigrate",
    destination_run_state="running",
)
SPAN = ClockSpan(vcpu=0, tsc_before=1_000_000, tsc_after=1_500_000, tsc_hz=1e6, host_s=0.6, backward_tsc=0)
TRAFFIC = Traffic(pages_total=100, pages_sent=150, passes=3, pages_written=70)


def kinds(findings: Iterable[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def test_clean_evidence_is_silent() -> None:
    assert check_ends(END) == ()
    assert check_pulse(PULSE) == ()
    assert check_clocks([SPAN]) == ()
    assert check_redirtied(TRAFFIC, passes=2) == ()
    assert check_fault_applied("wire-zero-page", 1) == ()


@pytest.mark.parametrize(
    ("end", "kind", "verdict"),
    [
        (replace(END, shut_code=1), "shut", Verdict.FAIL),
        (replace(END, source=replace(END.source, run_state="running")), "source-runs", Verdict.FAIL),
        (replace(END, destination=replace(END.destination, run_state="running")), "destination-state", Verdict.FAIL),
        (replace(END, source=replace(END.source, status="failed", error="Broken pipe")), "failed", Verdict.FAIL),
        (replace(END, source=replace(END.source, status="cancelled"), stalled_s=3.0), "stalled", Verdict.FAIL),
        (
            replace(
                END,
                source=replace(END.source, status="failed"),
                destination=SideEnd(role="dst", status="lost", run_state="lost", exit="exited with status 1"),
            ),
            "not-loaded",
            Verdict.FAIL,
        ),
        (
            replace(END, destination=replace(END.destination, status="lost", exit="was killed by SIGSEGV")),
            "process-lost",
            Verdict.LOST,
        ),
        (
            replace(END, source=replace(END.source, status="lost", exit="exited with status 1")),
            "process-lost",
            Verdict.LOST,
        ),
    ],
)
def test_each_bad_end_is_one_finding(end: MigrationEnd, kind: str, verdict: Verdict) -> None:
    (finding,) = check_ends(end)
    assert (finding.kind, finding.verdict) == (kind, verdict)


def test_a_failed_end_quotes_qemu() -> None:
    (finding,) = check_ends(replace(END, source=replace(END.source, status="failed", error="Unable to write: EPIPE")))
    assert "Unable to write: EPIPE" in finding.detail


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"source_after": heart(11, 11)}, ["source-runs"]),
        ({"source_run_state": "running"}, ["source-runs"]),
        ({"destination_after": heart(12, 11)}, ["vcpu-stopped"]),
        ({"destination_after": heart(12)}, ["vcpu-stopped"]),
        ({"destination_run_state": "paused"}, ["destination-stopped"]),
        ({"destination_after": heart(12, 12, boot_id=2)}, ["other-boot"]),
    ],
)
def test_who_is_alive(change: dict[str, Any], expected: list[str]) -> None:
    assert kinds(check_pulse(replace(PULSE, **change))) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tsc_after": 999_999}, ["backwards"]),
        ({"backward_tsc": 5}, ["backwards"]),
        ({"tsc_after": 1_000_000 + 700_000}, ["jumped"]),
    ],
)
def test_clocks(change: dict[str, Any], expected: list[str]) -> None:
    assert kinds(check_clocks([replace(SPAN, **change)])) == expected


def test_a_stopped_source_after_a_cancel_is_found() -> None:
    alive = StayedAlive(run_state="running", before=heart(1), after=heart(2))
    assert check_stayed_alive(alive) == ()
    assert kinds(check_stayed_alive(replace(alive, run_state="paused"))) == ["source-stopped"]
    assert kinds(check_stayed_alive(replace(alive, after=alive.before))) == ["vcpu-stopped"]


@pytest.mark.parametrize("change", [{"pages_sent": 100}, {"pages_sent": 90}, {"pages_written": 0}, {"passes": 2}])
def test_a_quiet_migration_is_an_error_not_a_pass(change: dict[str, Any]) -> None:
    (finding,) = check_redirtied(replace(TRAFFIC, **change), passes=2)
    assert finding.verdict is Verdict.ERROR


def test_a_case_without_passes_needs_no_redirtying() -> None:
    assert check_redirtied(replace(TRAFFIC, pages_sent=100), passes=1) == ()


def test_a_fault_that_never_applied_is_an_error() -> None:
    (finding,) = check_fault_applied("wire-zero-page", 0)
    assert finding.verdict is Verdict.ERROR
