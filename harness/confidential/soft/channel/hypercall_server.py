"""The host's end of one guest's hypercall channel: a thread that answers, one request at a time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from harness.confidential.soft.channel.hypercalls import HypercallReply, HypercallRequest, RequestReader

Handler = Callable[[HypercallRequest], HypercallReply]
_JOIN_S = 10.0
"""A handler takes microseconds; who waits this long has one that hangs."""


class HypercallServer:
    """Answers the requests that come in on a socket with what *handler* says.

    A repeat of the last request (same boot, same number) gets the same reply again and is not handled again, so that a
    guest may ask once more for what was lost. :meth:`stop` shuts the socket down; to close it is the caller's business.
    """

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        self._sock = sock
        self._handler = handler
        self._reader = RequestReader()
        self._last: tuple[int, int] | None = None
        self._reply = b""
        self._thread = threading.Thread(target=self._serve, name="hypercalls", daemon=True)
        self.error: BaseException | None = None
        """What the handler stumbled over; nothing is answered any more from then on."""

    @property
    def garbage_bytes(self) -> int:
        """Bytes that belonged to no valid request."""
        return self._reader.garbage_bytes

    def start(self) -> None:
        """Begin to answer."""
        self._sock.setblocking(True)
        self._thread.start()

    def stop(self) -> None:
        """Answer nothing more; the request that is being handled is finished first. Any number of times."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end by itself: its guest has hung up, or its handler has stumbled."""
        self._thread.join(timeout_s)

    def _serve(self) -> None:
        try:
            while self._take():
                pass
        except Exception as error:  # noqa: BLE001 - a thread has nobody to tell it to; its owner looks here
            self.error = error

    def _take(self) -> bool:
        """Answer what has come in; False when the guest's QEMU has hung up."""
        try:
            # QEMU's UART sends byte by byte: what is missing of a request is waited for in the kernel, not here.
            data = self._sock.recv(self._reader.missing_bytes, socket.MSG_WAITALL)
        except OSError:
            return False
        for request in self._reader.feed(data):
            self._answer(request)
        return bool(data)

    def _answer(self, request: HypercallRequest) -> None:
        key = (request.boot_id, request.seq)
        if key != self._last:
            self._reply = self._handler(request).encode(request.seq)
            self._last = key
        # Where the reply does not fit, the guest has not listened for thousands of them. It asks again.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._sock.send(self._reply, socket.MSG_DONTWAIT)
