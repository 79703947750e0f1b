"""The console is drained whoever reads it, and its lines are found late or early."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, LostError
from harness.vm.artefact import ArtefactFile
from harness.vm.console import Console


def play(folder: Path, story: Callable[[Console, socket.socket], Awaitable[None]]) -> bytes:
    async def run() -> None:
        ours, guest = socket.socketpair()
        with guest, ArtefactFile(folder / "console.log") as log:
            console = Console(log)
            await console.attach(ours)
            await story(console, guest)
            guest.close()
            await console.close(soon())

    asyncio.run(run())
    return (folder / "console.log").read_bytes()


def soon() -> Deadline:
    return Deadline.after(5.0)


async def send(guest: socket.socket, data: bytes) -> None:
    guest.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(guest, data)


def test_lines_are_found_before_and_after_they_come(tmp_path: Path) -> None:
    async def story(console: Console, guest: socket.socket) -> None:
        waiter = asyncio.create_task(console.wait_line(lambda line: "ready" in line, deadline=soon()))
        await send(guest, b"boot\r\nrea")
        await send(guest, b"dy 1\r\nlast")
        assert await waiter == "ready 1"
        assert await console.wait_line(lambda line: line == "boot", deadline=soon()) == "boot"
        assert console.last_line == "ready 1"

    assert play(tmp_path, story) == b"boot\r\nready 1\r\nlast"


def test_a_flood_is_drained_though_nobody_waits(tmp_path: Path) -> None:
    flood = b"x" * 100 + b"\n"

    async def story(console: Console, guest: socket.socket) -> None:
        await send(guest, flood * 20_000 + b"end\n")
        await console.wait_line(lambda line: line == "end", deadline=soon())
        assert len(console.lines) == 1000
        assert console.count == 20_001

    assert len(play(tmp_path, story)) == len(flood) * 20_000 + 4


def test_an_endless_line_is_cut(tmp_path: Path) -> None:
    async def story(console: Console, guest: socket.socket) -> None:
        await send(guest, b"y" * 1_000_000)
        await console.wait_line(lambda line: len(line) > 1000, deadline=soon())

    play(tmp_path, story)


def test_a_line_that_does_not_come_is_told_with_the_last_one(tmp_path: Path) -> None:
    async def story(console: Console, guest: socket.socket) -> None:
        await send(guest, b"panic: vector 14\n")
        await console.wait_line(lambda line: "panic" in line, deadline=soon())
        with pytest.raises(DeadlineError, match="panic: vector 14"):
            await console.wait_line(lambda line: "ready" in line, deadline=Deadline.after(0.02))
        guest.close()
        with pytest.raises(LostError, match="panic: vector 14"):
            await console.wait_line(lambda line: "ready" in line, deadline=soon())

    play(tmp_path, story)
