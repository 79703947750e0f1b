"""A private folder for sockets that need a path: short, 0700, and gone when the harness is, however it ends."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.model.errors import SetupError
from harness.vm.keeper import Keeper

SUN_PATH_BYTES = 107
"""Longest path of a unix socket: ``sun_path`` has 108 bytes with its NUL (Linux include/uapi/linux/un.h)."""

_NAME_BYTES = 32
"""Room for the socket's own name."""


@contextmanager
def runtime_folder(keeper: Keeper) -> Iterator[Path]:
    """Yield a new private folder for socket files; socket names may have up to 31 bytes.

    Raises SetupError when no folder can be made.
    """
    folder = _parent() / f"cvmig-{secrets.token_hex(4)}"
    keeper.register_folder(folder)
    try:
        folder.mkdir(mode=0o700)
    except OSError as problem:
        keeper.forget_folder(folder)
        raise SetupError(f"cannot make {folder}: {problem.strerror}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            keeper.forget_folder(folder)


def _parent() -> Path:
    """The session's runtime folder where it is ours and short enough, else the one for temporary files."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - 0700 below it
        if candidate and _fits(candidate) and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    raise SetupError(
        "no folder for sockets whose path is short enough",
        hint="set XDG_RUNTIME_DIR or TMPDIR to a short, writable path",
    )


def _fits(parent: str) -> bool:
    return parent.startswith("/") and len(os.fsencode(parent)) + len("/cvmig-01234567/") + _NAME_BYTES <= SUN_PATH_BYTES
