"""A QEMU that dies, in any phase and on either side, is told as lost, with how it died."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.cases.ask import Words, requests_of
from harness.cases.session import run_requests
from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from harness.report.events import SAMPLE, STEP, Event
from harness.report.store import Run

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("clean")]

DEADLINE_S = 30
FROZEN_DEADLINE_S = 15
"""Nothing but the deadline ends a case whose QEMU stands still."""


@dataclass(kw_only=True)
class Assassin:
    """Follows a case and kills one of its QEMUs at one of its events."""

    victim: str
    step: str
    signal: signal.Signals = signal.SIGKILL
    samples: int = 0
    """Of the migration, to wait for after the step; those of its setup, which may take long, do not count."""
    pids: dict[str, int] = field(default_factory=dict)
    is_due: bool = False
    has_struck: bool = False

    def __call__(self, event: Event) -> None:
        if event.what == "started":
            self.pids[event.who] = event.data["pid"]
        if event.what == STEP and event.data["name"] == self.step:
            self.is_due = True
        elif event.what == SAMPLE and self.is_due and self.samples:
            self.samples -= event.data["status"] != "setup"
        elif self.step != "boot" or not {"src", "dst"} <= self.pids.keys():
            return
        if self.step == "boot" and {"src", "dst"} <= self.pids.keys():
            self.is_due = True
        if self.is_due and not self.samples and not self.has_struck:
            self.has_struck = True
            os.kill(self.pids[self.victim], self.signal)


def played(assassin: Assassin, folder: Path, *, deadline_s: int = DEADLINE_S) -> CaseResult:
    words = Words(sets=("memory_mib=64", f"deadline_s={deadline_s}"), accel="tcg", seed="1", keep="never")
    (result,) = run_requests(requests_of(["memory/precopy"], words), Run.create(folder), progress=assassin)
    assert assassin.has_struck
    return result


def judge(result: CaseResult, victim: str) -> None:
    assert result.verdict is Verdict.LOST, result.reason
    assert "SIGKILL" in result.reason
    assert victim in result.reason
    assert result.timings["total_s"] < DEADLINE_S


@pytest.mark.parametrize("victim", ["src", "dst"])
@pytest.mark.parametrize("step", ["boot", "fill", "migrate", "compare", "resume"])
def test_killed_in_each_phase(tmp_path: Path, step: str, victim: str) -> None:
    judge(played(Assassin(victim=victim, step=step), tmp_path), victim)


@pytest.mark.parametrize("victim", ["src", "dst"])
@pytest.mark.parametrize("number", range(3))
def test_killed_in_the_midst_of_the_stream(tmp_path: Path, number: int, victim: str) -> None:
    samples = random.Random(f"{victim} {number}").randint(1, 6)
    judge(played(Assassin(victim=victim, step="migrate", samples=samples), tmp_path), victim)


def test_the_destination_killed_while_it_verifies(tmp_path: Path) -> None:
    judge(played(Assassin(victim="dst", step="verify"), tmp_path), "dst")


@pytest.mark.parametrize(
    ("victim", "step", "samples", "verdict", "words"),
    [
        # Before the move a silent guest says nothing about migration; after it, it is the product's failure.
        ("src", "fill", 0, Verdict.ERROR, "did not answer FILL"),
        ("src", "migrate", 2, Verdict.FAIL, "src active: QEMU does not answer QMP any more"),
        ("dst", "migrate", 2, Verdict.FAIL, "dst active: QEMU does not answer QMP any more"),
        ("dst", "resume", 0, Verdict.FAIL, "dst"),
    ],
)
def test_a_frozen_qemu_ends_the_case_in_time(
    tmp_path: Path, victim: str, step: str, samples: int, verdict: Verdict, words: str
) -> None:
    assassin = Assassin(victim=victim, step=step, samples=samples, signal=signal.SIGSTOP)
    result = played(assassin, tmp_path, deadline_s=FROZEN_DEADLINE_S)
    assert result.verdict is verdict, result.reason
    assert words in result.reason
    assert result.timings["total_s"] < FROZEN_DEADLINE_S + 1
