"""``cvmig repro``: run a case of an earlier run again, with the same seed, settings, binaries and faults."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cases.request import REQUEST_FILE, request_from_json
from harness.cases.session import require_qemus, run_requests
from harness.cli import options as opt
from harness.model.errors import UsageError
from harness.model.verdict import exit_status
from harness.report.store import Run
from harness.report.terminal import Terminal


def repro(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of one case of an earlier run.")],
    out: opt.Out = opt.RUNS,
) -> int:
    """Run the case of RUN_DIR again, just as it was."""
    request = request_from_json(_load(run_dir / REQUEST_FILE))
    require_qemus([request])
    with Terminal(sys.stderr) as terminal:
        results = run_requests([request], Run.create(out), progress=terminal)
    return exit_status(result.verdict for result in results)


def _load(path: Path) -> dict[str, object]:
    hint = "give the folder of one case, e.g. runs/last/memory-precopy"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=hint) from None
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}", hint=hint) from None
    if not isinstance(data, dict):
        raise UsageError(f"{path} is damaged: no JSON object", hint=hint)
    return data
