"""``cvmig list``: what there is to run, to break, and to protect memory with."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import groupby, zip_longest
from typing import Annotated

import typer

from harness.cases.case import CASES
from harness.cases.faults import FAULTS, Fault
from harness.confidential.backend import BACKENDS


class Kind(StrEnum):
    """What can be listed."""

    CASES = "cases"
    FAULTS = "faults"
    BACKENDS = "backends"


def list_(kind: Annotated[Kind, typer.Argument(help="cases, faults or backends.")]) -> int:
    """List what can be run (cases), switched on (faults) or protect memory (backends)."""
    if kind is Kind.FAULTS and sys.stdout.isatty():
        sys.stdout.write(fault_pages(FAULTS.values(), columns=shutil.get_terminal_size().columns))
        return 0
    rows = {Kind.CASES: _cases, Kind.FAULTS: _faults, Kind.BACKENDS: _backends}[kind]()
    sys.stdout.write(_table(rows))
    return 0


def _cases() -> list[Sequence[str]]:
    return [(case.id, "nightly" if case.nightly else "", case.summary) for case in CASES.values()]


def _faults() -> list[Sequence[str]]:
    """One line each, for whoever reads them with a program."""
    return [
        (fault.name, fault.bug_class or "-", fault.owner, fault.caught_by, fault.summary) for fault in FAULTS.values()
    ]


def fault_pages(faults: Iterable[Fault], *, columns: int) -> str:
    """*faults* for a terminal of that many columns: by owner, what does not fit in a line goes on in the next."""
    faults = list(faults)
    name = max(len(fault.name) for fault in faults) + 2
    room = max(columns - name - 13, 40)
    caught = min(max(len(fault.caught_by) for fault in faults), room * 2 // 5)
    widths = (name, 3, room - caught, caught)
    head = _row(("NAME", "BUG", "WHAT IT DOES", "CAUGHT BY"), widths)
    lines = [f"  {line}" for line in head]
    order = list(dict.fromkeys(fault.owner for fault in faults))
    for owner, group in groupby(sorted(faults, key=lambda fault: order.index(fault.owner)), lambda fault: fault.owner):
        lines += ["", owner]
        for fault in group:
            label = f"{fault.name} *" if fault.needs_platform else fault.name
            cells = (label, fault.bug_class, fault.summary, fault.caught_by)
            lines += [f"  {line}" for line in _row(cells, widths)]
    lines += ["", "* with --backend soft-* only"]
    return "".join(f"{line}\n" for line in lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    folded = [
        textwrap.wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(cells, widths, strict=True)
    ]
    return [
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*folded, fillvalue="")
    ]


def _backends() -> list[Sequence[str]]:
    return [(backend.name, backend.summary) for backend in BACKENDS.values()]


def _table(rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)
