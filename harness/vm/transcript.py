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
_SUSPICIOUS = (b"password", b"passphrase", b"secret")
"""A message without these words has no member that holds a secret."""


class Transcript:
    """Writes ``{"t": seconds on the monotonic clock, "dir": "tx" or "rx", "msg": ...}`` lines."""

    def __init__(self, path: Path) -> None:
        self._file = ArtefactFile(path)

    @property
    def trouble(self) -> str:
        """Why lines are missing; empty when none is."""
        return self._file.trouble

    def write(self, direction: str, message: bytes) -> None:
        """Append one message, a JSON object as it is on the wire. Never raises for a full disk."""
        message = message.strip()
        if any(word in message for word in _SUSPICIOUS):
            message = json.dumps(redacted(json.loads(message)), separators=(",", ":")).encode()
        self._file.write(b'{"t":%.6f,"dir":"%s","msg":%s}\n' % (time.monotonic(), direction.encode(), message))

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
