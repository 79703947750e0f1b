"""``cvmig run``: run cases, say what came out."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harness.cases.ask import Words, requests_of
from harness.cases.session import require_qemus, run_requests
from harness.cli import options as opt
from harness.model.verdict import exit_status
from harness.report.document import json_document
from harness.report.store import Run
from harness.report.terminal import Terminal


def run(
    cases: opt.Cases = None,
    sets: opt.Sets = None,
    backend: opt.Backend = None,
    arch: opt.ArchName = None,
    accel: opt.AccelName = "auto",
    qemu: opt.Qemu = None,
    qemu_dst: opt.QemuDst = None,
    seed: opt.SeedText = None,
    fault: opt.Faults = None,
    repeat: Annotated[int, typer.Option("--repeat", min=1, help="Run each case N times, each with its own seed.")] = 1,
    file: opt.PlanPath = None,
    out: opt.Out = opt.RUNS,
    keep: opt.KeepName = "fail",
    as_json: opt.AsJson = False,
) -> int:
    """Run cases and judge what survived.

    Exit status: 0 all pass, 1 any fail, too-slow or lost, 2 usage, 3 error, 4 nothing but blocked or unsupported.
    """
    words = Words(
        sets=tuple(sets or ()),
        backend=backend,
        arch=arch,
        accel=accel,
        qemu=qemu,
        qemu_dst=qemu_dst,
        seed=seed,
        faults=tuple(fault or ()),
        keep=keep,
        repeat=repeat,
    )
    requests = requests_of(cases or (), words, file=file)
    require_qemus(requests)
    folder = Run.create(out)
    with Terminal(sys.stderr) as terminal:
        results = run_requests(requests, folder, progress=terminal)
        terminal.summary(results, run_dir=str(folder.path))
    if as_json:
        sys.stdout.write(json_document(results) + "\n")
    return exit_status(result.verdict for result in results)
