"""What the relay asks of connected sockets beside send and receive."""

from __future__ import annotations

import contextlib
import select
import socket
import struct

BUFFER_BYTES = 4 << 20
"""Asked for; the kernel gives what net.core.wmem_max and rmem_max allow. Much at a time means few changes between the
threads that send, pass on and receive."""


def tune(connection: socket.socket) -> None:
    """Large buffers; tcp must not delay the return path's small messages."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def shutdown(connection: socket.socket | None, how: int) -> None:
    """As socket.shutdown(), of one that may be gone."""
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(how)


def reset_on_close(connection: socket.socket | None) -> None:
    """Have the peer of a tcp connection see a reset instead of its end."""
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wait_for_more(connection: socket.socket, pause_ms: int) -> None:
    """Whoever receives waits no longer than *pause_ms*: for all with MSG_WAITALL, else for anything."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, pause_ms * 1000))


def is_readable(*connections: socket.socket, timeout_ms: int | None = None) -> bool:
    """Whether one of them has something to read, or has ended, within *timeout_ms* (None: wait for it)."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return bool(poll.poll(timeout_ms))
