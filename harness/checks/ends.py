"""Both sides agree how the migration ended."""

from __future__ import annotations

from harness.model.evidence import MigrationEnd, SideEnd, StayedAlive
from harness.model.verdict import Finding, Verdict

CHECK = "migration/ends"

_LOADED = {"paused", "postmigrate"}
"""Run states of a destination started with -S that has loaded everything and has not run."""


def check_ends(end: MigrationEnd) -> tuple[Finding, ...]:
    """Source completed and stopped; destination loaded and not yet running; the return path said 0."""
    findings = [*_lost(end.source), *([] if _gave_up(end.destination) else _lost(end.destination))]
    if findings:
        return tuple(findings)
    if end.source.status != "completed" or end.destination.status not in {"completed", "none"}:
        return (_not_completed(end),)
    if end.shut_code:
        findings.append(
            Finding(
                check=CHECK,
                kind="shut",
                where="return path",
                detail=f"the destination's SHUT carries {end.shut_code}, 0 means loaded, yet the source completed",
            )
        )
    if end.source.run_state == "running":
        findings.append(
            Finding(
                check=CHECK,
                kind="source-runs",
                where=end.source.role,
                detail="the source is still running after its migration completed",
                remedy="two live instances of one guest write to the same disks and networks",
            )
        )
    if end.destination.run_state not in _LOADED:
        findings.append(
            Finding(
                check=CHECK,
                kind="destination-state",
                where=end.destination.role,
                detail=f"run state {end.destination.run_state!r} after loading, expected paused (-S)",
            )
        )
    return tuple(findings)


def check_cancelled(source: SideEnd, *, phase: str) -> tuple[Finding, ...]:
    """A migration that was cancelled in *phase* ends ``cancelled`` on the source."""
    if source.status == "cancelled":
        return ()
    return (
        Finding(
            check="migration/cancel",
            kind="not-cancelled",
            where=phase,
            detail=f"status {source.status!r} after migrate_cancel, expected cancelled; {source.error}",
        ),
    )


def check_stayed_alive(alive: StayedAlive) -> tuple[Finding, ...]:
    """After a cancelled or failed attempt the source runs on, on every vCPU."""
    if alive.run_state != "running":
        return (
            Finding(
                check="migration/source-alive",
                kind="source-stopped",
                where="src",
                detail=f"run state {alive.run_state!r} after the attempt ended, expected running",
            ),
        )
    after = {beat.vcpu: beat.beats for beat in alive.after.vcpus}
    return tuple(
        Finding(
            check="migration/source-alive",
            kind="vcpu-stopped",
            where=f"src vcpu {beat.vcpu}",
            detail=f"no heartbeat after the attempt ended: still {beat.beats}",
        )
        for beat in alive.before.vcpus
        if after.get(beat.vcpu, 0) <= beat.beats
    )


def _lost(side: SideEnd) -> list[Finding]:
    if not side.exit:
        return []
    return [
        Finding(
            check=CHECK,
            kind="process-lost",
            where=side.role,
            detail=f"QEMU {side.exit}; its last words: {side.error or '(none)'}",
            verdict=Verdict.LOST,
        )
    ]


def _gave_up(destination: SideEnd) -> bool:
    """QEMU's incoming side ends with exit(1) when it cannot load a stream (process_incoming_migration_co)."""
    return destination.exit == "exited with status 1"


def _not_completed(end: MigrationEnd) -> Finding:
    if end.stalled_s:
        kind, why = "stalled", f"no byte was transferred in the last {end.stalled_s:.1f} s"
    elif _gave_up(end.destination):
        kind, why = "not-loaded", "the destination could not load the stream"
    else:
        kind, why = "failed", "the migration did not complete"
    words = "; ".join(
        f"{side.role} {side.status}: {side.error}" for side in (end.source, end.destination) if side.error
    )
    return Finding(
        check=CHECK,
        kind=kind,
        where=f"{end.source.role} -> {end.destination.role}",
        detail=f"{why} (source {end.source.status}, destination {end.destination.status}); "
        f"{words or 'QEMU gave no reason'}",
        remedy=f"read {end.destination.role}'s stderr and both QMP transcripts",
    )
