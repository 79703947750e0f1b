"""``cvmig stream inspect``: what it shows, how it ends, and that it stays small on a large file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.cli import status_of
from testcases.unit.test_stream_parser import FOOTER, HEAD, PART, block_list, data_page, setup, whole


def inspect(*words: str | Path) -> int:
    return status_of(["stream", "inspect", *map(str, words)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "stream.bin"
    path.write_bytes(whole())
    return path


def test_a_whole_stream(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(file) == 0
    out = capsys.readouterr()
    assert out.err == ""
    ram, toy = "pc.ram: 64 pages (256 KiB), 3 sent, 1 resent", "toy/0: version 1, 1 fields"
    for fact in ("pc-q35-7.2", ram, toy, "every byte"):
        assert fact in out.out


def test_fields_of_chosen_devices(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(file, "--device", "to*/0") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["level", "uint32", "0x5"]


def test_a_device_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(file, "--device", "apic/0") == 2
    assert "toy/0" in capsys.readouterr().err


def test_one_json_document(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(file, "--json", "--device", "toy/0") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["is_complete"] is True
    (device,) = document["devices"]
    data = file.read_bytes()
    assert data[device["offset"] : device["offset"] + device["size_bytes"]].endswith(b"\x7e\x00\x00\x00\x07")
    (field,) = document["fields"]["toy/0"]
    assert (field["path"], field["value"], field["raw"]) == ("level", 5, "00000005")
    assert data[field["offset"] :][:4] == b"\x00\x00\x00\x05"


DAMAGED = {
    "cut short": (whole()[:-9], "the file ends at"),
    "unknown section": (setup() + b"\x55" + bytes(64), "were not understood"),
    "page beyond its block": (setup() + PART + data_page(99, 1, "pc.ram") + FOOTER, "were not understood"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_damage_is_one_line_behind_what_could_be_read(
    name: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, hint = DAMAGED[name]
    path = tmp_path / "stream.bin"
    path.write_bytes(data)
    assert inspect(path, *words) == 3
    out = capsys.readouterr()
    assert "pc-q35-7.2" in out.out
    error, told = out.err.splitlines()
    assert error.startswith("error: ")
    assert "at offset 0x" in error
    assert hint in told
    if words:
        assert json.loads(out.out)["damage_offset"] is not None


NO_STREAM = {"empty": b"", "text": b"some text\n" * 20, "noise": bytes(range(255, 0, -1)) * 9, "seven bytes": HEAD[:7]}


@pytest.mark.parametrize("verb", ["inspect", "replay"])
@pytest.mark.parametrize("name", NO_STREAM)
def test_what_is_no_stream(name: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_bytes(NO_STREAM[name])
    assert status_of(["stream", verb, str(path)]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ")
    assert "hint: " in out.err
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("verb", ["inspect", "replay"])
def test_what_cannot_be_read(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe"):
        assert status_of(["stream", verb, str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_a_stream_that_does_not_tell_its_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "head.bin"
    path.write_bytes(HEAD)
    assert status_of(["stream", "replay", str(path)]) == 2
    assert "does not tell its machine" in capsys.readouterr().err
    assert block_list() not in HEAD
