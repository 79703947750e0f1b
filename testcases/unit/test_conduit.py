"""Bytes reach the other socket as they came: by splice(2), and where that does not work, by copying."""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.migration.relay.conduit import PIPE_BYTES, Conduit

DATA = random.Random(1).randbytes(3 * PIPE_BYTES + 4321)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


PAIRS = {"unix": socket.socketpair, "tcp": tcp_pair}


@contextmanager
def in_between(kind: str) -> Iterator[tuple[socket.socket, socket.socket, socket.socket, socket.socket]]:
    """What the source sends into, the relay's two sides, and what the destination reads."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(end) for _ in range(2) for end in PAIRS[kind]())  # type: ignore[misc]


def carried(kind: str) -> bytes:
    """DATA, as it comes out."""
    got = bytearray()
    with in_between(kind) as (sender, source, sink, reader):

        def send() -> None:
            sender.sendall(DATA)
            sender.shutdown(socket.SHUT_WR)

        def read() -> None:
            while data := reader.recv(1 << 20):
                got.extend(data)

        threads = [threading.Thread(target=body) for body in (send, read)]
        for thread in threads:
            thread.start()
        conduit = Conduit()
        while count := len(source.recv(1 << 20, socket.MSG_PEEK)):
            conduit.carry(source, sink, count)
        conduit.close()
        sink.shutdown(socket.SHUT_WR)
        for thread in threads:
            thread.join()
    return bytes(got)


@pytest.mark.parametrize("kind", PAIRS)
def test_what_comes_is_what_goes(kind: str) -> None:
    assert carried(kind) == DATA


@pytest.mark.parametrize("refused", ["source", "sink", "both"])
def test_where_the_kernel_cannot_it_is_copied(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    splice, calls = os.splice, {"source": 0, "sink": 0}

    def refuse(src: int, dst: int, count: int) -> int:
        side = "source" if stat.S_ISSOCK(os.fstat(src).st_mode) else "sink"
        calls[side] += 1
        if refused in {side, "both"}:
            raise OSError(errno.EINVAL, "Invalid argument")
        return splice(src, dst, count)

    monkeypatch.setattr(os, "splice", refuse)
    assert carried("unix") == DATA
    assert calls["source"] > 0
    assert (calls["sink"] > 0) == (refused == "sink")


def test_a_sink_that_is_gone_is_an_error_as_it_is_when_one_sends() -> None:
    with in_between("unix") as (sender, source, sink, reader):
        sender.sendall(b"x" * 4096)
        reader.close()
        conduit = Conduit()
        with pytest.raises(BrokenPipeError):
            conduit.carry(source, sink, 4096)
        conduit.close()


def test_a_source_that_has_less_than_was_said_is_an_error() -> None:
    with in_between("unix") as (sender, source, sink, _):
        sender.sendall(b"x" * 10)
        sender.shutdown(socket.SHUT_WR)
        conduit = Conduit()
        with pytest.raises(ConnectionResetError):
            conduit.carry(source, sink, 11)
        conduit.close()
