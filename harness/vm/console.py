"""The guest's console: always drained (a full socket stops the guest), kept in a file, its last lines in memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, LostError
from harness.vm.artefact import ArtefactFile

_KEPT_LINES = 1000
_LINE_BYTES = 64 << 10
"""A "line" longer than this is cut: a guest gone wild must not fill our memory."""


class Console:
    """Lines that the guest printed."""

    def __init__(self, log: ArtefactFile) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        """The last complete lines, without their ends."""
        self.count = 0
        """How many complete lines there have been."""
        self._log = log
        self._rest = b""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def attach(self, sock: socket.socket) -> None:
        """Take over *sock* and drain it until its end."""
        reader, writer = await asyncio.open_connection(sock=sock)
        self._task = asyncio.create_task(self._drain(reader, writer), name="console")

    async def wait_line(self, wanted: Callable[[str], bool], *, deadline: Deadline) -> str:
        """The first kept or future line that is *wanted*. Raises DeadlineError, or LostError when the console ends."""
        seen = max(0, self.count - len(self.lines))
        while True:
            for line in list(self.lines)[seen - self.count or len(self.lines) :]:
                if wanted(line):
                    return line
            seen = self.count
            if self._task is None or self._task.done():
                raise LostError(f"the console ended; last line: {self.last_line!r}")
            await self._more(deadline)

    @property
    def last_line(self) -> str:
        """The newest complete line, empty when there is none."""
        return self.lines[-1] if self.lines else ""

    @staticmethod
    async def settle() -> None:
        """Let what has arrived already become lines: one turn of the loop to poll, one to read, one to take."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def close(self, deadline: Deadline) -> None:
        """Take what is still on its way, then end. The process must be gone, or *deadline* is waited for."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(deadline.left_s):
                await self._task

    async def _more(self, deadline: Deadline) -> None:
        news = self._news
        try:
            async with asyncio.timeout(deadline.left_s):
                await news.wait()
        except TimeoutError:
            raise DeadlineError(f"console line not seen before the deadline; last line: {self.last_line!r}") from None

    async def _drain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await self._read(reader):
                self._log.write(data)
                self._take(data)
                self._tell()
        finally:
            writer.close()
            self._tell()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.read(1 << 16)
        except OSError:
            return b""

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        self.lines.extend(line.decode(errors="replace").rstrip("\r") for line in lines)
        self.count += len(lines)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
