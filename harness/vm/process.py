"""A QEMU process: started in its own session, its words kept, its end noticed at once.

posix_spawn gives every QEMU the same descriptor numbers and costs no copy of our page tables; a pidfd tells of the end
without a thread. ``setpriv --pdeathsig`` is the second net after the keeper: the kernel kills QEMU when the thread that
started it dies, so start VMs from a thread that outlives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, SetupError

_HIGH_FD = 64
"""Sources of inherited descriptors are moved above the numbers that the child knows."""

_LAST_LINES = 3
_TAIL_BYTES = 64 << 10
_STDERR_END_S = 0.5
"""A grandchild may hold stderr open; the exit is told without its words then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a process ended."""

    status: int | None
    """Exit status; minus the signal's number when a signal ended it; None when somebody else took it from us."""
    last_words: str
    """Its last lines on stderr, one line."""

    @property
    def words(self) -> str:
        """E.g. ``exited with status 1`` or ``was killed by SIGSEGV``."""
        if self.status is None:
            return "is gone, exit status unknown"
        if self.status >= 0:
            return f"exited with status {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"


class Log(Protocol):
    """Takes what a process says. Never raises."""

    def write(self, data: bytes) -> None:
        """The next bytes of it."""


class Process:
    """One child process. Belongs to the event loop that started it."""

    def __init__(self, argv: Sequence[str], *, inherit: Mapping[int, int], log: Log) -> None:
        """Start *argv*; *inherit* maps the child's descriptor numbers to ours, *log* takes stdout and stderr.

        Raises SetupError when it cannot be executed.
        """
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._stderr, write_end = os.pipe()
        os.set_blocking(self._stderr, False)
        try:
            self.pid = _spawn(argv, {**inherit, 1: write_end, 2: write_end})
            self._pidfd = _pidfd(self.pid)
        except OSError as problem:
            os.close(self._stderr)
            raise SetupError(f"cannot run {argv[0]}: {problem.strerror}") from None
        finally:
            os.close(write_end)
        self._stderr_ended = asyncio.Event()
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._loop.add_reader(self._stderr, self._read_stderr)
        self._loop.add_reader(self._pidfd, self._reap)
        self._reaper: asyncio.Task[None] | None = None

    @property
    def last_words(self) -> str:
        """The last lines on stderr so far, joined to one line."""
        text = b"".join(self._tail).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return "; ".join(lines[-_LAST_LINES:])

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process; nothing happens when it is gone."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """SIGKILL to it and to what it started in its session; nothing happens when it is gone."""
        if self._pidfd >= 0:
            # Not reaped yet, so the number still names our process group and nobody else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.send_signal(signal.SIGKILL)

    async def wait(self, deadline: Deadline) -> Exit:
        """Wait for the end. DeadlineError when it does not come."""
        try:
            async with asyncio.timeout(deadline.left_s):
                return await asyncio.shield(self.exited)
        except TimeoutError:
            raise DeadlineError(f"process {self.pid} did not end before the deadline") from None

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._close_stderr()
            return
        self._log.write(data)
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail_bytes > _TAIL_BYTES and len(self._tail) > 1:
            self._tail_bytes -= len(self._tail.popleft())

    def _close_stderr(self) -> None:
        if self._stderr >= 0:
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._stderr = -1
            self._stderr_ended.set()

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._reaper = self._loop.create_task(self._tell_exit(_exit_status(self.pid)), name=f"exit of {self.pid}")

    async def _tell_exit(self, status: int | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STDERR_END_S):
                await self._stderr_ended.wait()
        self._close_stderr()
        if not self.exited.done():
            self.exited.set_result(Exit(status=status, last_words=self.last_words))


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _exit_status(pid: int) -> int | None:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def _spawn(argv: Sequence[str], inherit: Mapping[int, int]) -> int:
    words = [*_dies_with_us(), *argv]
    sources = {child: fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD) for child, ours in inherit.items()}
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        *((os.POSIX_SPAWN_DUP2, source, child) for child, source in sources.items()),
    ]
    try:
        return os.posix_spawnp(
            words[0],
            words,
            os.environ,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT),
        )
    finally:
        for source in sources.values():
            os.close(source)


@cache
def _dies_with_us() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
