"""Loads a captured stream into a destination, without a source: the file is fed into the socket that it listens on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from harness.migration.driver import listen, prepare, side_of
from harness.migration.relay.endpoint import Endpoint
from harness.migration.settings import MigrationSettings
from harness.migration.stream.format import ReturnType
from harness.migration.stream.return_path import ReturnPathParser
from harness.migration.watch import Watch
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, SetupError, StreamError, UsageError
from harness.model.evidence import MigrationEnd, SideEnd
from harness.vm.vm import Vm

_STEP_BYTES = 1 << 20
"""Handed to the kernel at once; progress is known to this."""
_CONNECT_S = 10.0
_STALL_S = 2.0
"""A destination that took no byte for so long hangs; before that it is slow."""
_LAST_WORDS_S = 2.0
"""How long a destination that has loaded all may take to close its return path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of one attempt."""

    end: MigrationEnd
    """The source's side is the file: it always says ``completed``."""
    fed_bytes: int
    """What the destination took; less than the file when it gave up."""
    too_slow: str = ""
    """Why it was given up while it still took bytes; empty otherwise."""


@dataclass(slots=True)
class _Feed:
    """How far the file has gone, and what came back."""

    sent_bytes: int = 0
    moved_s: float = field(default_factory=time.monotonic)
    shut_code: int | None = None
    trouble: str = ""
    """Why the file could not be read to its end."""


async def load_file(
    destination: Vm, stream: Path, socket_path: Path, *, capabilities: Mapping[str, bool], deadline: Deadline
) -> Loaded:
    """Feed *stream* to *destination*, which was started incoming, and wait until it has loaded it or given up.

    A stream that it refuses is no exception but a ``Loaded`` whose end says so, as is a destination that dies.

    Raises UsageError when the file cannot be opened, SetupError when it cannot be read to its end, and UnsupportedError
    when the binary lacks one of *capabilities*.
    """
    await prepare(destination, MigrationSettings(hold_passes=1, capabilities=capabilities), deadline=deadline)
    uri = await listen(destination, f"unix:{socket_path}", deadline=deadline)
    feed = _Feed()
    stalled_s, is_late = 0.0, False
    with _opened(stream) as file, Endpoint.parse(uri).connect(_CONNECT_S) as connection:
        connection.setblocking(False)
        async with Watch(destination) as sink, asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(_send(connection, file, feed))
            listening = tasks.create_task(_hear(connection, feed))
            try:
                await sink.until(lambda watch: watch.is_over, deadline=deadline, what="end of loading")
                if sink.status == "completed":
                    await asyncio.wait({listening}, timeout=_LAST_WORDS_S)
            except DeadlineError:
                idle_s = time.monotonic() - feed.moved_s
                stalled_s, is_late = (idle_s if idle_s >= _STALL_S else 0.0), True
            finally:
                feeding.cancel()
                listening.cancel()
            end = MigrationEnd(
                source=SideEnd(role=stream.name, status="completed", run_state="postmigrate"),
                destination=await side_of(sink, is_destination=True),
                return_path=feed.shut_code is not None,
                shut_code=feed.shut_code,
                stalled_s=stalled_s,
            )
    if feed.trouble:
        raise SetupError(f"cannot read {stream} to its end: {feed.trouble}", hint="copy the file to a sound disk")
    slow = f"{destination.role} took {feed.sent_bytes} bytes before the deadline and was still taking more"
    return Loaded(end=end, fed_bytes=feed.sent_bytes, too_slow=slow if is_late and not stalled_s else "")


def _opened(stream: Path) -> BinaryIO:
    try:
        return stream.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {stream}: {error.strerror}", hint="give a captured stream.bin") from None


async def _send(connection: socket.socket, file: BinaryIO, feed: _Feed) -> None:
    """Send the whole file, then say that there is no more. A destination that went away is told by its own end."""
    loop = asyncio.get_running_loop()
    try:
        while count := await loop.sock_sendfile(connection, file, feed.sent_bytes, _STEP_BYTES):
            feed.sent_bytes += count
            feed.moved_s = time.monotonic()
    except ConnectionError:
        return
    except OSError as error:
        feed.trouble = error.strerror or str(error)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)


async def _hear(connection: socket.socket, feed: _Feed) -> None:
    """Read the return path to its end, for its SHUT; whether anything is on it is up to the stream."""
    loop = asyncio.get_running_loop()
    parser = ReturnPathParser()
    with contextlib.suppress(OSError, StreamError):
        while data := await loop.sock_recv(connection, 1 << 16):
            for message in parser.feed(data):
                if message.type == ReturnType.SHUT:
                    feed.shut_code = message.value
