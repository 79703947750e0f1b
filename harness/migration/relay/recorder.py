"""Keeps what went to the destination in a file. Trouble with the file never troubles the migration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

DEFAULT_CAP_BYTES = 16 << 30


class Recorder:
    """Appends until the cap is reached or a write fails; then a note says why the file ends early."""

    def __init__(self, path: Path | None, *, cap_bytes: int, note: Callable[[str], None]) -> None:
        self._note = note
        self._left_bytes = cap_bytes
        self._fd: int | None = None
        self.path = path
        if path is not None:
            self._open(path)

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*, or stop for good."""
        if self._fd is None:
            return
        if len(data) > self._left_bytes:
            self._stop(f"recording stopped at its cap: {self.path} is not the whole stream")
            return
        self._left_bytes -= len(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._stop(f"recording stopped: {error.strerror}: {self.path} is not the whole stream")

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _open(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._note(f"recording is off: {error.strerror}: {path}")

    def _stop(self, note: str) -> None:
        self.close()
        self._note(note)
