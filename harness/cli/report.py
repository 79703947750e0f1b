"""``cvmig report``: draw the pages of an earlier run again, and say on the terminal what came out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options as opt
from harness.report.document import json_document
from harness.report.html import write_pages
from harness.report.load import load_run
from harness.report.terminal import Terminal


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run, or of one case of it.")],
    as_json: opt.AsJson = False,
) -> int:
    """Write report.html again and print the summary."""
    cases = load_run(run_dir)
    pages = write_pages(run_dir)
    with Terminal(sys.stderr) as terminal:
        terminal.summary([case.result for case in cases], run_dir=str(run_dir))
    sys.stdout.write(json_document(case.result for case in cases) + "\n" if as_json else f"{pages}\n")
    return 0
