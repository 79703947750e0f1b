"""Answers of QEMU binaries on disk, so that a run does not ask again. Anything odd about a file counts as no file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.model.errors import SetupError

_FORMAT = 3
"""Count up when the answers get other members."""

_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Key:
    """A binary as it is now."""

    path: str
    mtime_ns: int
    size_bytes: int
    question: str = ""
    """What was asked beyond its description, with all that the answer depends on."""

    @property
    def file_name(self) -> str:
        """Name of the cache file."""
        text = f"{_FORMAT} {self.path} {self.mtime_ns} {self.size_bytes} {self.question}"
        return f"qemu-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.json"


def key_of(path: Path) -> Key:
    """The key of the executable at *path*. SetupError when there is none."""
    hint = "give a QEMU system emulator with --qemu PATH"
    try:
        status = path.stat()
        if not path.is_file() or not os.access(path, os.X_OK):
            raise SetupError(f"{path} is not executable", hint=hint)
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as problem:
        raise SetupError(f"no QEMU at {path}: {problem.strerror}", hint=hint) from None
    # execvp would hand anything else to a shell.
    if magic != _ELF and not magic.startswith(b"#!"):
        raise SetupError(f"{path} is neither a program nor a start script", hint=hint)
    return Key(str(path.resolve()), status.st_mtime_ns, status.st_size)


def load(key: Key) -> dict[str, Any] | None:
    """What was stored for *key*, or None."""
    try:
        stored = json.loads((_folder() / key.file_name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return stored if isinstance(stored, dict) else None


def store(key: Key, answers: Mapping[str, Any]) -> None:
    """Store *answers*; a folder that cannot be written costs time, not correctness."""
    folder = _folder()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # In place: a half-written file is no JSON and so no answer, and a kill leaves no temporary file.
        (folder / key.file_name).write_text(json.dumps(answers))


def forget(key: Key) -> None:
    """Remove what was stored for *key*."""
    with contextlib.suppress(OSError):
        (_folder() / key.file_name).unlink(missing_ok=True)


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "cvmig"
