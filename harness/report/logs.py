"""What else is in a case's folder, bounded for a page: the ends of its logs, and the names of everything."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.report.figures import size
from harness.report.store import EVENTS, REPORT, RESULT

_TEXT = frozenset({".log", ".txt", ".jsonl", ".json", ".sh", ".argv", ".err", ".out"})
_UNSHOWN = frozenset({RESULT, REPORT})
_FILES_MAX = 200
_SHOWN_MAX = 16
_TAIL_BYTES = 10_000
_ALL_BYTES = 120_000
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The end of one text file."""

    name: str
    text: str
    left_out_bytes: int
    """How many bytes before *text* are in the file only."""

    @property
    def left_out(self) -> str:
        """The same for people."""
        return size(self.left_out_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file of the folder."""

    name: str
    size: str


def artefacts(folder: Path) -> tuple[Artefact, ...]:
    """Every file below *folder* except the page itself, named relative to it. What cannot be read is passed over."""
    return tuple(Artefact(name=name, size=size(count)) for name, count in _files(folder) if name != REPORT)


def logs(folder: Path) -> tuple[Log, ...]:
    """The ends of the text files below *folder*: events first, then by name."""
    names = [name for name, _ in _files(folder) if Path(name).suffix in _TEXT and name not in _UNSHOWN]
    names.sort(key=lambda name: (name != EVENTS, name))
    found, room = [], _ALL_BYTES
    for name in names[:_SHOWN_MAX]:
        log = _tail(folder, name, min(_TAIL_BYTES, room))
        if log and log.text:
            found.append(log)
            room = max(500, room - len(log.text))
    return tuple(found)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Names and sizes, in order. Links are not followed: a page must not quote files of elsewhere."""
    found: list[tuple[str, int]] = []
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            with contextlib.suppress(OSError):
                if not name.startswith(".") and stat.S_ISREG((status := path.lstat()).st_mode):
                    found.append((path.relative_to(folder).as_posix(), status.st_size))
    yield from sorted(found)[:_FILES_MAX]


def _tail(folder: Path, name: str, count_bytes: int) -> Log | None:
    try:
        with (folder / name).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = max(0, end - count_bytes)
            file.seek(start)
            data = file.read(count_bytes)
    except OSError:
        return None
    if start:
        _, newline, rest = data.partition(b"\n")
        data = rest if newline and rest else data
    return Log(name=name, text=printable(data), left_out_bytes=end - len(data))


def printable(data: bytes) -> str:
    """*data* as text that a page may hold: colours of terminals removed, other control characters as a dot."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    return _UNPRINTABLE.sub("·", _ESCAPES.sub("", text))
