"""A QMP session: commands with deadlines, events that a late waiter does not miss, a transcript of the wire."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from qemu.qmp import ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate
from qemu.qmp.protocol import StateError

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, LostError, ProtocolError
from harness.vm.replies import check_reply
from harness.vm.transcript import Transcript

_HANG_UP_S = 5.0
"""qemu.qmp flushes what it has not sent yet, which a stopped QEMU never takes."""

_QUOTED_BYTES = 80
"""Of words that are no QMP."""


class QmpError(HarnessError):
    """QEMU understood the command and says no."""

    def __init__(self, command: str, *, error_class: str, description: str) -> None:
        super().__init__(f"{command}: {description}")
        self.command = command
        self.error_class = error_class
        """``GenericError``, ``CommandNotFound`` ... (QEMU qapi/error.json)."""
        self.description = description
        """QEMU's own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QmpEvent:
    """One event."""

    name: str
    data: Mapping[str, Any]
    at_s: float
    """When it arrived, on :func:`time.monotonic`'s clock."""
    sent_s: float
    """When QEMU sent it, seconds since 1970 on its host's clock."""


class _Client(QMPClient):
    """qemu.qmp's client with an ear on the wire."""

    def __init__(self, name: str, heard: Callable[[str, Message], None]) -> None:
        super().__init__(name)
        self._heard = heard

    def _cb_outbound(self, msg: Message) -> Message:
        self._heard("tx", msg)
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        self._heard("rx", msg)
        return msg


class QmpSession:
    """One connection to one QEMU. Not to be used by two event loops."""

    def __init__(self, name: str, transcript: Transcript | None = None) -> None:
        self.name = name
        self.events: list[QmpEvent] = []
        """Every event since the greeting, in order."""
        self.greeted_s = 0.0
        """Monotonic time of the first message."""
        self._transcript = transcript
        self._client = _Client(name, self._heard)
        self._news = asyncio.Event()
        self._closing = False
        self._hanging_up = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._loss = ""
        self._odd: Exception | None = None
        """What came that was no QMP, as qemu.qmp takes it."""

    async def connect(self, sock: socket.socket, *, deadline: Deadline) -> None:
        """Take over *sock*, wait for the greeting and negotiate.

        Raises LostError when the other side hangs up, ProtocolError when it speaks no QMP, DeadlineError.
        """
        try:
            async with asyncio.timeout(deadline.left_s):
                await self._client.connect(sock)
        except asyncio.CancelledError:
            sock.close()
            raise
        except TimeoutError:
            sock.close()
            raise DeadlineError(f"{self.name}: no QMP greeting before the deadline") from None
        except QMPError as problem:
            sock.close()
            self._loss = "hung up before the QMP greeting"
            cause = getattr(problem, "exc", problem)
            if isinstance(cause, EOFError | OSError):
                raise LostError(f"{self.name}: {self._loss}") from None
            raise ProtocolError(f"{self.name}: no QMP greeting, but {_one_line(cause)}") from None
        self._watcher = asyncio.create_task(self._watch(), name=f"qmp {self.name}")

    @property
    def is_connected(self) -> bool:
        """False before the greeting and after the connection is gone."""
        return self._client.runstate is Runstate.RUNNING

    @property
    def version(self) -> str:
        """Version from the greeting, e.g. ``7.2.22``; empty before it."""
        greeting = self._client.greeting
        number: Any = greeting and greeting.QMP.version["qemu"]
        return f"{number['major']}.{number['minor']}.{number['micro']}" if number else ""

    @property
    def cursor(self) -> int:
        """Position after the newest event, for ``wait_event(since=...)``."""
        return len(self.events)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        deadline: Deadline,
        oob: bool = False,
        **members: Any,
    ) -> Any:
        """Run *command* and return its ``return`` member.

        *members* are further arguments; their underscores stand for QMP's hyphens. *oob* asks for out-of-band.

        Raises QmpError when QEMU refuses, LostError when the connection is gone, ProtocolError when what came is no QMP
        or no such reply, DeadlineError.
        """
        everything = {**(arguments or {}), **{name.replace("_", "-"): value for name, value in members.items()}}
        try:
            async with asyncio.timeout(deadline.left_s):
                reply = await self._client.execute(command, everything or None, oob=oob)
        except TimeoutError:
            raise DeadlineError(f"{self.name}: no reply to {command} before the deadline") from None
        except ExecuteError as refusal:
            error = refusal.error.error
            raise QmpError(command, error_class=error.class_, description=error.desc) from None
        except (ExecInterruptedError, StateError, EOFError, OSError):
            raise await self._gone(f"during {command}") from None
        except QMPError as problem:
            raise ProtocolError(f"{self.name}: {command}: {_one_line(problem)}") from None
        check_reply(self.name, command, reply)
        return reply

    def latest(self, name: str | Collection[str], *, since: int = 0) -> QmpEvent | None:
        """The newest event of that name after position *since*."""
        names = {name} if isinstance(name, str) else set(name)
        return next((event for event in reversed(self.events[since:]) if event.name in names), None)

    async def wait_event(
        self,
        name: str | Collection[str],
        *,
        where: Callable[[Mapping[str, Any]], bool] = lambda _: True,
        since: int = 0,
        deadline: Deadline,
    ) -> QmpEvent:
        """The first event after position *since* with that *name* (or one of them) whose data satisfy *where*.

        Raises LostError when the connection goes first, ProtocolError when that is for words that are no QMP,
        DeadlineError.
        """
        names = {name} if isinstance(name, str) else set(name)
        position = since
        while True:
            for event in self.events[position:]:
                if event.name in names and where(event.data):
                    return event
            position = max(position, len(self.events))
            if self._loss:
                raise await self._gone(f"while waiting for {_listed(names)}")
            await self._wait_news(f"{self.name}: no {_listed(names)} event before the deadline", deadline)

    async def disconnect(self) -> None:
        """End the session. Safe to call at any time, twice, and when QEMU has hung up already."""
        self._closing = True
        await self._hang_up()
        if self._watcher:
            await self._watcher
        if self._transcript:
            self._transcript.close()

    async def _gone(self, when: str) -> HarnessError:
        """Why nothing more comes, once that is known."""
        if self._watcher:
            await asyncio.wait([self._watcher], timeout=_HANG_UP_S)
        loss = f"{self.name}: {self._loss or 'QMP connection lost'} {when}"
        if not self._odd:
            return LostError(loss)
        words = bytes(getattr(self._odd, "raw", b""))[:_QUOTED_BYTES]
        return ProtocolError(f"{loss}: {_one_line(self._odd)}{f' {words!r}' if words else ''}")

    async def _hang_up(self) -> None:
        # One at a time: two disconnect() at once trip over each other in qemu.qmp.
        async with self._hanging_up:
            try:
                async with asyncio.timeout(_HANG_UP_S):
                    await self._client.disconnect()
            except (EOFError, OSError, TimeoutError):
                pass  # QEMU was first, which is what one expects after "quit"
            except Exception as odd:  # noqa: BLE001 - whatever qemu.qmp stumbled over, and is through with
                # A QEMU that dies in the midst of a message has said nothing odd.
                is_cut = not bytes(getattr(odd, "raw", b"\n")).endswith(b"\n")
                self._odd = self._odd if is_cut else odd

    async def _wait_news(self, late: str, deadline: Deadline) -> None:
        news = self._news
        try:
            async with asyncio.timeout(deadline.left_s):
                await news.wait()
        except TimeoutError:
            raise DeadlineError(late) from None

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _heard(self, direction: str, message: Message) -> None:
        if self._transcript:
            self._transcript.write(direction, bytes(message))
        if direction == "rx" and not self.greeted_s:
            self.greeted_s = time.monotonic()
        if direction == "rx" and "event" in message:
            self.events.append(_event(message))
            self._tell()

    async def _watch(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        if not self._closing:
            await self._hang_up()
        self._loss = "disconnected" if self._closing else "what came is no QMP" if self._odd else "QMP connection lost"
        self._tell()


def ignore_hang_ups() -> None:
    """Have the running loop say nothing of connections that ended while nobody waited for them.

    qemu.qmp gathers its tasks when it disconnects (protocol.py); where that is cancelled, because the case was
    interrupted, nobody looks at the EOFError any more, and asyncio would print it with a traceback.
    """

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), EOFError):
            loop.default_exception_handler(context)

    asyncio.get_running_loop().set_exception_handler(handle)


def _event(message: Message) -> QmpEvent:
    data, stamp = _object(message.get("data")), _object(message.get("timestamp"))
    parts = [stamp.get(unit) for unit in ("seconds", "microseconds")]
    whole, millionths = (part if isinstance(part, int) else 0 for part in parts)
    return QmpEvent(name=str(message["event"]), data=data, at_s=time.monotonic(), sent_s=whole + millionths / 1e6)


def _object(member: Any) -> Mapping[str, Any]:
    return member if isinstance(member, Mapping) else {}


def _listed(names: Collection[str]) -> str:
    return " or ".join(sorted(names))


def _one_line(problem: BaseException) -> str:
    return (str(problem) or type(problem).__name__).splitlines()[0]
