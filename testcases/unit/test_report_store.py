from __future__ import annotations

import errno
import json
import os
import re
import resource
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.drawings import Actor, MapStrip, SequenceStep, SessionSequence, StripRow
from harness.model.errors import SetupError, UsageError
from harness.model.result import CaseResult, PageHeat
from harness.model.seed import Seed
from harness.model.timeline import Mark, Phase, Sample, Timeline
from harness.model.verdict import Finding, Verdict
from harness.report import store
from harness.report.document import dump, json_document
from harness.report.load import load_case, load_run
from harness.report.losses import Losses, tell
from harness.report.store import RESULT, CaseFolder, Keep, Run, slug

RESULT_IN_FULL = CaseResult(
    case="memory/precopy",
    verdict=Verdict.FAIL,
    reason="2 pages are stale",
    seed=Seed(2**64 - 1),
    run_dir="runs/x",
    findings=(
        Finding(check="memory/host", kind="stale", where="0x1000-0x1fff", detail="d", remedy="r"),
        Finding(check="ends", kind="gone", where="dst", detail="d", verdict=Verdict.LOST),
    ),
    timings={"downtime_ms": 54.5, "total_s": 2.0},
    versions={"qemu_src": "7.2.22"},
    settings={"memory_mib": 128, "tls": False, "name": "x", "none": None},
    faults=("drop",),
    hint="try",
    timelines=(
        Timeline(
            samples=(Sample(t_s=0.1, status="active", remaining_bytes=5, throughput_mbps=1.5),),
            phases=(Phase(side="src", name="active", start_s=0.0, end_s=1.0),),
            marks=(Mark(t_s=0.5, side="src", label="STOP"),),
        ),
        Timeline(hop=1),
    ),
    heat=PageHeat(pages_per_bucket=8, layers={"written": (1, 2, 0), "damaged": (0, 1, 0)}),
    map_strips=(
        MapStrip(
            title="hop 1",
            total_pages=9,
            pages_per_column=3,
            windows=((0, 0, 6), (0x100000, 6, 3)),
            rows=(StripRow(witness="host-list", kinds="psm"), StripRow(witness="stream", kinds="-bp")),
            mismatch_pages=1,
            mismatches=("0x100000000-0x100000fff",),
            mismatches_left_out=4,
        ),
    ),
    sessions=(
        SessionSequence(
            title="hop 1",
            end="failed",
            steps=(
                SequenceStep(
                    sender=Actor.SOURCE_HOST, receiver=Actor.SOURCE_PROCESSOR, label="send-start", status=7, detail="no"
                ),
            ),
            steps_left_out=2,
        ),
    ),
)


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / RESULT).write_text(dump(RESULT_IN_FULL, ["events.jsonl: No space left on device"]))
    stored = load_case(tmp_path)
    assert stored.result == replace(RESULT_IN_FULL, run_dir=str(tmp_path))
    assert stored.losses == ("events.jsonl: No space left on device",)
    assert stored.path == tmp_path


def test_a_document_of_before_the_drawings_can_be_read(tmp_path: Path) -> None:
    members = json.loads(dump(RESULT_IN_FULL))
    del members["map_strips"], members["sessions"]
    (tmp_path / RESULT).write_text(json.dumps(members))
    stored = load_case(tmp_path).result
    assert stored == replace(RESULT_IN_FULL, run_dir=str(tmp_path), map_strips=(), sessions=())


def test_a_result_without_anything_comes_back(tmp_path: Path) -> None:
    bare = CaseResult(case="c", verdict=Verdict.PASS, reason="", seed=Seed(0), run_dir=str(tmp_path))
    (tmp_path / RESULT).write_text(dump(bare))
    assert load_case(tmp_path).result == bare


def test_the_document_is_a_list_of_plain_entries() -> None:
    (entry,) = json.loads(json_document([replace(RESULT_IN_FULL, settings={"path": Path("a"), "nan": float("nan")})]))
    assert entry["verdict"] == "fail"
    assert entry["findings"][0]["check"] == "memory/host"
    assert entry["findings"][1]["verdict"] == "lost"
    assert entry["settings"] == {"path": "a", "nan": "nan"}
    assert json.loads(json_document([])) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("result", "seed"), 2**64),
        (("result", "seed"), "1"),
        (("result", "verdict"), "maybe"),
        (("result", "findings"), [{"check": 1}]),
        (("timelines",), {"hop": 1}),
        (("heat", "layers", "written"), "x"),
        (("result",), 3),
        (("result",), {}),
        (("losses",), [1]),
        (("format",), "cvmig-result/2"),
    ],
)
def test_a_damaged_result_is_one_line(tmp_path: Path, place: tuple[str, ...], value: object) -> None:
    members = json.loads(dump(RESULT_IN_FULL))
    *outer, last = place
    inner = members
    for name in outer:
        inner = inner[name]
    inner[last] = value
    (tmp_path / RESULT).write_text(json.dumps(members))
    with pytest.raises(UsageError) as caught:
        load_case(tmp_path)
    assert "\n" not in str(caught.value)
    assert RESULT in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, dump(RESULT_IN_FULL).encode()[:-200]]
)
def test_foreign_bytes_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RESULT).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_case(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_case(tmp_path: Path) -> None:
    for read in (load_case, load_run):
        with pytest.raises(UsageError, match="holds no"):
            read(tmp_path)
        with pytest.raises(UsageError):
            read(tmp_path / "missing")
    (tmp_path / RESULT).mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        load_case(tmp_path)


def test_a_run_has_a_folder_per_case_and_the_last_link(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "runs"
    run = Run.create(root, now=lambda: datetime(2026, 11, 21, 0, 15, tzinfo=UTC))
    assert re.fullmatch(r"20261121T001500Z-[0-9a-f]{6}", run.path.name)
    assert (root / "last").readlink() == Path(run.path.name)
    names = [run.new_case("memory/precopy").path.name for _ in range(3)]
    assert names == ["memory-precopy", "memory-precopy-2", "memory-precopy-3"]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (run.path, *run.path.iterdir()))
    later = Run.create(root)
    assert (root / "last").resolve() == later.path.resolve()
    assert sorted(path.name for path in root.iterdir()) == sorted(["last", run.path.name, later.path.name])


def test_a_real_folder_called_last_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    run = Run.create(tmp_path)
    assert (tmp_path / "last").is_dir()
    assert run.path.is_dir()


def test_a_dangling_last_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "last").symlink_to("gone")
    run = Run.create(tmp_path)
    assert (tmp_path / "last").readlink() == Path(run.path.name)


def test_a_place_that_is_no_folder_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/runs")):
        with pytest.raises(SetupError, match="cannot make a folder") as caught:
            Run.create(root)
        assert "--out" in caught.value.hint


@given(st.text())
def test_no_case_id_leaves_the_run(case: str) -> None:
    name = slug(case)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name)
    assert len(name) <= 64


@pytest.mark.parametrize(
    ("case", "name"),
    [("memory/precopy", "memory-precopy"), ("../../etc", "etc"), ("..", "case"), ("/", "case"), ("a\nb", "a-b")],
)
def test_slugs(case: str, name: str) -> None:
    assert slug(case) == name


def test_long_ids_stay_apart() -> None:
    assert slug("x" * 100 + "a") != slug("x" * 100 + "b")


def test_a_case_cannot_take_the_name_of_the_index(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    folder = run.new_case("../index.json")
    assert folder.path == run.path / "index-json"


def test_writing_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CaseFolder(path=tmp_path)
    assert folder.write("a.txt", "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.Path, "replace", full)
    assert not folder.write("a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert folder.losses.lines == ("a.txt: No space left on device",)


def test_a_file_that_grows_too_large_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = CaseFolder(path=tmp_path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        assert not folder.write("a.txt", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []
    assert folder.losses.lines == ("a.txt: File too large",)


def test_a_gone_folder_is_a_loss(tmp_path: Path) -> None:
    folder = CaseFolder(path=tmp_path / "gone")
    assert not folder.write("a.txt", "x")
    assert folder.losses.lines == ("a.txt: No such file or directory",)


def test_text_that_is_no_unicode_is_written(tmp_path: Path) -> None:
    assert CaseFolder(path=tmp_path).write("a.txt", "bad \udcff")
    assert (tmp_path / "a.txt").read_text() == "bad ?"


def test_a_script_can_run(tmp_path: Path) -> None:
    CaseFolder(path=tmp_path).write("repro.sh", "#!/bin/sh\n", executable=True)
    assert os.access(tmp_path / "repro.sh", os.X_OK)


@pytest.mark.parametrize(
    ("keep", "verdict", "stays"),
    [
        (Keep.ALWAYS, Verdict.PASS, True),
        (Keep.ALWAYS, Verdict.FAIL, True),
        (Keep.FAIL, Verdict.PASS, False),
        (Keep.FAIL, Verdict.FAIL, True),
        (Keep.FAIL, Verdict.ERROR, True),
        (Keep.NEVER, Verdict.PASS, False),
        (Keep.NEVER, Verdict.FAIL, False),
    ],
)
def test_what_stays(tmp_path: Path, keep: Keep, verdict: Verdict, stays: bool) -> None:
    heavy = tmp_path / "stream.bin"
    heavy.write_bytes(b"x")
    (tmp_path / RESULT).write_text("{}")
    CaseFolder(path=tmp_path).settle(keep, verdict, [heavy, tmp_path / "never-came.bin"])
    assert heavy.exists() is stays
    assert (tmp_path / RESULT).exists()


def test_nothing_outside_the_folder_is_removed(tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("")
    inside = tmp_path / "case"
    inside.mkdir()
    with pytest.raises(ValueError, match="no artefact"):
        CaseFolder(path=inside).drop([inside / ".." / "precious"])
    assert outside.exists()


def test_losses_are_told_once_in_the_reason() -> None:
    losses = Losses()
    losses.note("events.jsonl", OSError(errno.ENOSPC, "No space left on device"))
    losses.note("events.jsonl", OSError(errno.EIO, "other"))
    told = tell(RESULT_IN_FULL, losses.lines)
    assert told.reason == "2 pages are stale; artefacts incomplete (events.jsonl: No space left on device)"
    assert told.verdict is Verdict.FAIL
    assert tell(told, losses.lines) == told
    assert tell(RESULT_IN_FULL, ()) is RESULT_IN_FULL


def test_a_run_is_read_in_the_order_of_its_cases(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    for number, case in enumerate(("z/first", "a/second")):
        folder = run.new_case(case)
        folder.write(RESULT, dump(replace(RESULT_IN_FULL, case=case)))
        os.utime(folder.path, ns=(number, number))
    (run.new_case("cut/short").path / "events.jsonl").write_text("")
    assert [stored.result.case for stored in load_run(run.path)] == ["z/first", "a/second"]
    assert [stored.result.case for stored in load_run(tmp_path / "last")] == ["z/first", "a/second"]
    assert [stored.result.case for stored in load_run(run.path / "a-second")] == ["a/second"]
