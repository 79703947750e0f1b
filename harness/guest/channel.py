"""One request at a time over a byte channel that may lose bytes, and may move to another VM amid a request."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.guest.frames import Frame, FrameReader, Kind
from harness.guest.protocol import BUSY, REFUSALS, Command, Event, Fault, Ready, parse_fault, parse_ready
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, GuestError, HarnessError, LostError, ProtocolError

RESEND_S = 0.25
"""A request that nobody has answered goes out again after this; the guest executes it once all the same."""
READ_BYTES = 1 << 16
TRIGGER_BYTES = 8
"""The guest's UART hands over so many bytes at once; a rest waits for its time-out."""


@dataclass(slots=True, kw_only=True)
class _Pending:
    command: Command
    wire: bytes
    seq: int
    answer: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, error: HarnessError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _padded(wire: bytes) -> bytes:
    return wire + bytes(-len(wire) % TRIGGER_BYTES)


class Channel:
    """Requests and replies; used by :class:`harness.guest.probe.Probe`. Needs a running loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._seq = secrets.randbits(32) | 1
        self._turn = asyncio.Lock()
        self._pending: _Pending | None = None
        self._gone: HarnessError | None = None
        self._writer = writer
        self._reading = self._listen(reader)
        self._readies: list[Ready] = []
        self._ready_waiters: list[asyncio.Future[Ready]] = []
        self._boots_expected = 1

    def expect_reset(self) -> None:
        """The next READY is no surprise. Without this a second READY is the guest's own restart, and a crash."""
        self._boots_expected = len(self._readies) + 1

    def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Go on over another channel. A pending request is sent again there. A crash stays a crash."""
        self._reading.cancel()
        if not isinstance(self._gone, GuestError):
            self._gone = None
        self._writer = writer
        self._reading = self._listen(reader)
        self._send_pending()

    async def close(self) -> None:
        """Stop listening. The streams are the caller's to close."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading

    async def request(self, command: Command, payload: bytes, deadline: Deadline) -> bytes:
        """The reply's payload.

        Raises GuestError (fault, restart), LostError (the channel is closed), DeadlineError, ProtocolError (refusal).
        """
        async with self._turn:
            if self._gone is not None:
                raise self._gone
            self._seq = (self._seq + 1) & 0xFFFFFFFF
            frame = Frame(kind=Kind.REQUEST, code=command, seq=self._seq, payload=payload)
            self._pending = pending = _Pending(command=command, wire=_padded(frame.encode()), seq=self._seq)
            try:
                return await self._answer(pending, deadline)
            finally:
                self._pending = None
                pending.answer.cancel()

    async def ready(self, deadline: Deadline) -> Ready:
        """The READY of the boot that is expected; at once when it has come in. GuestError, LostError, DeadlineError."""
        if len(self._readies) >= self._boots_expected:
            return self._readies[-1]
        if self._gone is not None:
            raise self._gone
        waiter: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._ready_waiters.append(waiter)
        try:
            return await asyncio.wait_for(waiter, deadline.left_s)
        except TimeoutError:
            raise DeadlineError("the probe did not report READY before the deadline") from None
        finally:
            self._ready_waiters.remove(waiter)

    async def _answer(self, pending: _Pending, deadline: Deadline) -> bytes:
        while True:
            self._send_pending()
            await asyncio.wait({pending.answer}, timeout=min(RESEND_S, deadline.left_s))
            if pending.answer.done():
                return pending.answer.result()
            if deadline.has_passed:
                raise DeadlineError(
                    f"the probe did not answer {pending.command.name} before the deadline",
                    hint="is the guest running? its console log tells where it was",
                )

    def _send_pending(self) -> None:
        if self._pending is not None and not self._writer.is_closing():
            self._writer.write(self._pending.wire)

    def _listen(self, reader: asyncio.StreamReader) -> asyncio.Task[None]:
        task = asyncio.create_task(self._read(reader))
        task.add_done_callback(self._listened)
        return task

    def _listened(self, task: asyncio.Task[None]) -> None:
        """A listener that stumbles must not leave a request waiting for its deadline."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lose(ProtocolError(f"the probe's channel cannot be read: {error!r}"))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        try:
            while data := await reader.read(READ_BYTES):
                for frame in frames.feed(data):
                    self._handle(frame)
        except OSError as error:
            self._lose(LostError(f"the probe's channel broke: {error}"))
        except HarnessError as error:
            self._lose(error)
        else:
            self._lose(LostError("the probe's channel was closed", hint="QEMU has ended; its stderr tells why"))

    def _lose(self, error: HarnessError) -> None:
        self._gone = error
        if self._pending is not None:
            self._pending.fail(error)
        for waiter in self._ready_waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _handle(self, frame: Frame) -> None:
        handlers: dict[Kind, Callable[[Frame], None]] = {
            Kind.EVENT: self._handle_event,
            Kind.REPLY: self._handle_reply,
            Kind.ERROR: self._handle_refusal,
        }
        if frame.kind in handlers:
            handlers[frame.kind](frame)

    def _answers(self, frame: Frame) -> _Pending | None:
        """The request that *frame* answers: late doubles of earlier replies answer none."""
        pending = self._pending
        if pending is None or pending.answer.done():
            return None
        return pending if (frame.seq, frame.code) == (pending.seq, pending.command) else None

    def _handle_reply(self, frame: Frame) -> None:
        if pending := self._answers(frame):
            pending.answer.set_result(frame.payload)

    def _handle_refusal(self, frame: Frame) -> None:
        if pending := self._answers(frame):
            code = int.from_bytes(frame.payload[:4], "little")
            if code == BUSY:
                return  # with a command that was given up; the timer asks again
            reason = REFUSALS.get(code, f"code {code}")
            pending.fail(ProtocolError(f"the probe refuses {pending.command.name}: {reason}"))

    def _handle_event(self, frame: Frame) -> None:
        if frame.code == Event.FAULT:
            fault: Fault = parse_fault(frame.payload)
            self._lose(GuestError(f"the guest crashed: {fault}", hint="its console log has the same line as PANIC"))
        elif frame.code == Event.READY:
            self._handle_ready(parse_ready(frame.payload))

    def _handle_ready(self, ready: Ready) -> None:
        self._readies.append(ready)
        if len(self._readies) > self._boots_expected:
            self._lose(GuestError(f"the guest has restarted by itself (boot {ready.boot_count})"))
            return
        for waiter in self._ready_waiters:
            if not waiter.done():
                waiter.set_result(ready)
        # What was sent while the guest was booting is lost, and need not wait for the timer.
        self._send_pending()
