"""``cvmig run``: what it prints, what it returns, what it leaves."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from harness import __version__
from harness.cases.case import CASES
from harness.cases.faults import FAULTS
from harness.cli import status_of
from harness.confidential.backend import BACKENDS
from harness.hosts.kvm_probe import probe_kvm
from harness.model.verdict import Finding
from testcases.conftest import CHECKOUT

pytestmark = pytest.mark.vm

TCG = ("--accel", "tcg")
SMALL = ("--set", "memory_mib=64")
QUICK = ("run", "cpu/state", *TCG, *SMALL)
LEAST_MEMBERS = {"case", "verdict", "reason", "seed", "run_dir", "findings", "timings", "versions"}
MEMBERS = LEAST_MEMBERS | {"checks", "settings", "faults", "hint"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The document on stdout, and nothing but it."""
    entries = json.loads(capsys.readouterr().out)
    assert isinstance(entries, list)
    return entries


def test_the_document_of_a_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*QUICK, "--json", "--seed", "0x10"]) == 0
    (entry,) = told(capsys)
    assert entry.keys() == MEMBERS
    assert (entry["case"], entry["verdict"], entry["seed"], entry["findings"]) == ("cpu/state", "pass", 16, [])
    assert all(isinstance(figure, float | int) for figure in entry["timings"].values())
    assert {"total_s", "downtime_ms", "probe_ready_s"} <= entry["timings"].keys()
    assert {"harness", "qemu_src", "qemu_dst", "machine", "accel", "probe"} <= entry["versions"].keys()
    assert Path(entry["run_dir"]).parent.parent == Path("runs")


def test_the_document_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*QUICK, "--json", "--fault", "wire-corrupt-device:device=cpu/1"]) == 1
    (entry,) = told(capsys)
    assert entry["verdict"] == "fail"
    assert entry["findings"]
    for finding in entry["findings"]:
        assert finding.keys() == {member.name for member in fields(Finding)}
        assert {"check", "kind", "where", "detail"} <= finding.keys()


def test_what_a_run_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*QUICK, "--fault", "wire-corrupt-device:device=cpu/1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (run,) = (path for path in Path("runs").iterdir() if not path.is_symlink())
    assert Path("runs/last").resolve() == run.resolve()
    assert run.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in (run / "cpu-state").iterdir()}
    sides = {f"{side}.{file}" for side in ("src", "dst") for file in ("command.txt", "qmp.jsonl", "stderr.log")}
    assert sides | {"events.jsonl", "result.json", "report.html", "repro.sh", "request.json", "stream.bin"} <= names
    assert f"cvmig repro {Path('runs') / run.name}/cpu-state" in err
    page = (run / "cpu-state" / "report.html").read_text()
    assert "cpu/registers" in page
    assert not any(link in page for link in ('src="http', 'href="http', "url(http"))


@pytest.mark.parametrize(("keep", "stays"), [("never", False), ("fail", False), ("always", True)])
def test_the_stream_of_a_pass_stays_when_asked(keep: str, stays: bool) -> None:
    assert status_of([*QUICK, "--set", "record=true", "--keep", keep]) == 0
    assert Path("runs/last/cpu-state/stream.bin").exists() is stays


@pytest.mark.parametrize(
    ("words", "status", "verdict"),
    [
        ((), 0, "pass"),
        (("--fault", "host-kill-destination"), 1, "lost"),
        (("--fault", "host-run-source"), 1, "fail"),
        (("--fault", "wire-slow:bytes_per_s=100000", "--set", "deadline_s=8"), 1, "too-slow"),
        (("--fault", "guest-crash"), 3, "error"),
        (("--set", "machine=pc-q35-99.0"), 4, "unsupported"),
        (("--set", "capabilities.no-such=true"), 4, "unsupported"),
    ],
)
def test_the_exit_status_says_the_verdict(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: int, verdict: str
) -> None:
    assert status_of([*QUICK, "--json", *words]) == status
    (entry,) = told(capsys)
    assert entry["verdict"] == verdict
    assert entry["reason"]


@pytest.mark.skipif(probe_kvm(Path("/")).present, reason="needs a machine where /dev/kvm cannot be opened")
def test_kvm_that_is_not_there_is_unsupported_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["run", "cpu/state", *SMALL, "--accel", "kvm", "--json"]) == 4
    (entry,) = told(capsys)
    assert entry["verdict"] == "unsupported"
    assert "KVM is not usable: " in entry["reason"]
    assert entry["hint"]


def test_repeats_have_seeds_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*QUICK, "--repeat", "3", "--seed", "9", "--json"]) == 0
    first = told(capsys)
    assert len({entry["seed"] for entry in first}) == 3
    assert first[0]["seed"] == 9
    assert [Path(entry["run_dir"]).name for entry in first] == ["cpu-state", "cpu-state-2", "cpu-state-3"]


def test_a_file_of_runs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(
        "runs:\n"
        "- {case: cpu/state, repeat: 2, set: {vcpus: 1}}\n"
        "- {case: state/round-trip, faults: ['wire-corrupt-device:device=cpu/0']}\n"
    )
    assert status_of(["run", "--file", "plan.yaml", *TCG, *SMALL, "--json"]) == 1
    entries = told(capsys)
    assert [(entry["case"], entry["verdict"]) for entry in entries] == [
        ("cpu/state", "pass"),
        ("cpu/state", "pass"),
        ("state/round-trip", "fail"),
    ]
    assert [entry["settings"]["vcpus"] for entry in entries] == [1, 1, 1]
    assert {entry["settings"]["memory_mib"] for entry in entries} == {64}


def test_a_failure_among_passes_decides(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["run", "cpu/*", "state/*", *TCG, *SMALL, "--fault", "host-run-source", "--json"]) == 1
    assert [entry["case"] for entry in told(capsys)] == ["cpu/state", "state/round-trip"]


def test_repro_runs_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "memory/precopy", *TCG, *SMALL, "--set", "working_set_mib=16", "--fault", "wire-zero-page:count=4"]
    assert status_of([*words, "--json"]) == 1
    (first,) = told(capsys)
    assert status_of(["repro", first["run_dir"], "--out", "again"]) == 1
    capsys.readouterr()
    assert status_of(["report", "again/last", "--json"]) == 0
    (second,) = told(capsys)
    same = ("case", "verdict", "seed", "settings", "faults", "versions", "checks")
    assert {name: second[name] for name in same} == {name: first[name] for name in same}
    kinds = [[(finding["check"], finding["kind"]) for finding in entry["findings"]] for entry in (first, second)]
    assert kinds[0] == kinds[1]
    # The host compares before the guest goes on; what the guest writes until it stops is a matter of time.
    places = [{f["where"] for f in entry["findings"] if f["check"] == "memory/host"} for entry in (first, second)]
    assert places[0] == places[1] != set()


def test_report_draws_the_pages_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*QUICK, "--json"]) == 0
    (entry,) = told(capsys)
    page = Path(entry["run_dir"]) / "report.html"
    page.unlink()
    assert status_of(["report", "runs/last"]) == 0
    assert page.stat().st_size > 1000
    assert status_of(["report", entry["run_dir"], "--json"]) == 0
    capsys.readouterr()
    assert status_of(["report", entry["run_dir"], "--json"]) == 0
    (again,) = told(capsys)
    assert again == entry


def test_plan_prints_full_command_lines_and_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "memory/precopy", "cpu/state", *TCG, "--set", "vcpus=2", "--seed", "7", "--fault", "wire-cut"]
    assert status_of(words) == 0
    out = capsys.readouterr().out
    assert out.count("memory/precopy:") == out.count("cpu/state:") == 1
    assert out.count("-name guest=cvmig-") == 4
    assert out.count("-incoming defer") == 2
    assert "qemu-system-x86_64" in out
    assert "seed      0x0000000000000007" in out
    assert "wire-cut" in out
    assert not Path("runs").exists()


def test_the_plan_of_the_nightly_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["plan", "--file", str(CHECKOUT / "ci" / "nightly.yaml"), *TCG]) == 0
    out = capsys.readouterr().out
    assert "cannot run" not in out
    # Cases of the family defect fail with a stock QEMU, by design.
    wanted = {name for name in CASES if not name.startswith("defect/")}
    assert {line.partition(":")[0] for line in out.splitlines() if not line.startswith(" ")} == wanted


def test_plan_tells_runs_that_differ_in_their_seed_only_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(
        "runs:\n- {case: cpu/state, repeat: 3, set: {vcpus: 1}}\n- {case: cpu/state, set: {vcpus: 2}}\n"
    )
    assert status_of(["plan", "--file", "plan.yaml", *TCG]) == 0
    seeds = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  seed ")]
    assert [line.partition(", ")[2] for line in seeds] == ["and 2 more times, each with its own", ""]


def test_plan_says_what_cannot_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["plan", "cpu/state", *TCG, "--set", "machine=pc-q35-99.0"]) == 0
    assert "cannot run: QEMU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "names"), [("cases", set(CASES)), ("faults", set(FAULTS)), ("backends", set(BACKENDS))]
)
def test_list_names_everything(capsys: pytest.CaptureFixture[str], kind: str, names: set[str]) -> None:
    assert status_of(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == names
    assert all(len(line.split()) > 2 for line in lines)


@pytest.mark.parametrize(("words", "says"), [([], "Commands:"), (["--version"], f"cvmig {__version__}\n")])
def test_a_first_word_to_a_stranger(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert status_of(words) == 0
    assert says in capsys.readouterr().out


def test_doctor_gives_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"qemu", "kvm", "probe x86_64", "gcc"} <= {entry["name"] for entry in found}
    for entry in found:
        assert entry["found"]
        assert entry["present"] or entry["needed"] or entry["remedy"], entry
    assert status_of(["doctor"]) == 0
    assert all(line[0] in "+- " for line in capsys.readouterr().out.splitlines())
