"""The pages: ``report.html`` of a case and ``index.html`` of a run.

Each is one file that opens offline: style, script and drawings are inside, nothing is fetched, and its content security
policy forbids that anything could be (only our own script runs, by its digest, whatever a guest wrote into a log). The
drawings are SVG of our own and not plotly's, because a page must cost little: plotly's script alone is 4.7 MB per
page, against some 100 kB and a few milliseconds for everything here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.model.errors import SetupError
from harness.model.result import CaseResult
from harness.model.timeline import Timeline
from harness.model.verdict import Verdict
from harness.report.document import json_document
from harness.report.events import plain
from harness.report.figures import number, one_line, size, unit_of
from harness.report.heatmap import CELL, heat_map
from harness.report.interrupts import draw_interrupts
from harness.report.load import load_run
from harness.report.logs import artefacts, logs
from harness.report.losses import tell
from harness.report.plot import LEFT, RIGHT, WIDTH, Plot, downtime_s, plot
from harness.report.prose import byte_rows, pieces
from harness.report.reboots import draw_reboots
from harness.report.repro import repro_line, run_words
from harness.report.sequence import BOX_HEIGHT, BOX_WIDTH, draw_sequence
from harness.report.store import INDEX_HTML, INDEX_JSON, REPORT, CaseFolder, Run
from harness.report.strip import ROW, STRIP_LEFT, draw_strip

if TYPE_CHECKING:
    from jinja2 import Environment

_Item = TypeVar("_Item")
_TEMPLATES = Path(__file__).parent / "templates"
_FINDINGS_SHOWN = 200
_HOPS_DRAWN = 6
_HEADLINES = ("total_s", "downtime_ms", "guest_downtime_ms", "migration_s", "migrate_s", "probe_ready_s")
_MARKS = {
    Verdict.PASS: "✓",
    Verdict.UNSUPPORTED: "∅",
    Verdict.BLOCKED: "⊘",
    Verdict.TOO_SLOW: "◔",
    Verdict.FAIL: "✗",
    Verdict.LOST: "☠",
    Verdict.ERROR: "!",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One migration as a row of a table, and its plot when it is one of those drawn."""

    number: int
    duration_s: float
    downtime_ms: float | None
    transferred_bytes: int
    passes: int
    samples: int
    end: str
    plot: Plot | None
    drawn: bool


def warm_up() -> None:
    """Import and compile what the first page needs (80 ms). Worth a thread while a guest boots."""
    for name in ("case", "timeline", "heatmap", "strip", "sequence", "interrupts", "reboots"):
        _environment().get_template(f"{name}.html")


def render_case(result: CaseResult, folder: Path) -> str:
    """The page of one case; *folder* is where its logs and artefacts are."""
    return (
        _environment()
        .get_template("case.html")
        .render(
            result=result,
            title=f"{result.case} {result.verdict}",
            hops=_hops(result.timelines),
            heat=heat_map(result.heat) if result.heat else None,
            cell=CELL,
            map_strips=_ends(result.map_strips, draw_strip),
            sessions=_ends(result.sessions, draw_sequence),
            interrupts=_ends(result.interrupts, draw_interrupts),
            reboots=draw_reboots(result.reboots),
            headlines=[name for name in _HEADLINES if name in result.timings],
            findings=result.findings[:_FINDINGS_SHOWN],
            findings_left_out=max(0, len(result.findings) - _FINDINGS_SHOWN),
            settings=plain(result.settings),
            repro=repro_line(result.run_dir),
            command=_command(result),
            logs=logs(folder),
            artefacts=artefacts(folder),
        )
    )


def render_index(results: Sequence[CaseResult], *, name: str) -> str:
    """The page of a run. Cases link to their pages by the last part of their ``run_dir``."""
    rows = [(result, Path(result.run_dir).name) for result in results]
    counts = [(verdict, sum(1 for result in results if result.verdict is verdict)) for verdict in Verdict]
    counts = [(verdict, count) for verdict, count in counts if count]
    total_s = sum(result.timings.get("total_s", 0.0) for result in results)
    page = _environment().get_template("index.html")
    return page.render(title=f"run {name}", name=name, rows=rows, counts=counts, total_s=total_s)


def write_report(folder: CaseFolder, result: CaseResult) -> None:
    """Write the page into *folder*. Trouble, even a bug in here, is a loss of the page and never of the verdict."""
    try:
        page = render_case(result, folder.path)
    except Exception as bug:  # noqa: BLE001 - see above; the loss is told in the result's reason
        folder.losses.note(REPORT, bug)
        return
    folder.write(REPORT, page)


def write_index(run: Run, results: Sequence[CaseResult]) -> CaseFolder:
    """Write ``index.json`` and ``index.html`` of *run*; what is missing is in the losses of what is returned."""
    folder = CaseFolder(path=run.path)
    folder.write(INDEX_JSON, json_document(results) + "\n")
    folder.write(INDEX_HTML, render_index(results, name=run.path.name))
    return folder


def write_pages(folder: Path) -> Path:
    """Write the pages of a case's or a run's folder again from what is stored there, and say which to open.

    UsageError when there is nothing to draw, SetupError when the folder cannot be written.
    """
    cases = load_run(folder)
    written = [CaseFolder(path=case.path) for case in cases]
    results = [tell(case.result, case.losses) for case in cases]
    for target, result in zip(written, results, strict=True):
        write_report(target, result)
    page = folder / REPORT
    if cases[0].path != folder:
        written.append(write_index(Run(path=folder), results))
        page = folder / INDEX_HTML
    for line in (line for target in written for line in target.losses.lines):
        raise SetupError(f"cannot write into {folder}: {line}", hint="make the folder writable, or copy it elsewhere")
    return page


def _command(result: CaseResult) -> str:
    # shlex quotes words, but a setting with a line end would still leave the one line that people paste.
    return one_line(shlex.join(("cvmig", *run_words(result))))


def _ends(items: Sequence[_Item], draw: Callable[[_Item], object]) -> dict[str, object]:
    """Drawings of the first and the last of *items*, and how many were left out between them."""
    half = _HOPS_DRAWN // 2
    shown = items if len(items) <= _HOPS_DRAWN else (*items[:half], *items[-half:])
    return {"drawn": [drawing for item in shown if (drawing := draw(item))], "left_out": len(items) - len(shown)}


def _hops(timelines: Sequence[Timeline]) -> list[Hop]:
    """The first and the last hops are drawn; one more finely when it is the only one."""
    columns = 400 if len(timelines) == 1 else 100
    ends = _HOPS_DRAWN // 2
    hops = []
    for index, timeline in enumerate(timelines):
        drawn = len(timelines) <= _HOPS_DRAWN or index < ends or index >= len(timelines) - ends
        hops.append(_hop(timeline, plot(timeline, columns=columns) if drawn else None, drawn))
    return hops


def _hop(timeline: Timeline, drawing: Plot | None, drawn: bool) -> Hop:
    stopped = downtime_s(timeline)
    samples = timeline.samples
    ends = [phase.end_s for phase in timeline.phases] + [sample.t_s for sample in samples]
    return Hop(
        number=timeline.hop + 1,
        duration_s=max(ends, default=0.0),
        downtime_ms=(stopped[1] - stopped[0]) * 1000 if stopped else None,
        transferred_bytes=max((sample.transferred_bytes for sample in samples), default=0),
        passes=max((sample.dirty_sync_count for sample in samples), default=0),
        samples=len(samples),
        end=samples[-1].status if samples else "",
        plot=drawing,
        drawn=drawn,
    )


@cache
def _environment() -> Environment:
    # Half of what a first page costs is this import, and most commands draw none.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {
        "script": script,
        "style": (_TEMPLATES / "page.css").read_text(encoding="utf-8"),
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
        "MARKS": _MARKS,
        "WIDTH": WIDTH,
        "LEFT": LEFT,
        "RIGHT": RIGHT,
        "STRIP_LEFT": STRIP_LEFT,
        "ROW": ROW,
        "BOX_WIDTH": BOX_WIDTH,
        "BOX_HEIGHT": BOX_HEIGHT,
    }
    environment.filters |= {
        "number": number,
        "size": size,
        "unit": unit_of,
        "pieces": pieces,
        "byte_rows": byte_rows,
        "compact": _compact,
    }
    return environment


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
