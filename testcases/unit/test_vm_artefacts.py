"""Artefact files and transcripts: bounded, secrets blanked, and a full disk is told, not raised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.model.errors import SetupError
from harness.vm.artefact import ArtefactFile
from harness.vm.transcript import Transcript, redacted


def test_a_full_disk_is_remembered_and_nothing_is_raised() -> None:
    file = ArtefactFile(Path("/dev/full"))
    file.write(b"words")
    file.write(b"more")
    file.close()
    assert file.trouble == "full: No space left on device"


def test_output_beyond_the_limit_is_cut(tmp_path: Path) -> None:
    with ArtefactFile(tmp_path / "log", limit_bytes=10) as file:
        file.write(b"12345678")
        file.write(b"90abc")
        file.write(b"def")
    assert (tmp_path / "log").read_bytes() == b"1234567890"
    assert "too much output" in file.trouble


def test_a_folder_that_cannot_be_made_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"):
        ArtefactFile(tmp_path / "file" / "log")


def test_transcript_lines_are_json_with_time_and_direction(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "qmp.jsonl")
    transcript.write("tx", b'{"execute": "query-status", "id": "1"}')
    transcript.write("rx", b'{"return": {"status": "running"}, "id": "1"}\r\n')
    transcript.close()
    lines = [json.loads(line) for line in (tmp_path / "qmp.jsonl").read_text().splitlines()]
    assert [line["dir"] for line in lines] == ["tx", "rx"]
    assert lines[0]["msg"] == {"execute": "query-status", "id": "1"}
    assert lines[0]["t"] <= lines[1]["t"]


def test_secrets_are_blanked_and_nothing_else() -> None:
    secret = {"execute": "object-add", "arguments": {"qom-type": "secret", "id": "s", "data": "hunter2"}}
    assert "hunter2" not in json.dumps(redacted(secret))
    assert "hunter2" not in json.dumps(redacted({"arguments": {"list": [{"password": "hunter2"}]}}))
    event = {"event": "STOP", "data": {"reason": "x"}}
    assert redacted(event) == event
