"""Names out of query-qmp-schema, old spelling and new, and the cache of what a binary said."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from harness.model.errors import SetupError
from harness.vm import feature_cache
from harness.vm.schema import Schema

ENTITIES: list[dict[str, Any]] = [
    {"name": "set", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "STOP", "meta-type": "event", "arg-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
    {
        "name": "1",
        "meta-type": "object",
        "members": [{"name": "list", "type": "[2]"}],
        "variants": [{"case": "a", "type": "5"}],
    },
    {"name": "[2]", "meta-type": "array", "element-type": "2"},
    {"name": "2", "meta-type": "object", "members": [{"name": "kind", "type": "3"}, {"name": "old", "type": "4"}]},
    {"name": "3", "meta-type": "enum", "members": [{"name": "xbzrle"}, {"name": "events"}], "values": ["no"]},
    {"name": "4", "meta-type": "enum", "values": ["a"]},
    {"name": "5", "meta-type": "object", "members": [{"name": "only-a", "type": "3"}]},
]


def test_commands_events_members_and_values() -> None:
    schema = Schema(ENTITIES)
    assert schema.commands() == {"set": ["list", "only-a"], "stop": []}
    assert schema.events() == ["STOP"]
    assert schema.values("set", "list", "kind") == ["xbzrle", "events"]
    assert schema.values("set", "list", "old") == ["a"]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> feature_cache.Key:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return feature_cache.key_of(Path("/bin/sh"))


def stored_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache" / "cvmig").iterdir()
    return file


def test_what_is_stored_is_found_in_a_private_folder(key: feature_cache.Key, tmp_path: Path) -> None:
    assert feature_cache.load(key) is None
    feature_cache.store(key, {"a": 1})
    assert feature_cache.load(key) == {"a": 1}
    assert stat.S_IMODE((tmp_path / "cache" / "cvmig").stat().st_mode) == 0o700
    feature_cache.forget(key)
    assert feature_cache.load(key) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_corrupt_file_is_no_file(key: feature_cache.Key, tmp_path: Path, content: bytes) -> None:
    feature_cache.store(key, {"a": 1})
    stored_file(tmp_path).write_bytes(content)
    assert feature_cache.load(key) is None


def test_a_folder_that_cannot_be_written_costs_no_error(key: feature_cache.Key, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    feature_cache.store(key, {"a": 1})
    assert feature_cache.load(key) is None


def test_another_binary_at_the_same_path_has_another_key(tmp_path: Path) -> None:
    binary = tmp_path / "qemu"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    before = feature_cache.key_of(binary)
    binary.write_text("#!/bin/sh\nexit\n")
    assert feature_cache.key_of(binary).file_name != before.file_name


def test_what_cannot_be_executed_is_a_setup_error(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text(json.dumps({}))
    script = tmp_path / "script"
    script.write_text("no shebang\n")
    script.chmod(0o755)
    for path in (plain, script, tmp_path, tmp_path / "missing"):
        with pytest.raises(SetupError) as caught:
            feature_cache.key_of(path)
        assert caught.value.hint
