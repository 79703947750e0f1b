"""The client against a scripted guest at the other end of a socket pair."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from harness.guest.frames import Frame, FrameReader, Kind
from harness.guest.probe import Probe
from harness.guest.protocol import Command, Event, parse_hypercall
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, GuestError, LostError, ProtocolError
from harness.model.guest import HaltMode, KvmCall

CLOCK = struct.pack("<QQ", 1000, 5)
FAULT = struct.pack("<5Q", 14, 2, 0x201172, 0x5000, 3)


@dataclass(slots=True)
class Line:
    """One VM's channel: the client's end, and the guest's end to play on."""

    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: FrameReader

    async def request(self) -> Frame:
        while True:
            for frame in self.frames.feed(await self.reader.read(4096)):
                return frame

    async def say(self, *frames: Frame) -> None:
        self.writer.write(b"".join(frame.encode() for frame in frames))
        await self.writer.drain()

    async def answer(self, request: Frame, payload: bytes = b"") -> None:
        await self.say(Frame(kind=Kind.REPLY, code=request.code, seq=request.seq, payload=payload))


async def line() -> Line:
    ours, theirs = socket.socketpair()
    client = await asyncio.open_connection(sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    return Line(client=client, reader=reader, writer=writer, frames=FrameReader())


def ready(boot_count: int = 1) -> Frame:
    return Frame(kind=Kind.EVENT, code=Event.READY, seq=0, payload=struct.pack("<QQII", 99, boot_count, 2, 1))


def soon() -> Deadline:
    return Deadline.after(20)


def play(story: Callable[[Probe, Line, Line], Awaitable[None]]) -> None:
    async def run() -> None:
        source, destination = await line(), await line()
        probe = Probe(*source.client)
        try:
            await story(probe, source, destination)
        finally:
            await probe.close()
            for end in (source, destination):
                for writer in (end.writer, end.client[1]):
                    writer.close()
            await asyncio.gather(
                *(writer.wait_closed() for end in (source, destination) for writer in (end.writer, end.client[1])),
                return_exceptions=True,
            )

    asyncio.run(run())


def test_a_command_is_sent_and_its_reply_read() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        request = await source.request()
        assert (request.kind, request.code) == (Kind.REQUEST, Command.CLOCK)
        await source.answer(request, CLOCK)
        assert (await asked).tsc_hz == 1000

    play(story)


def test_an_unanswered_request_goes_out_again_as_it_was() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        first, second = await source.request(), await source.request()
        assert first == second
        await source.answer(second, CLOCK)
        await asked

    play(story)


def test_a_pending_request_moves_with_the_guest() -> None:
    async def story(probe: Probe, source: Line, destination: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        request = await source.request()
        probe.attach(*destination.client)
        source.writer.close()
        assert await destination.request() == request
        await destination.answer(request, CLOCK)
        assert (await asked).tsc == 5

    play(story)


def test_late_doubles_answer_nothing() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        first = await source.request()
        await source.answer(first, CLOCK)
        await asked
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        second = await source.request()
        await source.answer(first, struct.pack("<QQ", 1, 1))
        await source.answer(second, CLOCK)
        assert (await asked).tsc_hz == 1000

    play(story)


def test_a_fault_ends_the_pending_command_and_all_that_follow() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        await source.request()
        await source.say(Frame(kind=Kind.EVENT, code=Event.FAULT, seq=0, payload=FAULT))
        with pytest.raises(GuestError, match="vector 14, error 0x2, rip 0x201172, cr2 0x5000, vCPU 3"):
            await asked
        with pytest.raises(GuestError, match="vector 14"):
            await probe.describe(deadline=soon())

    play(story)


def test_a_closed_channel_is_lost_and_not_a_crash() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        await source.request()
        source.writer.close()
        with pytest.raises(LostError, match="closed") as caught:
            await asked
        assert not isinstance(caught.value, GuestError)

    play(story)


def test_the_deadline_names_the_command() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        with pytest.raises(DeadlineError, match="VERIFY"):
            await probe.verify(deadline=Deadline.after(0.05))
        # The next command is not confused by the one that was given up.
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        request = await source.request()
        while request.code != Command.CLOCK:
            request = await source.request()
        await source.answer(request, CLOCK)
        await asked

    play(story)


def test_a_refusal_says_why() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.verify(deadline=soon()))
        request = await source.request()
        await source.say(Frame(kind=Kind.ERROR, code=request.code, seq=request.seq, payload=struct.pack("<I", 4)))
        with pytest.raises(ProtocolError, match="refuses VERIFY: memory has not been filled"):
            await asked

    play(story)


def test_a_reply_that_is_too_short_is_a_protocol_error() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        await source.answer(await source.request(), b"1234")
        with pytest.raises(ProtocolError, match="too short"):
            await asked

    play(story)


def test_a_guest_that_restarts_by_itself_is_reported() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        await source.say(ready())
        await probe.ready(deadline=soon())
        asked = asyncio.create_task(probe.verify(deadline=soon()))
        await source.request()
        await source.say(ready(boot_count=2))
        with pytest.raises(GuestError, match=r"restarted by itself \(boot 2\)"):
            await asked

    play(story)


def test_a_reset_that_was_asked_for_is_no_crash() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        await source.say(ready())
        await probe.ready(deadline=soon())
        asked = asyncio.create_task(probe.halt(HaltMode.RESET, deadline=soon()))
        await source.answer(await source.request())
        await asked
        booted = asyncio.create_task(probe.ready(deadline=soon()))
        await asyncio.sleep(0)
        await source.say(ready(boot_count=2))
        assert (await booted).boot_count == 2

    play(story)


def test_what_was_asked_during_the_boot_is_asked_again_when_ready() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        first = await source.request()
        await source.say(ready())
        assert await source.request() == first
        await source.answer(first, CLOCK)
        await asked

    play(story)


def test_a_guest_busy_with_a_command_that_was_given_up_is_asked_again() -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        request = await source.request()
        await source.say(Frame(kind=Kind.ERROR, code=request.code, seq=request.seq, payload=struct.pack("<I", 1)))
        assert await source.request() == request
        await source.answer(request, CLOCK)
        await asked

    play(story)


def test_a_crash_stays_a_crash_on_the_next_channel() -> None:
    async def story(probe: Probe, source: Line, destination: Line) -> None:
        asked = asyncio.create_task(probe.clock(deadline=soon()))
        await source.say(Frame(kind=Kind.EVENT, code=Event.FAULT, seq=0, payload=FAULT))
        with pytest.raises(GuestError):
            await asked
        probe.attach(*destination.client)
        with pytest.raises(GuestError, match="vector 14"):
            await probe.clock(deadline=soon())

    play(story)


@pytest.mark.parametrize(("call", "result"), [(2, -1000), (1, 0), (0, 0)])
def test_a_hypercall_says_who_answered(call: int, result: int) -> None:
    async def story(probe: Probe, source: Line, _: Line) -> None:
        asked = asyncio.create_task(probe.hypercall(12, 0x1000, 1, deadline=soon()))
        request = await source.request()
        assert (request.code, request.payload) == (Command.HYPERCALL, struct.pack("<4Q", 12, 0x1000, 1, 0))
        await source.answer(request, struct.pack("<IIq", call, 1 << 16, result))
        answer = await asked
        assert (answer.call, answer.features, answer.result) == (KvmCall(call), 1 << 16, result)

    play(story)


def test_an_unknown_way_to_call_is_no_answer() -> None:
    with pytest.raises(ProtocolError, match="unknown way: 7"):
        parse_hypercall(struct.pack("<IIq", 7, 0, 0))
