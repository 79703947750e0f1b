"""Exactly one side runs after the move, it is the same boot, and its clocks are sane."""

from __future__ import annotations

from collections.abc import Iterable

from harness.model.evidence import ClockSpan, Pulse
from harness.model.guest import Heartbeat
from harness.model.verdict import Finding

ONE_RUNS = "migration/one-side-runs"
SAME_BOOT = "guest/same-boot"

_RATE_TOLERANCE = 0.02
"""Share by which a guest's TSC rate may differ from what was measured before the move (calibration, drift)."""
_SLACK_S = 0.05
"""Reading a clock takes a round trip on each side of the move; a jump smaller than this is no jump."""


def check_pulse(pulse: Pulse) -> tuple[Finding, ...]:
    """The destination's heartbeats advance, the source's do not, and nobody rebooted."""
    return (*check_one_runs(pulse), *_same_boot(pulse))


def check_clocks(spans: Iterable[ClockSpan]) -> tuple[Finding, ...]:
    """No vCPU's TSC runs backwards, nor forward by more than the host saw pass."""
    return tuple(finding for span in spans for finding in _clock(span))


def check_one_runs(pulse: Pulse) -> tuple[Finding, ...]:
    """The destination runs, on every vCPU, and the source does not; the guest may have booted anew."""
    findings = [
        Finding(
            check=ONE_RUNS,
            kind="source-runs",
            where=f"src vcpu {vcpu}",
            detail=f"heartbeat went from {before} to {after} after the switch-over, it must stand still",
            remedy="two live instances of one guest",
        )
        for vcpu, before, after in _pairs(pulse.source_before, pulse.source_after)
        if before != after
    ]
    findings += [
        Finding(
            check=ONE_RUNS,
            kind="vcpu-stopped",
            where=f"dst vcpu {vcpu}",
            detail=f"no heartbeat since the destination was let go: still {before}",
            remedy="see the vCPU's registers with 'info registers' on the destination's monitor (--keep always)",
        )
        for vcpu, before, after in _pairs(pulse.destination_before, pulse.destination_after)
        # A guest that booted anew counts from 0 again; that it did is said by another check.
        if after <= (before if _is_same_boot(pulse) else 0)
    ]
    if pulse.source_run_state == "running":
        findings.append(
            Finding(
                check=ONE_RUNS,
                kind="source-runs",
                where="src",
                detail="query-status says running after the switch-over",
            )
        )
    if pulse.destination_run_state != "running":
        findings.append(
            Finding(
                check=ONE_RUNS,
                kind="destination-stopped",
                where="dst",
                detail=f"query-status says {pulse.destination_run_state!r} after cont, expected running",
            )
        )
    return tuple(findings)


def _same_boot(pulse: Pulse) -> list[Finding]:
    if _is_same_boot(pulse):
        return []
    before, after = pulse.source_before.boot_id, pulse.destination_after.boot_id
    return [
        Finding(
            check=SAME_BOOT,
            kind="other-boot",
            where="dst",
            detail=f"boot id {before:#018x} before, {after:#018x} after: the guest was restarted, not moved",
            remedy="compare both console logs; a restart in firmware means lost memory or vCPU state",
        )
    ]


def _is_same_boot(pulse: Pulse) -> bool:
    return pulse.source_before.boot_id == pulse.destination_after.boot_id


def _pairs(before: Heartbeat, after: Heartbeat) -> list[tuple[int, int, int]]:
    late = {beat.vcpu: beat.beats for beat in after.vcpus}
    return [(beat.vcpu, beat.beats, late.get(beat.vcpu, 0)) for beat in before.vcpus]


def _clock(span: ClockSpan) -> list[Finding]:
    where = f"vcpu {span.vcpu} tsc"
    findings = []
    if span.backward_tsc or span.tsc_after < span.tsc_before:
        back = max(span.backward_tsc, span.tsc_before - span.tsc_after)
        findings.append(
            Finding(
                check="cpu/clock",
                kind="backwards",
                where=where,
                detail=f"ran backwards by {back} ticks ({back / span.tsc_hz * 1e3:.3f} ms)",
            )
        )
        return findings
    advanced_s = (span.tsc_after - span.tsc_before) / span.tsc_hz
    if advanced_s > span.host_s * (1 + _RATE_TOLERANCE) + _SLACK_S:
        findings.append(
            Finding(
                check="cpu/clock",
                kind="jumped",
                where=where,
                detail=f"advanced by {advanced_s:.3f} s while the host saw {span.host_s:.3f} s pass",
            )
        )
    return findings
