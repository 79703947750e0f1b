"""ioctls of a running process, by strace: the only witness of a call whose result QEMU itself ignores.

strace stops every system call of the process (some 40 us each), so a guest under KVM gets slower while it is watched;
attach it around a reset, not for a whole run. It is let go, and with it the process, when its deadline has passed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, LostError, UnsupportedError
from harness.model.reset import RESET_IOCTLS, IoctlCall, IoctlTrace
from harness.vm.process import Process
from harness.vm.strace_lines import StraceParser

_OUTPUT_FD = 3
_GRACE_S = 2.0
"""strace lets go of all threads at SIGTERM; one that does not is killed, and the kernel lets go for it."""

_PIPE_BYTES = 1 << 20
"""QEMU stands still while strace cannot write; this holds some ten thousand calls. /proc/sys/fs/pipe-max-size."""

_DEATHS = "kill,segv,abrt,bus,ill,fpe,term,sys"
"""Signals that strace tells of: without SIGKILL among them it is silent about the end."""


def strace_command(strace: str, pid: int) -> tuple[str, ...]:
    """All threads, times since 1970, numbers instead of names, no word about anything else."""
    options = ("-f", "-ttt", "-a1", "-X", "raw", "-e", "trace=ioctl", "-e", "raw=ioctl", "-e", f"signal={_DEATHS}")
    return (strace, *options, "-o", f"/dev/fd/{_OUTPUT_FD}", "-p", str(pid))


class IoctlTracer:
    """A strace that is attached. Made by :func:`trace_ioctls`."""

    def __init__(self, pid: int, strace: str, wanted: Collection[int]) -> None:
        self.pid = pid
        self._parser = StraceParser(wanted)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._attached = asyncio.Event()
        self._drained = asyncio.Event()
        self._messages = b""
        self._end = ""
        self._timers: list[asyncio.TimerHandle] = []
        self._started_s = self._ended_s = time.time()
        self._output, write_end = os.pipe()
        os.set_blocking(self._output, False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._process = Process(strace_command(strace, pid), inherit={_OUTPUT_FD: write_end}, log=self)
        except BaseException:
            os.close(self._output)
            raise
        finally:
            os.close(write_end)
        self._loop.add_reader(self._output, self._read)

    @property
    def calls(self) -> tuple[IoctlCall, ...]:
        """Wanted calls so far."""
        return tuple(self._parser.calls)

    @property
    def is_attached(self) -> bool:
        """Whether strace still watches."""
        return self._attached.is_set() and not self._process.exited.done()

    def trace(self) -> IoctlTrace:
        """What was seen; whole once the block of :func:`trace_ioctls` has been left."""
        return IoctlTrace(
            pid=self.pid,
            started_s=self._started_s,
            ended_s=self._ended_s,
            calls=self.calls,
            others=self._parser.others,
            end=self._end,
            unread=self._parser.unread,
        )

    async def wait_answered(self, request: int, count: int = 1, *, deadline: Deadline) -> tuple[IoctlCall, ...]:
        """Wait until *count* calls of *request* have returned. LostError when the trace ends first, DeadlineError."""
        while True:
            found = tuple(call for call in self.calls if call.request == request and call.result is not None)
            if len(found) >= count:
                return found
            if self._drained.is_set():
                raise LostError(f"process {self.pid} issued ioctl {request:#x} {len(found)} times, then: {self._end}")
            news = self._news
            try:
                async with asyncio.timeout(deadline.left_s):
                    await news.wait()
            except TimeoutError:
                detail = f"{len(found)} of {count} calls of ioctl {request:#x} seen before the deadline"
                raise DeadlineError(f"process {self.pid}: {detail}") from None

    def write(self, data: bytes) -> None:
        """Strace's own messages."""
        if self._attached.is_set():
            return
        self._messages += data
        if f"strace: Process {self.pid} attached".encode() in self._messages:
            self._started_s = time.time()
            self._attached.set()

    async def attach(self, deadline: Deadline) -> None:
        """Wait until the process is watched. UnsupportedError, LostError, DeadlineError."""
        attached = asyncio.create_task(self._attached.wait())
        either: set[asyncio.Future[Any]] = {attached, self._process.exited}
        await asyncio.wait(either, timeout=deadline.left_s, return_when=asyncio.FIRST_COMPLETED)
        attached.cancel()
        if self._process.exited.done() and not self._attached.is_set():
            raise _refusal(self.pid, self._process.last_words)
        if not self._attached.is_set():
            raise DeadlineError(f"strace did not attach to process {self.pid} before the deadline")
        # From here on it goes by itself, whatever the caller is busy with.
        self._timers = [
            self._loop.call_later(deadline.left_s, self._let_go, "deadline"),
            self._loop.call_later(deadline.left_s + _GRACE_S, self._process.kill),
        ]

    async def detach(self) -> None:
        """Let the process go, and take what is still on its way. Safe at any time and twice."""
        for timer in self._timers:
            timer.cancel()
        self._let_go("asked")
        try:
            with contextlib.suppress(DeadlineError):
                await self._process.wait(Deadline.after(_GRACE_S))
        finally:
            self._process.kill()
        await self._process.wait(Deadline.after(_GRACE_S))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._drained.wait()
        self._close()

    def _let_go(self, why: str) -> None:
        if not self._process.exited.done() and not self._drained.is_set():
            self._end = self._end or why
            self._process.send_signal(signal.SIGTERM)

    def _read(self) -> None:
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return
        self._parser.feed(data)
        if not data:
            self._close()
        self._tell()

    def _close(self) -> None:
        if self._output < 0:
            return
        self._loop.remove_reader(self._output)
        os.close(self._output)
        self._output = -1
        self._parser.finish()
        self._ended_s = time.time()
        self._end = self._parser.ends.get(self.pid) or self._end or "strace ended"
        self._drained.set()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@asynccontextmanager
async def trace_ioctls(
    pid: int, *, wanted: Collection[int] = tuple(RESET_IOCTLS), strace: str = "strace", deadline: Deadline
) -> AsyncIterator[IoctlTracer]:
    """Watch ioctls of *pid* and of all its threads and children; those with a *wanted* number are kept.

    Inside the block every one is seen, and ``trace()`` tells all of them when the block has been left. At the deadline
    the process is let go and the trace ends with ``deadline``. One process is traced by one tracer at a time.

    Raises UnsupportedError when there is no strace or it may not attach, LostError when the process is gone already.
    """
    path = shutil.which(strace)
    if path is None:
        raise UnsupportedError(f"no {strace} on PATH, so nobody sees QEMU's ioctls", hint="install the package strace")
    tracer = IoctlTracer(pid, path, wanted)
    try:
        await tracer.attach(deadline)
        yield tracer
    finally:
        await asyncio.shield(tracer.detach())


def _refusal(pid: int, words: str) -> HarnessError:
    if "No such process" in words:
        return LostError(f"process {pid} was gone before strace could attach to it")
    first = words.split(";", maxsplit=1)[0].removeprefix("strace: ") or "no reason given"
    return UnsupportedError(
        f"strace may not attach to process {pid}: {first}",
        hint="run as root or with CAP_SYS_PTRACE, or set kernel.yama.ptrace_scope to 0; a process has one tracer only",
    )
