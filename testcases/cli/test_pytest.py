"""Cases as pytest tests: what a test file of a user looks like from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytestmark = pytest.mark.vm

# A debug register holds a canary whatever the vCPU is doing. A general one may be in use at the instant of the move,
# and then only the device witness sees that a bit of it was flipped.
TESTS = """
def test_passes(migrate_case):
    result = migrate_case("cpu/state", memory_mib=64, vcpus=1)
    assert result.verdict == "pass"

def test_fails(migrate_case):
    migrate_case("cpu/state", memory_mib=64, faults=("wire-corrupt-device:device=cpu/1,field=env.dr[[]1[]]",))

def test_errs(migrate_case):
    migrate_case("cpu/state", memory_mib=64, faults=("guest-crash",))

def test_is_unsupported(migrate_case):
    migrate_case("cpu/state", memory_mib=64, machine="pc-q35-99.0")

def test_is_played(play_case):
    result = play_case("cpu/state", memory_mib=64, faults=("host-run-source",), seed=5)
    assert (result.verdict, result.seed.value) == ("fail", 5)
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, ET.Element], str]:
    """JUnit's test cases by name (subtests have their test's), and what was printed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "test_mine.py").write_text(TESTS)
    words = ("test_mine.py", "--junitxml=junit.xml", "--accel=tcg", "--cvmig-seed=77", "-p", "no:cacheprovider", "-rs")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
    )
    assert ended.returncode == 1, ended.stdout
    cases = {case.attrib["name"]: case for case in ET.parse(folder / "junit.xml").getroot().iter("testcase")}
    assert (folder / "runs" / "last").is_symlink()
    return cases, ended.stdout


def _properties(case: ET.Element) -> dict[str, str]:
    return {item.attrib["name"]: item.attrib["value"] for item in case.iter("property")}


def test_a_pass(report: tuple[dict[str, ET.Element], str]) -> None:
    case = report[0]["test_passes"]
    assert not [part for kind in ("failure", "error", "skipped") for part in case.iter(kind)]
    properties = _properties(case)
    assert properties["seed"] == "0x000000000000004d"
    assert Path(properties["run_dir"]).name.startswith("cpu-state")


def test_a_failure_ends_with_the_line_to_paste(report: tuple[dict[str, ET.Element], str]) -> None:
    failures = [failure.text or "" for failure in report[0]["test_fails"].iter("failure")]
    assert len(failures) == 3, "two subtests and the test itself"
    for text in failures:
        assert text.strip().splitlines()[-1].startswith("cvmig repro runs/")
    assert "state/devices" in failures[-1]


def test_each_check_is_a_subtest(report: tuple[dict[str, ET.Element], str]) -> None:
    assert "test_fails [cpu/registers]" in report[1]
    assert "test_fails [state/devices]" in report[1]
    assert "test_fails [memory/host]" not in report[1]


def test_our_own_trouble_is_no_failure_of_the_product(report: tuple[dict[str, ET.Element], str]) -> None:
    assert "CaseTroubleError" in report[1]
    assert "fault-not-applied" in report[1]


def test_unsupported_is_a_skip_with_its_reason(report: tuple[dict[str, ET.Element], str]) -> None:
    (skipped,) = report[0]["test_is_unsupported"].iter("skipped")
    assert "no machine type pc-q35-99.0" in skipped.attrib["message"]
    assert "no machine type pc-q35-99.0" in report[1]


def test_a_test_may_judge_for_itself(report: tuple[dict[str, ET.Element], str]) -> None:
    assert _properties(report[0]["test_is_played"])["seed"] == "0x0000000000000005"


def test_bad_options_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-k", "passes", "--accel=hvf", "--tb=line", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "bad --accel 'hvf'" in ended.stdout
