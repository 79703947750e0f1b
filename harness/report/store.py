"""The run store: one folder per run, one folder in it per execution of a case.

::

    runs/
      last -> 20261121T001500Z-3f2a1c
      20261121T001500Z-3f2a1c/           UTC time and a short random id
        index.json, index.html           what ran in here
        memory-precopy/                  the case, its id made safe for a file name
          result.json, report.html, repro.sh, events.jsonl
          ...                            transcripts, logs, captures of whoever has the case's folder
        memory-precopy-2/                a repeat

Folders are for their owner only (0700): guest memory and consoles may be in them. A folder that cannot be made is a
SetupError before anything runs; from then on trouble with writing goes to :class:`harness.report.losses.Losses`.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from itertools import count
from pathlib import Path

from harness.model.errors import SetupError
from harness.model.verdict import Verdict
from harness.report.losses import Losses

RESULT = "result.json"
REPORT = "report.html"
REPRO = "repro.sh"
EVENTS = "events.jsonl"
INDEX_JSON = "index.json"
INDEX_HTML = "index.html"
LAST = "last"

_SLUG_MAX = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")


class Keep(StrEnum):
    """What stays of the heavy artefacts (captured streams, memory images). Everything else always stays."""

    NEVER = "never"
    FAIL = "fail"
    """Only where the case did not pass."""
    ALWAYS = "always"

    def keeps_heavy(self, verdict: Verdict) -> bool:
        """True when heavy artefacts of a case that ended so are worth their room."""
        return self is Keep.ALWAYS or (self is Keep.FAIL and verdict is not Verdict.PASS)


def slug(case: str) -> str:
    """*case* as one file name: ``memory/precopy`` becomes ``memory-precopy``.

    Never empty, hidden, a path, or the name of a file of the run. A long id keeps its head and gets a digest, so that
    two of them stay apart.
    """
    name = _UNSAFE.sub("-", case).strip("-") or "case"
    if len(name) <= _SLUG_MAX:
        return name
    digest = hashlib.blake2b(case.encode(), digest_size=4).hexdigest()
    return f"{name[: _SLUG_MAX - 9]}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFolder:
    """The folder of one execution of one case, and what is missing in it."""

    path: Path
    losses: Losses = field(default_factory=Losses)

    def write(self, name: str, content: str | bytes, *, executable: bool = False) -> bool:
        """Write the file *name* whole or not at all. False, and a note in the losses, when that cannot be."""
        try:
            write_whole(self.path / name, content, mode=0o700 if executable else 0o600)
        except OSError as error:
            self.losses.note(name, error)
            return False
        return True

    def drop(self, heavy: Iterable[Path]) -> None:
        """Remove heavy artefacts; those that never came to be are fine. ValueError for a file that is not in here."""
        for path in heavy:
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise ValueError(f"{path} is no artefact of {self.path}")
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self.losses.note(path.name, error)

    def settle(self, keep: Keep, verdict: Verdict, heavy: Iterable[Path]) -> None:
        """Apply the keep policy once the verdict is known."""
        if not keep.keeps_heavy(verdict):
            self.drop(heavy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The folder of one run."""

    path: Path

    @classmethod
    def create(cls, root: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Run:
        """A new run below *root*, and ``last`` pointing to it. SetupError when *root* cannot hold one."""
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = _new_folder(root / f"{now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}" for _ in count())
            point(root / LAST, path.name)
        except OSError as error:
            raise _unusable(root, error) from error
        return cls(path=path)

    def new_case(self, case: str) -> CaseFolder:
        """A new folder for *case*; repeats are numbered from 2. Processes may share a run. SetupError as above."""
        name = slug(case)
        try:
            return CaseFolder(path=_new_folder(self.path / _numbered(name, number) for number in count(1)))
        except OSError as error:
            raise _unusable(self.path, error) from error


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _new_folder(candidates: Iterable[Path]) -> Path:
    """The first of *candidates* that did not exist; mkdir decides, so two processes never get the same."""
    for path in candidates:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, "no name is free")


def _unusable(folder: Path, error: OSError) -> SetupError:
    why = error.strerror or str(error)
    return SetupError(f"cannot make a folder in {folder}: {why}", hint="give a writable folder with --out DIR")


def point(link: Path, target: str) -> None:
    """Make the symbolic link *link* point to *target* in one step. A real file or folder of that name stays."""
    if link.exists() and not link.is_symlink():
        return
    fresh = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    fresh.symlink_to(target)
    try:
        fresh.replace(link)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Write a file so that readers see the old content or the new, never a part. OSError leaves the old one."""
    data = content.encode("utf-8", errors="replace") if isinstance(content, str) else content
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
