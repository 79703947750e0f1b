"""The end of a run on a terminal: a table, the findings of what failed, the skips by reason, one line to count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.model.result import CaseResult
from harness.model.verdict import Finding, Verdict
from harness.report.figures import number, one_line
from harness.report.repro import repro_line

_COLOUR = {
    Verdict.PASS: "32",
    Verdict.UNSUPPORTED: "36",
    Verdict.BLOCKED: "36",
    Verdict.TOO_SLOW: "33",
    Verdict.FAIL: "1;31",
    Verdict.LOST: "1;31",
    Verdict.ERROR: "1;35",
}
_SKIPPED = frozenset({Verdict.UNSUPPORTED, Verdict.BLOCKED})
_WIDEST = max(map(len, Verdict))
_FINDINGS_SHOWN = 12
_REASON_CHARS = 160


def paint(verdict: Verdict, colour: bool, *, width: int = _WIDEST) -> str:
    """The verdict in capitals, padded to *width*, in its colour where colours are wanted."""
    text = verdict.upper().ljust(width)
    return f"\x1b[{_COLOUR[verdict]}m{text}\x1b[0m" if colour else text


def summary_lines(results: Sequence[CaseResult], *, run_dir: str = "", colour: bool = False) -> Iterator[str]:
    """The whole summary, line by line.

    Each failure and each error ends with the one line that shows it again; the last line of all counts.
    """
    yield ""
    yield from _table(results, colour)
    for result in results:
        if result.verdict is not Verdict.PASS and result.verdict not in _SKIPPED:
            yield ""
            yield from _failure(result, colour)
    yield from _skips([result for result in results if result.verdict in _SKIPPED])
    yield ""
    yield _count(results) + (f"; {run_dir}" if run_dir else "")


def _table(results: Sequence[CaseResult], colour: bool) -> Iterator[str]:
    groups = _alike(results)
    rows = [_row(group) for group in groups]
    widths = [max([len(head), *(len(row[column]) for row in rows)]) for column, head in enumerate(_HEADS)]
    yield f"{'verdict':{_WIDEST}}  " + _cells(_HEADS, widths) + "  reason"
    for group, row in zip(groups, rows, strict=True):
        line = f"{paint(group[0].verdict, colour)}  {_cells(row, widths)}  {_short(group[0].reason)}"
        yield line.rstrip()


_HEADS = ("case", "time", "downtime")


def _cells(cells: Sequence[str], widths: Sequence[int]) -> str:
    case, time, downtime = cells
    return f"{case:{widths[0]}}  {time:>{widths[1]}}  {downtime:>{widths[2]}}"


def _alike(results: Sequence[CaseResult]) -> list[list[CaseResult]]:
    """Repeats that passed share a row; everything else has its own."""
    groups: dict[tuple[object, ...], list[CaseResult]] = {}
    for number_, result in enumerate(results):
        alone = () if result.verdict is Verdict.PASS else (number_,)
        groups.setdefault((result.case, result.verdict, result.reason, *alone), []).append(result)
    return list(groups.values())


def _row(group: Sequence[CaseResult]) -> tuple[str, str, str]:
    times = f" x{len(group)}" if len(group) > 1 else ""
    return one_line(group[0].case) + times, _span(group, "total_s", "s"), _span(group, "downtime_ms", "ms")


def _span(group: Sequence[CaseResult], name: str, unit: str) -> str:
    figures = sorted({number(value) for result in group if (value := result.timings.get(name)) is not None}, key=_value)
    if not figures:
        return "-"
    return f"{figures[0]} {unit}" if len(figures) == 1 else f"{figures[0]}..{figures[-1]} {unit}"


def _value(figure: str) -> float:
    return float(figure.replace("\u202f", ""))


def _short(reason: str) -> str:
    text = one_line(reason)
    return text if len(text) <= _REASON_CHARS else text[: _REASON_CHARS - 1] + "…"


def _failure(result: CaseResult, colour: bool) -> Iterator[str]:
    yield f"{paint(result.verdict, colour, width=0)} {one_line(result.case)}: {one_line(result.reason)}"
    for finding in result.findings[:_FINDINGS_SHOWN]:
        yield from _finding(finding)
    if (more := len(result.findings) - _FINDINGS_SHOWN) > 0:
        yield f"  and {more} more findings in the report"
    if result.hint:
        yield f"  try: {one_line(result.hint)}"
    yield f"  report: {one_line(result.run_dir)}/report.html"
    yield f"  {repro_line(result.run_dir)}"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"  {one_line(finding.check)}: {one_line(finding.kind)} at {one_line(finding.where)}"
    yield f"      {one_line(finding.detail)}"
    if finding.remedy:
        yield f"      look at: {one_line(finding.remedy)}"


def _skips(skipped: Sequence[CaseResult]) -> Iterator[str]:
    groups: dict[tuple[Verdict, str, str], list[str]] = {}
    for result in skipped:
        groups.setdefault((result.verdict, one_line(result.reason), one_line(result.hint)), []).append(result.case)
    for (verdict, reason, hint), cases in groups.items():
        yield ""
        yield f"{verdict.upper()} ({len(cases)}): {reason}"
        yield f"  {', '.join(one_line(case) for case in dict.fromkeys(cases))}"
        if hint:
            yield f"  try: {hint}"


def _count(results: Sequence[CaseResult]) -> str:
    counts = Counter(result.verdict for result in results)
    said = [f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]]
    total_s = sum(result.timings.get("total_s", 0.0) for result in results)
    return f"{', '.join(said) or 'no case ran'} in {number(total_s)} s"
