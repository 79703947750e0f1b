"""However the harness ends, at whatever moment: nothing stays behind."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from testcases.robust.conftest import Command, Shell

pytestmark = pytest.mark.vm

MOMENTS = 12
LONGEST_S = 2.5
"""A case with its start takes about so long."""
RUN = ("run", "memory/precopy", "--accel", "tcg", "--set", "memory_mib=64", "--out", "runs")


def _wait_for(command: Command, runs: Path, step: str) -> None:
    """Return once the case has come to *step*, or has ended."""
    while command.process.poll() is None:
        for events in runs.glob("*/*/events.jsonl"):
            if f'"name": "{step}"' in events.read_text():
                return
        time.sleep(0.005)


@pytest.mark.parametrize("number", range(MOMENTS))
def test_killed_at_any_moment(cvmig: Shell, number: int) -> None:
    moment_s = random.Random(f"kill {number}").uniform(0, LONGEST_S)
    command = cvmig(*RUN, "--repeat", "3")
    time.sleep(moment_s)
    command.send(signal.SIGKILL)
    command.end()
    assert command.leftovers() == []


@pytest.mark.parametrize("step", ["fill", "migrate", "verify"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_end(cvmig: Shell, tmp_path: Path, number: signal.Signals, step: str) -> None:
    command = cvmig(*RUN, "--repeat", "20")
    _wait_for(command, tmp_path / "runs", step)
    command.send(number)
    status, out, err = command.end()
    assert command.leftovers() == []
    assert status == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted"
    told = json.loads((tmp_path / "runs" / "last" / "memory-precopy" / "result.json").read_text())["result"]
    assert (told["verdict"], told["reason"]) in {("error", "interrupted"), ("pass", told["reason"])}


def test_cases_that_had_ended_keep_their_results(cvmig: Shell, tmp_path: Path) -> None:
    command = cvmig(*RUN, "--repeat", "20")
    results: list[Path] = []
    while not results and command.process.poll() is None:
        results = list((tmp_path / "runs").glob("*/*/result.json"))
        time.sleep(0.005)
    command.send(signal.SIGTERM)
    command.end()
    assert json.loads(results[0].read_text())["result"]["verdict"] == "pass"
    assert command.leftovers() == []


def test_nobody_reads_what_is_printed(cvmig: Shell) -> None:
    """A closed pipe (``cvmig run | head``) is no reason for a traceback."""
    command = cvmig(*RUN, "--json")
    assert command.process.stdout is not None
    command.process.stdout.close()
    command.process.stdout = open(os.devnull)  # noqa: PTH123, SIM115 - communicate wants one
    _, _, err = command.end()
    assert "Traceback" not in err
    assert command.leftovers() == []
