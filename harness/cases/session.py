"""The synchronous face of the harness, for the CLI and pytest: one event loop, one keeper, one request at a time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.cases.binaries import locate_qemu
from harness.cases.request import Request
from harness.cases.runner import run_case
from harness.model.deadline import Deadline
from harness.model.machine import Arch
from harness.model.result import CaseResult
from harness.report.events import Subscriber
from harness.report.html import write_index
from harness.report.store import Run
from harness.vm.features import probe_binary
from harness.vm.keeper import Keeper
from harness.vm.qmp import ignore_hang_ups

_PROBE_S = 30.0


def run_requests(requests: Sequence[Request], run: Run, *, progress: Subscriber | None = None) -> list[CaseResult]:
    """Run *requests* in order. SIGTERM and SIGHUP end like Ctrl-C: everything is cleared away first.

    Raises KeyboardInterrupt then; cases that had ended, and the one that was cut short, have their results.
    """
    try:
        return asyncio.run(_run_all(requests, run, progress))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def require_qemus(requests: Sequence[Request]) -> None:
    """Raises SetupError for a QEMU that is missing or is none, before a run begins that could only end in errors."""
    named = {(path, one.arch) for one in requests for path in (one.qemu, one.qemu_dst or one.qemu)}
    asyncio.run(_probe_all(named))


async def _probe_all(named: Iterable[tuple[Path | None, Arch]]) -> None:
    for path, arch in named:
        await probe_binary(locate_qemu(path, arch), deadline=Deadline.after(_PROBE_S))


async def _run_all(requests: Sequence[Request], run: Run, progress: Subscriber | None) -> list[CaseResult]:
    _end_on_signals()
    ignore_hang_ups()
    results: list[CaseResult] = []
    try:
        with Keeper() as keeper:
            for number, request in enumerate(requests, start=1):
                played = run_case(request, run, keeper=keeper, progress=progress, number=number, of=len(requests))
                results.append(await played)
    finally:
        write_index(run, results)
    return results


def _end_on_signals() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
