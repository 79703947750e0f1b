"""Carries what a socket has received to another one inside the kernel, so that it is copied once less.

A relay that only reads need not give back what it read: it looks at what has come (MSG_PEEK), and a pipe takes the same
pages from one socket to the other (splice(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket

PIPE_BYTES = 1 << 20
"""Asked for, because a pipe holds a sixteenth of it unless it is asked; /proc/sys/fs/pipe-max-size limits it."""

_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM})
"""A kernel, or a sandbox, in which splice(2) does not work between these two; then the bytes are copied."""


class Conduit:
    """A pipe between two connected stream sockets."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def carry(self, source: socket.socket, sink: socket.socket, count: int) -> None:
        """Take *count* bytes, which *source* has received, to *sink*; blocks as sendall() does.

        Raises OSError when the sink does not take them, as sendall() does.
        """
        while count:
            taken = self._take(source, sink, count)
            if not taken:
                raise ConnectionResetError("what had come was gone again")
            count -= taken

    def _take(self, source: socket.socket, sink: socket.socket, count: int) -> int:
        """Take as much as the pipe holds, or fewer; how much it was."""
        try:
            taken = os.splice(source.fileno(), self._in, count)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            data = source.recv(count)
            sink.sendall(data)
            return len(data)
        left = taken
        while left:
            left -= self._give(sink, left)
        return taken

    def _give(self, sink: socket.socket, count: int) -> int:
        try:
            return os.splice(self._out, sink.fileno(), count)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            data = os.read(self._out, count)
            sink.sendall(data)
            return len(data)

    def close(self) -> None:
        """Give the pipe back; what it holds is lost."""
        os.close(self._in)
        os.close(self._out)
