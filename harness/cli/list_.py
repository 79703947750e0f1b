"""``cvmig list``: what there is to run, to break, and to protect memory with."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from harness.cases.case import CASES
from harness.cases.faults import FAULTS
from harness.confidential.backend import BACKENDS


class Kind(StrEnum):
    """What can be listed."""

    CASES = "cases"
    FAULTS = "faults"
    BACKENDS = "backends"


def list_(kind: Annotated[Kind, typer.Argument(help="cases, faults or backends.")]) -> int:
    """List what can be run (cases), switched on (faults) or protect memory (backends)."""
    rows = {Kind.CASES: _cases, Kind.FAULTS: _faults, Kind.BACKENDS: _backends}[kind]()
    sys.stdout.write(_table(rows))
    return 0


def _cases() -> list[Sequence[str]]:
    return [(case.id, "nightly" if case.nightly else "", case.summary) for case in CASES.values()]


def _faults() -> list[Sequence[str]]:
    return [(fault.name, fault.owner, fault.caught_by, fault.summary) for fault in FAULTS.values()]


def _backends() -> list[Sequence[str]]:
    return [(backend.name, backend.summary) for backend in BACKENDS.values()]


def _table(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)
