"""The QMP session against a server of our own: latched events, typed errors, losses and deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, LostError, ProtocolError
from harness.vm.qmp import QmpError, QmpSession, ignore_hang_ups
from harness.vm.transcript import Transcript

GREETING = {
    "QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "test"}, "capabilities": ["oob"]}
}


class Server:
    """Answers every command with what *answers* says; hangs up or stays silent on demand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.seen: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {"query-status": {"return": {"status": "running"}}}

    def send(self, message: dict[str, Any]) -> None:
        self.writer.write(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: Any) -> None:
        self.send({"event": name, "data": data, "timestamp": {"seconds": 10, "microseconds": 500_000}})

    async def serve(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._serve()

    async def _serve(self) -> None:
        text = ""
        while data := await self.reader.read(1 << 16):
            text += data.decode()
            while text.strip():
                try:
                    message, end = json.JSONDecoder().raw_decode(text := text.lstrip())
                except json.JSONDecodeError:
                    break
                text = text[end:]
                if not self.reply(message):
                    self.writer.close()
                    return
        self.writer.close()

    def reply(self, message: dict[str, Any]) -> bool:
        self.seen.append(message)
        command = str(message.get("execute") or message.get("exec-oob"))
        if command not in {"silence", "hang-up"}:
            name = {"id": message["id"]} if "id" in message else {}
            self.send({**name, **self.answers.get(command, {"return": {}})})
        return command != "hang-up"


@asynccontextmanager
async def session(transcript: Transcript | None = None) -> AsyncIterator[tuple[QmpSession, Server]]:
    ours, theirs = socket.socketpair()
    server = Server(*await asyncio.open_connection(sock=theirs))
    server.send(GREETING)
    task = asyncio.create_task(server.serve())
    qmp = QmpSession("src", transcript)
    try:
        await qmp.connect(ours, deadline=soon())
        yield qmp, server
    finally:
        await qmp.disconnect()
        await task


def soon() -> Deadline:
    return Deadline.after(5.0)


def play(story: Callable[[QmpSession, Server], Awaitable[None]]) -> None:
    async def run() -> None:
        async with session() as (qmp, server):
            await story(qmp, server)

    asyncio.run(run())


def test_a_command_carries_its_arguments_with_hyphens() -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.answers["migrate-set-parameters"] = {"return": {"ok": True}}
        reply = await qmp.execute("migrate-set-parameters", {"a-b": 1}, max_bandwidth=2, deadline=soon())
        assert reply == {"ok": True}
        assert server.seen[-1]["arguments"] == {"a-b": 1, "max-bandwidth": 2}
        await qmp.execute("migrate-recover", oob=True, deadline=soon())
        assert "exec-oob" in server.seen[-1]
        assert qmp.version == "7.2.22"

    play(story)


def test_a_refusal_carries_class_and_words() -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.answers["quit"] = {"error": {"class": "CommandNotFound", "desc": "no such thing"}}
        with pytest.raises(QmpError, match="quit: no such thing") as caught:
            await qmp.execute("quit", deadline=soon())
        assert (caught.value.error_class, caught.value.description) == ("CommandNotFound", "no such thing")

    play(story)


def test_an_event_that_came_before_the_wait_is_not_missed() -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.event("MIGRATION", status="setup")
        server.event("MIGRATION", status="active")
        await qmp.execute("query-status", deadline=soon())
        assert [event.data["status"] for event in qmp.events] == ["setup", "active"]
        event = await qmp.wait_event("MIGRATION", where=lambda data: data["status"] == "active", deadline=soon())
        assert event.sent_s == 10.5
        assert (await qmp.wait_event({"STOP", "MIGRATION"}, deadline=soon())).data["status"] == "setup"
        latest = qmp.latest("MIGRATION")
        assert latest is not None
        assert latest.data["status"] == "active"

    play(story)


def test_a_cursor_leaves_old_events_out() -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.event("STOP")
        await qmp.execute("query-status", deadline=soon())
        waiter = asyncio.create_task(qmp.wait_event("STOP", since=qmp.cursor, deadline=soon()))
        server.event("STOP", number=2)
        assert (await waiter).data == {"number": 2}

    play(story)


def test_every_waiter_sees_the_same_event() -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        waiters = [asyncio.create_task(qmp.wait_event("STOP", deadline=soon())) for _ in range(5)]
        await asyncio.sleep(0)
        server.event("STOP")
        assert len({id(event) for event in await asyncio.gather(*waiters)}) == 1

    play(story)


def test_a_hang_up_fails_commands_and_waiters_at_once() -> None:
    async def story(qmp: QmpSession, _: Server) -> None:
        waiter = asyncio.create_task(qmp.wait_event("STOP", deadline=Deadline.after(60)))
        with pytest.raises(LostError, match="during hang-up"):
            await qmp.execute("hang-up", deadline=Deadline.after(60))
        with pytest.raises(LostError, match="waiting for STOP"):
            await waiter
        with pytest.raises(LostError):
            await qmp.execute("query-status", deadline=soon())
        assert not qmp.is_connected

    play(story)


def test_a_hang_up_in_the_midst_of_a_message_is_a_hang_up() -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.writer.write(b'{"return": {"status": "run')
        server.writer.close()
        with pytest.raises(LostError, match="connection lost while waiting"):
            await qmp.wait_event("STOP", deadline=Deadline.after(60))
        with pytest.raises(LostError, match="connection lost during query-status"):
            await qmp.execute("query-status", deadline=Deadline.after(60))

    play(story)


def test_an_event_before_the_hang_up_still_counts() -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.event("SHUTDOWN", guest=True)
        with pytest.raises(LostError):
            await qmp.execute("hang-up", deadline=soon())
        assert (await qmp.wait_event("SHUTDOWN", deadline=soon())).data == {"guest": True}

    play(story)


def test_silence_ends_at_the_deadline_and_the_session_goes_on() -> None:
    async def story(qmp: QmpSession, _: Server) -> None:
        with pytest.raises(DeadlineError, match="no reply to silence"):
            await qmp.execute("silence", deadline=Deadline.after(0.02))
        with pytest.raises(DeadlineError, match="no STOP event"):
            await qmp.wait_event("STOP", deadline=Deadline.after(0.02))
        await qmp.execute("query-status", deadline=soon())

    play(story)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (b"", LostError),
        (b"SSH-2.0-OpenSSH\r\n", ProtocolError),
        (b'{"hello": 1}\r\n', ProtocolError),
        (b"[]\n", ProtocolError),
    ],
)
def test_what_is_no_greeting_is_told_apart(words: bytes, kind: type[HarnessError]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(words)
            theirs.shutdown(socket.SHUT_WR)
            qmp = QmpSession("src")
            with pytest.raises(kind):
                await qmp.connect(ours, deadline=soon())
            await qmp.disconnect()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (b"Segmentation fault\r\n", r"Failed to deserialize QMP message. b'Segmentation fault"),
        (b"\xff\xff\r\n", "codec can't decode"),
        (b"[]\r\n", "not a JSON object"),
        (b"null\r\n", "not a JSON object"),
        (b'{"return": {}, "id": [1]}\r\n', "unhashable"),
        (b'{"error": {"class": "GenericError", "desc": "?"}}\r\n', "without an ID"),
        (b"[" * 100_000 + b"\r\n", "maximum recursion depth"),
        (b'{"event": "' + b"x" * (11 << 20), "exceed the limit"),
    ],
    ids=["text", "binary", "list", "null", "odd id", "no id", "deep", "long"],
)
def test_what_is_no_qmp_is_told_at_once_and_does_not_hinder_the_end(words: bytes, said: str) -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        waiter = asyncio.create_task(qmp.wait_event("STOP", deadline=Deadline.after(60)))
        server.writer.write(words)
        for _ in range(2):
            with pytest.raises(ProtocolError, match=f"no QMP during query-status: .*{said}"):
                await qmp.execute("query-status", deadline=Deadline.after(60))
        with pytest.raises(ProtocolError, match="no QMP while waiting for STOP"):
            await waiter

    play(story)


@pytest.mark.parametrize("stamp", ["now", None, [], {"seconds": "10"}, {"seconds": 10, "microseconds": None}])
@pytest.mark.parametrize("data", [None, [], "x"])
def test_an_event_with_odd_members_is_an_event(stamp: Any, data: Any) -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.send({"event": "STOP", "timestamp": stamp, "data": data})
        event = await qmp.wait_event("STOP", deadline=soon())
        assert event.data == {}
        assert event.sent_s in {0.0, 10.0}

    play(story)


@pytest.mark.parametrize(
    ("command", "reply", "said"),
    [
        ("query-status", None, "query-status is not as QEMU says it: it should be an object"),
        ("query-status", {}, "query-status.status is not as QEMU says it: it is missing"),
        ("query-migrate", [], "query-migrate is not .* object"),
        ("query-migrate", {"status": 5}, r"query-migrate\.status is not .* valid string"),
        ("query-migrate", {"ram": None}, r"query-migrate\.ram is not .* object"),
        ("query-migrate", {"ram": {"dirty-sync-count": "2"}}, r"ram\.dirty-sync-count is not .* valid integer"),
        ("query-migrate", {"socket-address": [7]}, r"socket-address\.0 is not"),
        ("query-migrate-parameters", "x", "query-migrate-parameters is not"),
        ("human-monitor-command", {}, "human-monitor-command is not .* valid string"),
        ("x-query-interrupt-controllers", {}, r"human-readable-text is not .* missing"),
    ],
)
def test_a_reply_that_no_qemu_gives_is_told_in_one_line(command: str, reply: Any, said: str) -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.answers[command] = {"return": reply}
        with pytest.raises(ProtocolError, match=f"^src: .*{said}") as odd:
            await qmp.execute(command, deadline=soon())
        assert "\n" not in str(odd.value)
        assert odd.value.hint == "see src.qmp.jsonl for the whole reply"
        assert qmp.is_connected

    play(story)


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"status": "setup"},
        {"status": "active", "ram": {"remaining": 1, "mbps": 3, "postcopy-requests": 0}, "vfio": {"transferred": 1}},
        {"status": "failed", "error-desc": "no", "socket-address": [{"type": "unix", "path": "/x"}]},
    ],
)
def test_members_may_be_missing_and_there_may_be_more(reply: Any) -> None:
    async def story(qmp: QmpSession, server: Server) -> None:
        server.answers["query-migrate"] = {"return": reply}
        assert await qmp.execute("query-migrate", deadline=soon()) == reply

    play(story)


def test_no_greeting_at_all_ends_at_the_deadline() -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            qmp = QmpSession("src")
            with pytest.raises(DeadlineError, match="no QMP greeting"):
                await qmp.connect(ours, deadline=Deadline.after(0.02))
            await qmp.disconnect()

    asyncio.run(run())


def test_the_transcript_has_both_directions(tmp_path: Path) -> None:
    async def run() -> None:
        async with session(Transcript(tmp_path / "qmp.jsonl")) as (qmp, server):
            server.event("RESUME")
            await qmp.execute("object-add", qom_type="secret", id="s", data="hunter2", deadline=soon())

    asyncio.run(run())
    text = (tmp_path / "qmp.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "hunter2" not in text
    assert {"QMP", "event", "execute"} <= {name for line in lines for name in line["msg"]}


@pytest.mark.parametrize(("error", "told"), [(EOFError(), False), (ValueError("ours"), True)])
def test_only_the_end_of_a_connection_may_go_unseen(
    caplog: pytest.LogCaptureFixture, error: Exception, told: bool
) -> None:
    async def drop_one() -> None:
        ignore_hang_ups()
        asyncio.get_running_loop().create_future().set_exception(error)
        gc.collect()

    asyncio.run(drop_one())
    assert ("never retrieved" in caplog.text) is told
