"""What a replay takes from the stream, what from its run's folder, and what from the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cases.ask import Words, requests_of
from harness.cases.captured import Capture, Origin
from harness.cases.case import CASES
from harness.cases.replay import CASE_ID
from harness.cases.replay_request import request_of
from harness.cases.request import request_from_json
from harness.model.errors import UnsupportedError, UsageError
from harness.model.machine import Accel
from harness.model.seed import Seed
from harness.model.wire import BlockAccount, SectionSummary, StreamSummary
from harness.report.store import Keep
from testcases.unit.test_stream_parser import setup, whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stream.bin"
    path.write_bytes(whole())
    return path


def lie_beside(file: Path, *, seed: int = 7, accel: str = "kvm (it runs)", **request: Any) -> None:
    settings = {"memory_mib": 64, "vcpus": 3, "machine": "pc-q35-9.0", "workload": "full"}
    file.with_name("request.json").write_text(json.dumps({"seed": seed, "settings": settings, **request}))
    file.with_name("result.json").write_text(json.dumps({"result": {"versions": {"accel": accel}}}))


def summary(**more: Any) -> StreamSummary:
    return StreamSummary(size_bytes=1, machine="pc-q35-7.2", **more)


def test_a_lonely_stream_tells_its_own_machine(file: Path) -> None:
    request = request_of(file, Words(keep="never"))
    settings = request.settings.model_dump()
    assert (settings["machine"], settings["memory_mib"], settings["trim_kib"]) == ("pc-q35-7.2", 1, 768)
    assert (settings["pattern_seed"], settings["is_probe"], request.accel) == (None, False, Accel.TCG)
    assert settings["deadline_s"] == pytest.approx(60.0, abs=0.1)
    assert request.keep is Keep.NEVER


def test_its_folder_tells_the_seed_the_binary_and_the_accelerator(file: Path) -> None:
    lie_beside(file, qemu="/some/qemu", qemu_dst="/other/qemu")
    request = request_of(file, Words())
    settings = request.settings.model_dump()
    assert (request.seed, request.qemu, request.accel) == (Seed(7), Path("/other/qemu"), Accel.KVM)
    assert (settings["pattern_seed"], settings["is_probe"]) == (Seed(7).sub("pattern"), True)
    # The stream itself knows better, where it knows at all.
    assert (settings["machine"], settings["memory_mib"], settings["vcpus"]) == ("pc-q35-7.2", 1, 3)


def test_the_user_s_words_win(file: Path) -> None:
    lie_beside(file, qemu="/some/qemu")
    words = Words(seed="9", qemu=Path("/mine"), accel="tcg", sets=("deadline_s=7", "vcpus=2"))
    request = request_of(file, words)
    assert (request.seed, request.qemu, request.accel) == (Seed(9), Path("/mine"), Accel.TCG)
    settings = request.settings.model_dump()
    assert (settings["pattern_seed"], settings["deadline_s"], settings["vcpus"]) == (Seed(9).sub("pattern"), 7.0, 2)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"seed": "x", "settings": {}}', '{"seed": 1}', "\0"])
def test_what_cannot_be_understood_beside_it_is_passed_over(file: Path, text: str) -> None:
    file.with_name("request.json").write_text(text)
    assert Origin.beside(file) is None
    assert request_of(file, Words()).settings.model_dump()["pattern_seed"] is None


def test_a_replay_can_be_run_again(file: Path) -> None:
    request = request_of(file, Words())
    again = request_from_json(json.loads(json.dumps(request.as_json())))
    assert (again.case.id, again.settings) == (CASE_ID, request.settings)


def test_no_glob_finds_it_and_its_name_does(file: Path) -> None:
    assert CASE_ID not in CASES
    with pytest.raises(UsageError, match="unknown case"):
        requests_of(["stream/*"], Words())
    (request,) = requests_of([CASE_ID], Words(sets=(f"file={file}",)))
    assert request.case.id == CASE_ID


def test_main_memory_that_went_another_way(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(setup())
    capture = Capture.read(path)
    assert capture.main is not None
    assert not capture.has_memory


def test_capabilities_follow_from_the_stream() -> None:
    told = Capture(path=Path("s"), summary=summary(capabilities=("x-ignore-shared",), commands=("POSTCOPY_ADVISE",)))
    assert told.capabilities == {"x-ignore-shared": True, "postcopy-ram": True}
    assert Capture(path=Path("s"), summary=summary(commands=("PING 0x1",))).capabilities == {}


@pytest.mark.parametrize("command", ["POSTCOPY_RUN", "POSTCOPY_LISTEN", "PACKAGED of 77 bytes"])
def test_postcopy_needs_its_source(command: str) -> None:
    with pytest.raises(UnsupportedError, match="needs its source"):
        _ = Capture(path=Path("s"), summary=summary(commands=("POSTCOPY_ADVISE", command))).capabilities


def test_vcpus_and_accelerator_follow_from_the_devices() -> None:
    labels = ("cpu_common/0", "cpu/0", "cpu/1", "kvmclock/0")
    devices = tuple(SectionSummary(label=label, version=1, fields=1) for label in labels)
    blocks = (BlockAccount(name="pc.ram", pages=(128 << 8) - 16),)
    capture = Capture(path=Path("s"), summary=summary(devices=devices, blocks=blocks))
    assert capture.machine_settings() == {"machine": "pc-q35-7.2", "memory_mib": 128, "trim_kib": 64, "vcpus": 2}
    assert capture.accel() is Accel.KVM
