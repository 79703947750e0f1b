from __future__ import annotations

import io
import re
import shlex
from typing import Any

import pytest

from harness.model.result import CaseResult
from harness.model.seed import Seed
from harness.model.verdict import Finding, Verdict
from harness.report.events import CASE, SAMPLE, STEP, VERDICT, Event
from harness.report.repro import run_words, script
from harness.report.terminal import Terminal, has_colour, is_live


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def event(what: str, who: str = "harness", t_s: float = 1.0, **data: Any) -> Event:
    return Event(t_s=t_s, who=who, what=what, data=data)


STORY = (
    event(CASE, case="memory/precopy", number=1, of=2),
    event(STEP, name="migrate"),
    event(SAMPLE, "src", status="active", remaining_bytes=64 << 20, total_bytes=128 << 20, dirty_pages_per_s=12_000),
    event("STOP", "src"),
    event(VERDICT, case="memory/precopy", verdict="fail", reason="2 pages\nstale", total_s=2.0, downtime_ms=54.0),
)
XTERM = {"TERM": "xterm-256color"}


def result(verdict: Verdict = Verdict.PASS, **words: Any) -> CaseResult:
    given = {"case": "memory/precopy", "reason": "3 checks silent", "run_dir": "runs/r/memory-precopy", "seed": Seed(5)}
    return CaseResult(verdict=verdict, **(given | words))


def shown(stream: io.StringIO, environ: dict[str, str], *results: CaseResult) -> str:
    with Terminal(stream, environ=environ) as terminal:
        for each in STORY:
            terminal(each)
        if results:
            terminal.summary(results)
    return stream.getvalue()


def test_plain_mode_writes_single_lines_and_no_escapes() -> None:
    text = shown(io.StringIO(), XTERM, result())
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines()[:3] == [
        "[  1.00 s] 1/2 memory/precopy begins",
        "[  1.00 s] 1/2 memory/precopy migrate",
        "FAIL         memory/precopy  2.00 s  downtime 54 ms  2 pages stale",
    ]


def test_a_terminal_gets_a_live_line_and_no_plain_ones() -> None:
    text = shown(Tty(), XTERM)
    assert "begins" not in text
    assert "FAIL" in text
    assert "\x1b[?25h" in text, "the cursor is back"


def test_the_live_line_says_where_the_migration_is() -> None:
    terminal = Terminal(Tty(), environ=XTERM)
    for each in STORY[:3]:
        terminal(each)
    line = terminal._line()
    assert all(
        part in line for part in ("1/2", "memory/precopy", "migrate", "active", "50%", "64 MiB left", "12\u202f000")
    )
    terminal(STORY[3])
    assert "src STOP" in terminal._line()
    terminal(STORY[4])
    assert terminal._line() == ""


@pytest.mark.parametrize(
    ("tty", "environ", "live", "colour"),
    [
        (True, XTERM, True, True),
        (False, XTERM, False, False),
        (True, {"TERM": "dumb"}, False, False),
        (True, {}, False, False),
        (True, XTERM | {"CI": "true"}, False, True),
        (True, XTERM | {"NO_COLOR": "1"}, True, False),
        (True, XTERM | {"NO_COLOR": ""}, True, True),
    ],
)
def test_modes(tty: bool, environ: dict[str, str], live: bool, colour: bool) -> None:
    stream = Tty() if tty else io.StringIO()
    assert is_live(stream, environ) is live
    assert has_colour(stream, environ) is colour


def test_no_colour_on_a_live_terminal() -> None:
    text = shown(Tty(), XTERM | {"NO_COLOR": "1"}, result(Verdict.FAIL))
    assert not re.search(r"\x1b\[[0-9;]*m", text)
    assert re.search(r"\x1b\[[0-9;]*m", shown(Tty(), XTERM, result(Verdict.FAIL)))


def summary(*results: CaseResult) -> list[str]:
    stream = io.StringIO()
    Terminal(stream, environ={}).summary(results, run_dir="runs/r")
    return stream.getvalue().splitlines()


def test_a_failure_ends_with_the_line_to_paste() -> None:
    finding = Finding(
        check="memory/host", kind="stale", where="0x1000-0x2fff", detail="was 3, is 2", remedy="the dirty log"
    )
    lines = summary(result(Verdict.FAIL, findings=(finding,), hint="try this", run_dir="runs/a b/c"))
    last = max(index for index, line in enumerate(lines) if line.startswith("  "))
    assert lines[last] == "  cvmig repro 'runs/a b/c'"
    text = "\n".join(lines)
    assert all(
        part in text
        for part in ("memory/host: stale at 0x1000-0x2fff", "was 3, is 2", "look at: the dirty log", "try this")
    )


def test_findings_beyond_the_bound_are_counted() -> None:
    findings = tuple(Finding(check="c", kind="k", where=str(index), detail="d") for index in range(40))
    assert "  and 28 more findings in the report" in summary(result(Verdict.FAIL, findings=findings))


def test_skips_are_grouped_by_reason() -> None:
    lines = summary(
        result(Verdict.UNSUPPORTED, case="memory/large", reason="needs 5 GiB", hint="add memory"),
        result(Verdict.UNSUPPORTED, case="memory/huge", reason="needs 5 GiB", hint="add memory"),
        result(Verdict.BLOCKED, case="x", reason="blocked by vhost"),
    )
    index = lines.index("UNSUPPORTED (2): needs 5 GiB")
    assert lines[index + 1 : index + 3] == ["  memory/large, memory/huge", "  try: add memory"]
    assert "BLOCKED (1): blocked by vhost" in lines
    assert not any("repro" in line for line in lines)


def test_repeats_that_pass_share_a_row() -> None:
    lines = summary(
        *(result(timings={"total_s": 2.0 + index, "downtime_ms": 50.0}) for index in range(3)),
        result(Verdict.FAIL),
    )
    (row,) = [line for line in lines if line.startswith("PASS")]
    assert "memory/precopy x3" in row
    assert "2..4 s" in row
    assert "50 ms" in row
    assert lines[-1] == "3 pass, 1 fail in 9 s; runs/r"


def test_no_case_at_all() -> None:
    assert summary()[-1] == "no case ran in 0 s; runs/r"


def test_hostile_text_moves_no_cursor() -> None:
    evil = "a\x1b[2Jb\r\nc\u202ed"
    finding = Finding(check=evil, kind=evil, where=evil, detail=evil, remedy=evil)
    text = "\n".join(summary(result(Verdict.FAIL, reason=evil, findings=(finding,), hint=evil)))
    assert not re.search(r"[\x1b\r\u202e]", text)


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, f"Broken pipe after {len(text)}")


def test_a_gone_terminal_raises_in_progress_and_not_at_the_end() -> None:
    terminal = Terminal(Gone(), environ={})
    with pytest.raises(BrokenPipeError):
        terminal(STORY[0])
    terminal.summary([result()])


def test_the_script_runs_the_case_again() -> None:
    again = result(settings={"memory_mib": 128, "tls": True, "name": "a b", "none": None}, faults=("drop",))
    assert run_words(again, ["--qemu", "/q"]) == (
        *("run", "memory/precopy", "--seed", "0x0000000000000005"),
        *("--set", "memory_mib=128", "--set", "tls=true", "--set", "name=a b", "--set", "none=null"),
        *("--fault", "drop", "--qemu", "/q"),
    )


def test_command_lines_stay_comments() -> None:
    text = script(result(), {"src\nrm": ["qemu", "-name", "a b", "x\nrm -rf y\r\u2028z"], "dst": ["qemu"]})
    assert text.startswith("#!/bin/sh\n")
    code = [line for line in text.split("\n") if line and not line.startswith("#")]
    assert len(code) == 1
    assert code[0].startswith('exec "${CVMIG:-cvmig}" run memory/precopy --seed')
    assert "\r" not in text
    assert shlex.join(["-name", "a b"]) in text
