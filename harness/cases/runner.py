"""Play one case: whatever happens, it ends within its deadline with a verdict, artefacts, and nothing left over."""

from __future__ import annotations

import asyncio
import json
import platform
import secrets
import shlex
import time
import traceback
from dataclasses import dataclass

from harness import __version__
from harness.cases.binaries import find_binaries
from harness.cases.faults import plan_faults
from harness.cases.notebook import Notebook
from harness.cases.request import REQUEST_FILE, Request
from harness.cases.settings import MigrationCaseSettings
from harness.cases.shield import Shield
from harness.cases.stage import Binaries, CaseOverError, Stage
from harness.checks.precondition import check_fault_applied, check_fault_seen
from harness.confidential.backend import find_backend
from harness.hosts.busy import busy_now
from harness.model.deadline import Deadline
from harness.model.errors import (
    BlockedError,
    DeadlineError,
    GuestError,
    HarnessError,
    LostError,
    TooSlowError,
    UnsupportedError,
)
from harness.model.result import CaseResult
from harness.model.verdict import Verdict, verdict_of, worst
from harness.report.document import dump
from harness.report.events import CASE, VERDICT, EventLog, Subscriber
from harness.report.html import write_report
from harness.report.losses import tell
from harness.report.repro import script
from harness.report.store import EVENTS, REPRO, RESULT, CaseFolder, Run
from harness.vm.keeper import Keeper
from harness.vm.runtime import runtime_folder


@dataclass(frozen=True, slots=True)
class _Outcome:
    verdict: Verdict
    reason: str
    hint: str = ""


async def run_case(
    request: Request, run: Run, *, keeper: Keeper, progress: Subscriber | None = None, number: int = 1, of: int = 1
) -> CaseResult:
    """Run *request* into a new folder of *run*.

    Never raises for what the product or the machine does, that is in the result. Raises SetupError when the folder
    cannot be made, and CancelledError when the caller is cancelled (everything is cleared away first).
    """
    folder = run.new_case(request.case.id)
    notebook = Notebook()
    started_s = time.monotonic()
    with EventLog(folder.path / EVENTS, folder.losses) as events:
        if progress:
            events.subscribe(progress)
        events.emit("harness", CASE, case=request.case.id, number=number, of=of, seed=str(request.seed))
        folder.write(REQUEST_FILE, json.dumps(request.as_json(), indent=2) + "\n")
        try:
            outcome = await _play(request, folder, notebook, events, keeper)
        except asyncio.CancelledError:
            _write(request, folder, _result(request, folder, notebook, _Outcome(Verdict.ERROR, "interrupted")))
            raise
        notebook.timings["total_s"] = time.monotonic() - started_s
        result = _result(request, folder, notebook, outcome)
        events.emit(
            "harness",
            VERDICT,
            case=request.case.id,
            verdict=result.verdict,
            reason=result.reason,
            total_s=notebook.timings["total_s"],
            downtime_ms=notebook.timings.get("downtime_ms"),
        )
    return _write(request, folder, result)


async def _play(request: Request, folder: CaseFolder, notebook: Notebook, events: EventLog, keeper: Keeper) -> _Outcome:
    deadline = Deadline.after(request.settings.deadline_s)
    try:
        async with asyncio.timeout(deadline.left_s + _GRACE_S):
            binaries = await find_binaries(request, keeper=keeper, deadline=deadline)
            notebook.versions.update(_versions(request, binaries))
            with runtime_folder(keeper) as runtime:
                async with Stage(
                    request=request,
                    folder=folder.path,
                    runtime=runtime,
                    token=secrets.token_hex(3),
                    binaries=binaries,
                    faults=plan_faults(request.faults),
                    keeper=keeper,
                    events=events,
                    deadline=deadline,
                    notebook=notebook,
                    losses=folder.losses,
                    shield=_shield(request),
                ) as stage:
                    await request.case.play(stage, request.settings)
                    _judge_faults(stage)
    except CaseOverError:
        return _judged(notebook, None)
    except TimeoutError:
        late = _Outcome(Verdict.ERROR, f"the deadline of {request.settings.deadline_s:g} s passed", busy_now())
        return _judged(notebook, late)
    except HarnessError as trouble:
        if isinstance(trouble, DeadlineError | TooSlowError):
            trouble.hint = "; ".join(filter(None, (busy_now(), trouble.hint)))
        return _judged(notebook, _of_trouble(trouble, notebook))
    except Exception as bug:  # noqa: BLE001 - a bug of ours must end as a verdict, with its traceback kept
        folder.write("traceback.txt", traceback.format_exc())
        return _judged(notebook, _Outcome(Verdict.ERROR, f"bug in the harness: {bug!r}; see traceback.txt"))
    return _judged(notebook, None)


def _shield(request: Request) -> Shield | None:
    """The software platform, for a backend that it plays."""
    flavour = find_backend(request.backend).flavour
    if flavour is None or not isinstance(request.settings, MigrationCaseSettings):
        return None
    faults = plan_faults(request.faults).soft
    settings = request.settings
    return Shield(
        flavour=flavour,
        settings=settings.protection,
        faults=faults,
        seed=request.seed,
        plays_resets=settings.plays_resets,
    )


def _judge_faults(stage: Stage) -> None:
    """A case that has no place for a fault must not pass as if it had withstood it."""
    for fault in sorted(stage.faults.host):
        stage.notebook.judge("precondition", check_fault_applied(fault, int(fault in stage.struck)))
    found = tuple(stage.notebook.findings)
    for soft in sorted(stage.faults.soft):
        stage.notebook.judge("precondition", check_fault_seen(soft, found))


_GRACE_S = 5.0
"""Every wait inside knows the deadline and says what it waited for; this is for one that does not."""

_VERDICTS: tuple[tuple[type[HarnessError], Verdict], ...] = (
    (UnsupportedError, Verdict.UNSUPPORTED),
    (BlockedError, Verdict.BLOCKED),
    (TooSlowError, Verdict.TOO_SLOW),
    (LostError, Verdict.LOST),
)


def _of_trouble(trouble: HarnessError, notebook: Notebook) -> _Outcome:
    """What an exception means for the case.

    A guest that crashes or falls silent after it moved is the product's failure. Before that, nothing was migrated
    yet, and it says nothing about migration.
    """
    for kind, verdict in _VERDICTS:
        if isinstance(trouble, kind):
            return _Outcome(verdict, str(trouble), trouble.hint)
    if isinstance(trouble, GuestError | DeadlineError) and notebook.has_moved:
        return _Outcome(Verdict.FAIL, str(trouble), trouble.hint)
    return _Outcome(Verdict.ERROR, str(trouble), trouble.hint)


def _judged(notebook: Notebook, trouble: _Outcome | None) -> _Outcome:
    """Findings and trouble together; findings of the product speak first, an error never hides them."""
    found = verdict_of(notebook.findings)
    if trouble is None:
        if found is Verdict.PASS and not notebook.checks:
            return _Outcome(Verdict.ERROR, "the case ended without judging anything")
        return _Outcome(found, _summary(notebook, found))
    if found.is_bad:
        verdict = worst([found, trouble.verdict]) if trouble.verdict.is_bad else found
        return _Outcome(verdict, f"{_summary(notebook, found)}; then: {trouble.reason}", trouble.hint)
    return trouble


def _summary(notebook: Notebook, verdict: Verdict) -> str:
    if verdict is Verdict.PASS:
        silent = f"{len(notebook.checks)} checks silent: {', '.join(notebook.checks)}"
        return "; ".join([silent, *notebook.notes])
    first = next(finding for finding in notebook.findings if finding.verdict is verdict)
    more = len(notebook.findings) - 1
    return f"{first.check}: {first.kind} at {first.where}: {first.detail}" + (f" (and {more} more)" if more else "")


def _versions(request: Request, binaries: Binaries) -> dict[str, str]:
    return {
        "harness": __version__,
        "qemu_src": binaries.source.version,
        "qemu_dst": binaries.destination.version,
        "arch": request.arch.value,
        "machine": request.settings.machine,
        "accel": f"{binaries.accel} ({binaries.accel_reason})",
        "backend": request.backend,
        "host_kernel": platform.release(),
        "python": platform.python_version(),
    }


def _result(request: Request, folder: CaseFolder, notebook: Notebook, outcome: _Outcome) -> CaseResult:
    return CaseResult(
        case=request.case.id,
        verdict=outcome.verdict,
        reason=outcome.reason,
        hint=outcome.hint,
        seed=request.seed,
        run_dir=str(folder.path),
        checks=dict(notebook.checks),
        findings=tuple(notebook.findings),
        timings={name: round(value, 4) for name, value in notebook.timings.items()},
        versions=dict(notebook.versions),
        settings=request.settings.model_dump(mode="json"),
        faults=request.faults,
        timelines=tuple(notebook.timelines),
        heat=notebook.heat,
        map_strips=tuple(notebook.map_strips),
        sessions=tuple(notebook.sessions),
        interrupts=tuple(notebook.interrupts),
        reboots=tuple(notebook.reboots),
    )


def _write(request: Request, folder: CaseFolder, result: CaseResult) -> CaseResult:
    """Write the artefacts that tell the result; what could not be written is in its reason."""
    folder.settle(request.keep, result.verdict, [folder.path / name for name in _heavy(folder)])
    commands = {path.name.split(".")[0]: shlex.split(path.read_text()) for path in folder.path.glob("*.command.txt")}
    folder.write(REPRO, script(result, commands, request.options()), executable=True)
    write_report(folder, tell(result, folder.losses.lines))
    # Each of these two may be lost as well, and is then told once with all the others.
    folder.write(RESULT, dump(tell(result, folder.losses.lines), folder.losses.lines))
    return tell(result, folder.losses.lines)


def _heavy(folder: CaseFolder) -> list[str]:
    return [path.name for path in folder.path.glob("stream*.bin")]
