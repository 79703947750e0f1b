"""Files of a run folder that grow while a VM lives. A full disk must not take the VM down with it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from harness.model.errors import SetupError


class ArtefactFile:
    """An append-only, bounded file. After the first failed write it stays silent and remembers why in ``trouble``."""

    def __init__(self, path: Path, *, limit_bytes: int = 64 << 20) -> None:
        """Create *path*; SetupError when that is impossible."""
        self.path = path
        self.trouble: str = ""
        self._left_bytes = limit_bytes
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as problem:
            raise SetupError(
                f"cannot write {path}: {problem.strerror}", hint="choose a writable folder with --out DIR"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes) -> None:
        """Append *data*, up to the limit. Never raises."""
        if self.trouble or self._file.closed:
            return
        if len(data) > self._left_bytes:
            self.trouble = f"{self.path.name}: too much output, the rest is not kept"
            data = data[: self._left_bytes]
        try:
            self._left_bytes -= self._file.write(data)
        except OSError as problem:
            self.trouble = f"{self.path.name}: {problem.strerror}"

    def close(self) -> None:
        """Safe to call twice."""
        try:
            self._file.close()
        except OSError as problem:
            self.trouble = f"{self.path.name}: {problem.strerror}"
