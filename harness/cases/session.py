"""The synchronous face of the harness, for the CLI and pytest: one event loop, one keeper, one request at a time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from harness.cases.request import Request
from harness.cases.runner import run_case
from harness.model.result import CaseResult
from harness.report.events import Subscriber
from harness.report.html import write_index
from harness.report.store import Run
from harness.vm.keeper import Keeper


def run_requests(requests: Sequence[Request], run: Run, *, progress: Subscriber | None = None) -> list[CaseResult]:
    """Run *requests* in order. SIGTERM and SIGHUP end like Ctrl-C: everything is cleared away first."""
    return asyncio.run(_run_all(requests, run, progress))


async def _run_all(requests: Sequence[Request], run: Run, progress: Subscriber | None) -> list[CaseResult]:
    _end_on_signals()
    results: list[CaseResult] = []
    with Keeper() as keeper:
        for number, request in enumerate(requests, start=1):
            played = run_case(request, run, keeper=keeper, progress=progress, number=number, of=len(requests))
            results.append(await played)
    write_index(run, results)
    return results


def _end_on_signals() -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
