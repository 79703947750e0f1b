"""Clears away after a harness that was killed: QEMUs by their name, temporary folders by their path.

A small process of its own session holds a pipe from the harness. When the pipe closes or the harness is gone, it kills
every process whose ``-name`` begins with the harness process's prefix and removes the registered folders. The prefix is
chosen before anything is started, so at no moment is there a process that the keeper cannot tell to be ours.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Self

from harness.model.errors import SetupError

_PROGRAM = Path(__file__).with_name("keeper_main.py")
_LAST_S = 5.0

PROCESS_PREFIX = f"cvmig-{secrets.token_hex(4)}-"
"""Begins the ``-name`` of everything that this harness process starts, with a keeper or without."""

_numbers = itertools.count()


class Keeper:
    """One per harness process. Use as a context manager, or call ``close``."""

    def __init__(self) -> None:
        """Start the keeper. SetupError when that is impossible."""
        self.prefix = f"{PROCESS_PREFIX}{next(_numbers)}-"
        """Begins the ``-name`` of every VM that was started with this keeper."""
        command = (sys.executable, "-I", "-S", os.fspath(_PROGRAM), str(os.getpid()), PROCESS_PREFIX, self.prefix)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                bufsize=0,
            )
        except OSError as problem:
            raise SetupError(f"cannot start {sys.executable}: {problem.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id of the keeper itself."""
        return self._process.pid

    def vm_name(self, token: str, role: str) -> str:
        """The ``-name`` of a VM, which this keeper will recognise."""
        return f"{self.prefix}{token}-{role}"

    def register_folder(self, folder: Path) -> None:
        """Have *folder* removed if the harness dies; call it before the folder is made."""
        self._say(f"+{folder}")

    def forget_folder(self, folder: Path) -> None:
        """The folder has been removed, or shall stay."""
        self._say(f"-{folder}")

    def close(self) -> None:
        """Let go in peace: what is still there is cleared away at once. Safe to call twice."""
        stdin = self._process.stdin
        assert stdin is not None
        if stdin.closed:
            return
        self._say(".")
        with contextlib.suppress(OSError):
            stdin.close()
        try:
            self._process.wait(_LAST_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(os.fsencode(line) + b"\n")
        except (OSError, ValueError):
            if line != ".":
                raise SetupError("the keeper is gone, so nothing would clear away after a kill") from None
