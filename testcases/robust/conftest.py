"""What tests of trouble share: a private place for sockets, and the proof that nothing is left over."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

GONE_S = 5.0
"""Everything is gone so soon after the harness is."""
_POLL_S = 0.01
_ENDS_S = 60.0


def processes_with(mark: bytes) -> list[str]:
    """Processes that carry *mark* in their environment or on their command line, this one left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            if mark in words or mark in (entry / "environ").read_bytes():
                found.append(f"{entry.name} {words.replace(bytes(1), b' ').decode(errors='replace')[:200]}")
        except OSError:
            continue
    return found


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for sockets of this test alone; short, because a socket's path has to be."""
    folder = Path(tempfile.mkdtemp(prefix="cv-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by whoever runs the tests in the background
from harness.cli import main
main()
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """``cvmig`` as a process of its own, and everything that it starts."""

    process: subprocess.Popen[str]
    sockets: Path

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        out, err = self.process.communicate(timeout=_ENDS_S)
        return self.process.returncode, out, err

    def leftovers(self) -> list[str]:
        """Processes and files that are still there when they had time to go."""
        deadline_s = time.monotonic() + GONE_S
        while (found := self._now()) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        return found

    def _now(self) -> list[str]:
        return [*processes_with(os.fsencode(self.sockets)), *(path.name for path in self.sockets.iterdir())]


@dataclass(kw_only=True)
class Shell:
    """Starts ``cvmig``."""

    sockets: Path
    cwd: Path
    started: list[Command] = field(default_factory=list)

    def __call__(self, *words: str) -> Command:
        # The folder for sockets is in the environment of everything that is started, and so marks it.
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.cwd,
        )
        command = Command(process=process, sockets=self.sockets)
        self.started.append(command)
        return command


@pytest.fixture
def cvmig(sockets: Path, tmp_path: Path) -> Iterator[Shell]:
    """``cvmig("run", "memory/precopy")`` -> the running command."""
    shell = Shell(sockets=sockets, cwd=tmp_path)
    yield shell
    for command in shell.started:
        if command.process.poll() is None:
            command.process.kill()
            command.process.communicate()


@pytest.fixture
def clean(sockets: Path) -> Iterator[None]:
    """Ends the test with a failure when something of this process is left over: files, VMs, threads, descriptors."""
    before = _held()
    yield
    assert list(sockets.iterdir()) == []
    assert [line for line in processes_with(os.fsencode(sockets)) if "-name" in line] == []
    assert _held() == before


def _held() -> tuple[list[str], int]:
    gc.collect()  # what earlier tests of this process have let go of is none of this one's
    threads = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("cvmig"))
    return threads, len(list(Path("/proc/self/fd").iterdir()))
