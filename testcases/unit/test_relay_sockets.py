"""The relay between two plain sockets: forwarding, recording, ends of every kind, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.migration.relay import Endpoint, Relay
from harness.migration.relay.editor import Edited
from harness.migration.stream import format as wire
from harness.migration.stream.elements import (
    Configuration,
    Header,
    RamBlock,
    RamBlockList,
    RamMark,
    SectionFooter,
    SectionHead,
)
from harness.migration.stream.format import SectionType
from harness.migration.stream.return_path import ReturnPathParser
from harness.migration.stream.writer import encode, write
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, SetupError, UsageError
from harness.model.memory import PAGE_SIZE
from harness.model.seed import Seed
from harness.model.wire import AppliedFault, WireAccount, WireEnd, WireFault
from harness.model.wire import WireFaultName as Name

BOUND_S = 60.0
RAM_PAGES = 2048
SHUT = struct.pack(">HHI", 1, 4, 0)


def stream(passes: int = 2) -> bytes:
    """8 MiB of RAM sent *passes* times, and no device."""
    blocks = (RamBlock(name="ram", used_bytes=RAM_PAGES * PAGE_SIZE),)
    start = SectionHead(kind=SectionType.START, section_id=2, idstr="ram", version_id=4)
    listed = RamBlockList(word=RAM_PAGES * PAGE_SIZE | wire.FLAG_MEM_SIZE, blocks=blocks)
    close = write([RamMark(word=wire.FLAG_EOS), SectionFooter(section_id=2)])
    data = write([Header(version=3), Configuration(machine="pc"), start, listed]) + close
    for number in range(passes):
        kind = SectionType.END if number == passes - 1 else SectionType.PART
        words = (
            index * PAGE_SIZE | wire.FLAG_PAGE | (wire.FLAG_CONTINUE if index else 0) for index in range(RAM_PAGES)
        )
        pages = (
            struct.pack(">Q", word) + (b"" if word & wire.FLAG_CONTINUE else b"\3ram") + bytes([number + 1]) * PAGE_SIZE
            for word in words
        )
        data += encode(SectionHead(kind=kind, section_id=2)) + b"".join(pages) + close
    return data + bytes([SectionType.EOF])


STREAM = stream()


@dataclass
class Sink:
    """The destination: keeps what comes, answers SHUT 0 at the end."""

    received: bytearray = field(default_factory=bytearray)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 18):
                self.received += data
            writer.write(SHUT)
            await writer.drain()
        except ConnectionError as error:
            self.error = type(error).__name__
        finally:
            writer.close()
            self.ended.set()


@dataclass
class Wire:
    """One relay with a sink behind it."""

    relay: Relay
    sink: Sink

    async def send(self, data: bytes = STREAM) -> bytes:
        """Be the source; returns what came on the return path, or why it broke."""
        listen = self.relay.listen
        if listen.path:
            reader, writer = await asyncio.open_unix_connection(listen.path)
        else:
            reader, writer = await asyncio.open_connection(listen.host, listen.port)
        try:
            for start in range(0, len(data), 1 << 18):
                writer.write(data[start : start + (1 << 18)])
                await writer.drain()
            writer.write_eof()
            return await reader.read()
        except OSError as error:
            return type(error).__name__.encode()
        finally:
            writer.close()

    async def account(self) -> WireAccount:
        return await self.relay.wait(Deadline.after(BOUND_S))


@asynccontextmanager
async def wired(folder: Path, *faults: WireFault, tcp: bool = False, **options: Any) -> AsyncIterator[Wire]:
    sink = Sink()
    if tcp:
        server: asyncio.Server = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
        destination = Endpoint.tcp(server.sockets[0].getsockname()[1])
    else:
        server = await asyncio.start_unix_server(sink.serve, folder / "dst")
        destination = Endpoint.unix(folder / "dst")
    listen = Endpoint.tcp() if tcp else Endpoint.unix(folder / "relay")
    try:
        async with Relay(listen, destination, faults=faults, seed=Seed(3), **options) as relay:
            yield Wire(relay, sink)
    finally:
        server.close()
        await server.wait_closed()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, not paths


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run *story* and prove that it left neither a thread nor a descriptor."""
    fds = open_fds()

    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await story()

    asyncio.run(bounded())
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cvmig-relay")] == []
    assert open_fds() == fds


@pytest.mark.parametrize("tcp", [False, True], ids=["unix", "tcp"])
def test_forwards_counts_and_records(tmp_path: Path, *, tcp: bool) -> None:
    async def story() -> None:
        record = tmp_path / "stream"
        async with wired(tmp_path, tcp=tcp, record=record) as line:
            assert await line.send() == SHUT
            account = await line.account()
        assert bytes(line.sink.received) == STREAM == record.read_bytes()
        assert (account.end, account.shut_code, account.notes) == (WireEnd.COMPLETE, 0, ())
        assert account.return_messages == ("SHUT 0x0",)
        assert account.records_per_pass == (RAM_PAGES, RAM_PAGES)
        assert account.pages_resent == RAM_PAGES
        assert account.bytes_forwarded == len(STREAM)
        assert line.relay.page_counts("ram").tolist() == [2] * RAM_PAGES
        assert not (tmp_path / "relay").exists()

    play(story)


def test_recording_that_fails_never_troubles_the_stream(tmp_path: Path) -> None:
    async def story(record: Path, note: str, **options: int) -> None:
        async with wired(tmp_path, record=record, **options) as line:
            assert await line.send() == SHUT
            account = await line.account()
        assert bytes(line.sink.received) == STREAM
        assert account.end == WireEnd.COMPLETE
        assert any(note in text for text in account.notes)

    play(lambda: story(Path("/dev/full"), "No space left"))
    play(lambda: story(tmp_path / "absent" / "file", "recording is off"))
    play(lambda: story(tmp_path / "capped", "cap", record_cap_bytes=1 << 20))
    assert (tmp_path / "capped").stat().st_size <= 1 << 20


def test_what_is_not_understood_is_forwarded_with_a_note(tmp_path: Path) -> None:
    async def story() -> None:
        noise = STREAM[:70_000] + b"\xff" * 70_000
        async with wired(tmp_path) as line:
            assert await line.send(noise) == SHUT
            account = await line.account()
        assert bytes(line.sink.received) == noise
        assert account.end == WireEnd.CLOSED
        assert any("not understood" in note for note in account.notes)

    play(story)


def test_source_that_dies_is_a_cut(tmp_path: Path) -> None:
    async def story() -> None:
        async with wired(tmp_path) as line:
            await line.send(STREAM[: len(STREAM) // 2])
            account = await line.account()
        assert account.end == WireEnd.CUT
        assert any("ends in the middle" in note for note in account.notes)

    play(story)


def test_destination_that_dies_is_a_cut(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100_000)
        writer.transport.abort()

    async def story() -> None:
        server = await asyncio.start_unix_server(hang_up, tmp_path / "dst")
        async with server, Relay(Endpoint.unix(tmp_path / "relay"), Endpoint.unix(tmp_path / "dst")) as relay:
            await Wire(relay, Sink()).send()
            account = await relay.wait(Deadline.after(BOUND_S))
        assert account.end == WireEnd.CUT
        assert account.notes

    play(story)


class BrokenEditor:
    """A mistake of ours."""

    is_holding = False

    def edit(self, element: object) -> Edited:
        raise ZeroDivisionError(f"at {type(element).__name__}")

    def release(self) -> bytes:
        return b""

    def applied(self) -> tuple[AppliedFault, ...]:
        return ()


def test_a_mistake_of_ours_closes_both_sides_and_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with wired(tmp_path, editor=BrokenEditor()) as line:
            await line.send()
            await line.account()
            await line.sink.ended.wait()
            with pytest.raises(HarnessError, match=r"bug in the harness: .*ZeroDivisionError.*at Header"):
                line.relay.check_ours()

    play(story)


def test_a_mistake_of_ours_on_the_return_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: ReturnPathParser, __: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ReturnPathParser, "feed", broken)

    async def story() -> None:
        async with wired(tmp_path) as line:
            await line.send()
            await line.account()
            await line.sink.ended.wait()
            with pytest.raises(HarnessError, match="bug in the harness"):
                line.relay.check_ours()

    play(story)


def test_destination_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with Relay(Endpoint.unix(tmp_path / "relay"), Endpoint.unix(tmp_path / "dst")) as relay:
            await Wire(relay, Sink()).send()
            account = await relay.wait(Deadline.after(BOUND_S))
        assert account.end == WireEnd.REFUSED
        assert "No such file" in account.notes[0]

    play(story)


def test_closing_before_anybody_came(tmp_path: Path) -> None:
    async def story() -> None:
        async with wired(tmp_path) as line:
            with pytest.raises(DeadlineError, match="waiting"):
                await line.relay.wait(Deadline.after(0))
        assert line.relay.account().end == WireEnd.ABORTED
        await line.relay.aclose()

    play(story)


@pytest.mark.parametrize("stop_at_bytes", [0, 1, 100_000, 3 << 20])
def test_closing_at_any_moment_closes_both_sides(tmp_path: Path, stop_at_bytes: int) -> None:
    async def story() -> None:
        async with wired(tmp_path) as line:
            reader, writer = await asyncio.open_unix_connection(tmp_path / "relay")
            writer.write(STREAM[:stop_at_bytes])
            await writer.drain()
            if stop_at_bytes:
                while len(line.sink.received) < stop_at_bytes:  # noqa: ASYNC110 - the sink is a plain counter
                    await asyncio.sleep(0.001)
            await line.relay.aclose()
            # A connection that was never accepted ends with a reset.
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            if stop_at_bytes:
                await line.sink.ended.wait()
        assert line.relay.account().end == WireEnd.ABORTED

    play(story)


def test_truncate_closes_orderly(tmp_path: Path) -> None:
    async def story() -> None:
        async with wired(tmp_path, WireFault(name=Name.TRUNCATE)) as line:
            await line.send()
            account = await line.account()
        assert account.end == WireEnd.FAULT
        assert account.faults[0].times == 1
        assert STREAM.startswith(line.sink.received)
        assert 0 < len(line.sink.received) < len(STREAM)
        assert line.sink.error == ""

    play(story)


def test_cut_resets_tcp_on_both_sides(tmp_path: Path) -> None:
    async def story() -> None:
        async with wired(tmp_path, WireFault(name=Name.CUT), tcp=True) as line:
            answer = await line.send()
            account = await line.account()
            await line.sink.ended.wait()
        assert account.end == WireEnd.FAULT
        assert answer in {b"ConnectionResetError", b"BrokenPipeError"}
        assert line.sink.error == "ConnectionResetError"

    play(story)


def test_stall_lasts_until_the_relay_is_closed(tmp_path: Path) -> None:
    async def story() -> None:
        async with wired(tmp_path, WireFault(name=Name.STALL, at_fraction=0.1)) as line:
            source = asyncio.create_task(line.send())
            with pytest.raises(DeadlineError, match="open"):
                await line.relay.wait(Deadline.after(0.3))
            assert not source.done()
            assert not line.sink.ended.is_set()
            await line.relay.aclose()
            await source
        account = line.relay.account()
        assert account.end == WireEnd.FAULT
        assert account.faults[0].times == 1

    play(story)


def test_slow_takes_at_least_its_time(tmp_path: Path) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        rate = 4 * len(STREAM)
        async with wired(tmp_path, WireFault(name=Name.SLOW, bytes_per_s=rate)) as line:
            start = loop.time()
            assert await line.send() == SHUT
            assert loop.time() - start >= len(STREAM) / rate
            account = await line.account()
        assert bytes(line.sink.received) == STREAM
        assert [fault.name for fault in account.faults] == [Name.SLOW]

    play(story)


def test_device_sections_without_description_are_let_go(tmp_path: Path) -> None:
    """A source that waits for the verdict before it closes must not wait for a description that never comes."""

    async def story() -> None:
        head = bytes([SectionType.FULL]) + struct.pack(">I", 7) + b"\3toy" + struct.pack(">II", 0, 1) + b"1234"
        data = STREAM[:-1] + head + encode(SectionFooter(section_id=7)) + b"\0"
        async with wired(tmp_path, WireFault(name=Name.CORRUPT_DEVICE)) as line:
            reader, writer = await asyncio.open_unix_connection(tmp_path / "relay")
            writer.write(data)
            await writer.drain()
            while len(line.sink.received) < len(data):  # noqa: ASYNC110 - the sink is a plain counter
                await asyncio.sleep(0.01)
            writer.write_eof()
            assert await reader.read() == SHUT
            writer.close()
            account = await line.account()
        assert bytes(line.sink.received) == data
        assert account.faults[0].times == 0

    play(story)


def test_two_relays_cannot_listen_on_one_path(tmp_path: Path) -> None:
    async def story() -> None:
        async with wired(tmp_path):
            with pytest.raises(SetupError, match="cannot listen"):
                async with Relay(Endpoint.unix(tmp_path / "relay"), Endpoint.unix(tmp_path / "dst")):
                    pass

    play(story)


def test_endpoints_read_and_write_migration_uris() -> None:
    assert Endpoint.parse("unix:/run/x").uri == "unix:/run/x"
    assert Endpoint.parse("tcp:127.0.0.1:0").uri == "tcp:127.0.0.1:0"
    assert Endpoint.parse("tcp:[::1]:4444").uri == "tcp:[::1]:4444"
    for bad in ("", "unix:", "tcp:host", "tcp:host:99999", "exec:cat"):
        with pytest.raises(UsageError):
            Endpoint.parse(bad)
