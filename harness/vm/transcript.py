"""The wire transcript of a QMP session: one JSON object per line, secrets blanked out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.vm.artefact import ArtefactFile

_SECRET_NAMES = frozenset({"password", "passphrase", "secret", "data"})
"""``data`` is the payload of a ``secret`` object; only there it is one."""


class Transcript:
    """Writes ``{"t": seconds on the monotonic clock, "dir": "tx" or "rx", "msg": ...}`` lines."""

    def __init__(self, path: Path) -> None:
        self._file = ArtefactFile(path)

    @property
    def trouble(self) -> str:
        """Why lines are missing; empty when none is."""
        return self._file.trouble

    def write(self, direction: str, message: Mapping[str, object]) -> None:
        """Append one message. Never raises for a full disk."""
        line = {"t": round(time.monotonic(), 6), "dir": direction, "msg": redacted(message)}
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Safe to call twice."""
        self._file.close()


def redacted(value: Any) -> Any:
    """*value* without the content of members that hold secrets."""
    if isinstance(value, Mapping):
        return {name: "(redacted)" if _is_secret(name, value) else redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return value


def _is_secret(name: str, members: Mapping[str, Any]) -> bool:
    if name not in _SECRET_NAMES:
        return False
    if name == "data":
        return members.get("qom-type") == "secret"
    return isinstance(members[name], str)
