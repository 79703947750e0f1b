"""Bad words and bad files: one line, a hint, the right exit status, no traceback, and no run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cli import status_of

USAGE, TROUBLE = 2, 3
RUN = ("run", "memory/precopy")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place with one bad thing of each sort in it."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "text": "hello\n",
        "text.sh": "hello\n",
        "sleeper.sh": "#!/bin/sh\nexec sleep 600\n",
        "liar.sh": "#!/bin/sh\necho 'no such option' >&2\nexit 7\n",
        "cut.yaml": "runs: [",
        "empty.yaml": "runs: []\n",
        "words.yaml": "runs:\n- {case: memory/precopy, oops: 1}\n",
        "case.yaml": "runs:\n- {case: memory/precopi}\n",
        "setting.yaml": "runs:\n- {case: memory/precopy, set: {vcpus: none}}\n",
        "twice.yaml": "runs:\n- {case: memory/precopy, case: cpu/state}\n",
    }.items():
        Path(name).write_text(text)
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for script in Path().glob("*.sh"):
        script.chmod(0o700)
    Path("folder").mkdir()
    for name, text in {"cut": "{", "hollow": "{}", "list": "[]"}.items():
        Path(name).mkdir()
        (Path(name) / "request.json").write_text(text)
        (Path(name) / "result.json").write_text(text)


@pytest.mark.parametrize(
    ("words", "says", "status"),
    [
        (("run",), "no case is named", USAGE),
        (("run", "memory/precopi"), "unknown case 'memory/precopi'", USAGE),
        (("run", "memory/*x"), "unknown case", USAGE),
        (("frobnicate",), "No such command", USAGE),
        (("stream",), "Missing command", USAGE),
        (("list", "nothing"), "nothing", USAGE),
        ((*RUN, "--frobnicate"), "No such option", USAGE),
        ((*RUN, "--set", "memory=1"), "memory: unknown name", USAGE),
        ((*RUN, "--set", "memory_mib=much"), "memory_mib:", USAGE),
        ((*RUN, "--set", "memory_mib=1"), "memory_mib:", USAGE),
        ((*RUN, "--set", "memory_mib"), "bad --set 'memory_mib'", USAGE),
        ((*RUN, "--set", "=1"), "bad --set '=1'", USAGE),
        ((*RUN, "--set", "vcpus.x=1"), "vcpus", USAGE),
        ((*RUN, "--set", "workload=lazy"), "workload:", USAGE),
        ((*RUN, "--set", "workload=idle"), "an idle guest dirties nothing", USAGE),
        ((*RUN, "--set", "working_set_mib=999"), "exceeds memory_mib", USAGE),
        ((*RUN, "--set", "machine=q35"), "machine:", USAGE),
        ((*RUN, "--set", "deadline_s=0"), "deadline_s:", USAGE),
        ((*RUN, "--set", "deadline_s=nan"), "deadline_s:", USAGE),
        ((*RUN, "--set", "memory_mib=[1"), "memory_mib:", USAGE),
        ((*RUN, "--seed", "x"), "bad --seed 'x'", USAGE),
        ((*RUN, "--seed=-1"), "bad --seed '-1'", USAGE),
        ((*RUN, "--seed", str(1 << 64)), "bad --seed", USAGE),
        ((*RUN, "--accel", "hvf"), "bad --accel 'hvf'", USAGE),
        ((*RUN, "--keep", "some"), "bad --keep 'some'", USAGE),
        ((*RUN, "--backend", "sevv"), "unknown backend 'sevv'", USAGE),
        ((*RUN, "--fault", "wire-flip"), "unknown fault 'wire-flip'", USAGE),
        ((*RUN, "--fault", "wire-flip-bit:x=1"), "bad parameter 'x=1'", USAGE),
        ((*RUN, "--fault", "wire-flip-bit:count=0"), "bad parameter count=0", USAGE),
        ((*RUN, "--fault", "wire-flip-bit:count=many"), "bad parameter count", USAGE),
        ((*RUN, "--fault", "wire-flip-bit:targets=0x1000+x"), "bad parameter targets", USAGE),
        ((*RUN, "--fault", "wire-cut:at_fraction=2"), "bad parameter", USAGE),
        ((*RUN, "--fault", "host-run-source:x=1"), "takes no parameters", USAGE),
        ((*RUN, "--repeat", "0"), "--repeat", USAGE),
        ((*RUN, "--repeat", "x"), "--repeat", USAGE),
        (("run", "--file", "none.yaml"), "cannot read none.yaml", USAGE),
        (("run", "--file", "folder"), "cannot read folder", USAGE),
        (("run", "--file", "cut.yaml"), "cut.yaml is no YAML", USAGE),
        (("run", "--file", "bytes.yaml"), "bytes.yaml is no YAML", USAGE),
        (("run", "--file", "text"), "text is no plan", USAGE),
        (("run", "--file", "empty.yaml"), "empty.yaml is no plan", USAGE),
        (("run", "--file", "words.yaml"), "runs.0.oops", USAGE),
        (("run", "--file", "twice.yaml"), "case is given twice", USAGE),
        (("run", "--file", "case.yaml"), "unknown case", USAGE),
        (("run", "--file", "setting.yaml"), "vcpus:", USAGE),
        (("plan", "memory/precopi"), "unknown case", USAGE),
        ((*RUN, "--out", "text"), "cannot make a folder in text", TROUBLE),
        ((*RUN, "--out", "/proc/cvmig"), "cannot make a folder in /proc/cvmig", TROUBLE),
        ((*RUN, "--qemu", "./missing"), "no QEMU at missing", TROUBLE),
        ((*RUN, "--qemu-dst", "./missing"), "no QEMU at missing", TROUBLE),
        ((*RUN, "--qemu", "./folder"), "folder is not executable", TROUBLE),
        ((*RUN, "--qemu", "./text"), "text is not executable", TROUBLE),
        ((*RUN, "--qemu", "./text.sh"), "neither a program nor a start script", TROUBLE),
        ((*RUN, "--qemu", "./liar.sh"), "exited with status 7: no such option", TROUBLE),
        ((*RUN, "--qemu", "/bin/true"), "/bin/true is no QEMU", TROUBLE),
        ((*RUN, "--qemu-dst", "/bin/true"), "/bin/true is no QEMU", TROUBLE),
        ((*RUN, "--qemu", "./sleeper.sh"), "does not answer like a QEMU", TROUBLE),
        (("repro", "none"), "cannot read none/request.json", USAGE),
        (("repro", "folder"), "cannot read folder/request.json", USAGE),
        (("repro", "cut"), "request.json is damaged", USAGE),
        (("repro", "hollow"), "request.json is damaged", USAGE),
        (("repro", "list"), "request.json is damaged", USAGE),
        (("report", "none"), "cannot read none", USAGE),
        (("report", "text"), "cannot read text", USAGE),
        (("report", "folder"), "folder holds no case", USAGE),
        (("report", "cut"), "damaged", USAGE),
        (("report", "hollow"), "no cvmig-result", USAGE),
        (("stream", "inspect", "none"), "there is no file none", USAGE),
        (("stream", "inspect", "folder"), "folder is no regular file", USAGE),
        (("stream", "inspect", "text"), "text is no migration stream", USAGE),
        (("stream", "replay", "text"), "text is no migration stream", USAGE),
    ],
)
def test_one_line_and_a_hint(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str, status: int
) -> None:
    assert status_of(list(words)) == status
    out, err = capsys.readouterr()
    assert out == ""
    error, hint = err.splitlines()
    assert error.startswith("error: ")
    assert says in error
    assert hint.startswith("hint: ")
    assert hint != "hint: "
    assert not Path("runs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user for whom folders can be unwritable: root writes anywhere")
def test_an_unwritable_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").chmod(0o500)
    assert status_of([*RUN, "--out", "folder/runs"]) == TROUBLE
    assert "cannot make a folder in folder/runs" in capsys.readouterr().err


def test_no_words_are_a_request_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([]) in {0, USAGE}
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert "run" in out + err
