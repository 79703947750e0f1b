"""The JSON of results: the document of ``cvmig run --json``, and ``result.json`` with its way back.

``result.json`` holds more than the document: timelines, the heat map, page maps, sessions, interrupts and reboots,
so that ``cvmig report`` can draw the page again without the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.model.drawings import InterruptTimeline, MapStrip, RebootMark, SessionSequence
from harness.model.errors import UsageError
from harness.model.result import CaseResult, PageHeat
from harness.model.seed import Seed
from harness.model.timeline import Timeline
from harness.model.verdict import Finding
from harness.report.events import plain

FORMAT = "cvmig-result/1"
"""First member of every ``result.json``; the number changes when an older reader would misread it."""


def json_document(results: Iterable[CaseResult]) -> str:
    """The document of ``cvmig run --json``: a list with one entry per case."""
    return json.dumps([plain(result.as_json()) for result in results], indent=2)


def dump(result: CaseResult, losses: Sequence[str] = ()) -> str:
    """Text of ``result.json``."""
    members = {
        "format": FORMAT,
        "result": plain(result.as_json()),
        "timelines": [plain(asdict(timeline)) for timeline in result.timelines],
        "heat": plain(asdict(result.heat)) if result.heat else None,
        "map_strips": [plain(asdict(strip)) for strip in result.map_strips],
        "sessions": [plain(asdict(session)) for session in result.sessions],
        "interrupts": [plain(asdict(timeline)) for timeline in result.interrupts],
        "reboots": [plain(asdict(mark)) for mark in result.reboots],
        "losses": list(losses),
    }
    return json.dumps(members) + "\n"


def parse(text: str, *, run_dir: str, source: str) -> tuple[CaseResult, tuple[str, ...]]:
    """The result and the losses in the text of a ``result.json``.

    *run_dir* becomes the result's: a folder may have been moved since. *source* names the file in errors.
    UsageError when the text is damaged, foreign, or of another format.
    """
    try:
        members = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is damaged: {error}", hint="run the case again") from error
    if not isinstance(members, dict) or members.get("format") != FORMAT:
        raise UsageError(f"{source} is no {FORMAT} document", hint="give the folder of a case that cvmig has run")
    try:
        return _result(members, run_dir), _texts(members.get("losses", []))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{source} is damaged: {_why(error)}", hint="run the case again") from error


def _result(members: Mapping[str, Any], run_dir: str) -> CaseResult:
    # pydantic takes 60 ms to import, and only those who read results need it.
    from pydantic import TypeAdapter  # noqa: PLC0415

    entry = dict(members["result"])
    entry |= {"seed": Seed(_integer(entry["seed"])), "run_dir": run_dir}
    entry["findings"] = TypeAdapter(tuple[Finding, ...]).validate_python(entry["findings"])
    entry["timelines"] = TypeAdapter(tuple[Timeline, ...]).validate_python(members["timelines"])
    entry["heat"] = TypeAdapter(PageHeat | None).validate_python(members["heat"])
    # Older documents lack the last four.
    entry["map_strips"] = TypeAdapter(tuple[MapStrip, ...]).validate_python(members.get("map_strips", []))
    entry["sessions"] = TypeAdapter(tuple[SessionSequence, ...]).validate_python(members.get("sessions", []))
    entry["interrupts"] = TypeAdapter(tuple[InterruptTimeline, ...]).validate_python(members.get("interrupts", []))
    entry["reboots"] = TypeAdapter(tuple[RebootMark, ...]).validate_python(members.get("reboots", []))
    result: CaseResult = TypeAdapter(CaseResult).validate_python(entry)
    return result


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"the seed is no integer: {value!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(member, str) for member in value):
        raise TypeError("losses are no list of strings")
    return tuple(value)


def _why(error: Exception) -> str:
    """One line for any of the errors that a foreign document provokes."""
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    places = getattr(error, "errors", None)
    if places is None:
        return " ".join(str(error).split())
    first = places()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'result'}: {first['msg']}"
