"""The relay's threads: one carries the stream to the destination, one the return path to the source.

Threads with blocking sockets, because the stream is gigabytes of a few large reads; asyncio would add a copy and a
wake-up to each. Whatever happens, both connections are closed at the end, so neither QEMU waits for the other.
"""

from __future__ import annotations

import contextlib
import mmap
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from harness.migration.relay.books import Books
from harness.migration.relay.conduit import Conduit
from harness.migration.relay.editor import Editor, EditorRefusedError
from harness.migration.relay.endpoint import Endpoint
from harness.migration.relay.lend import lend
from harness.migration.relay.recorder import Recorder
from harness.migration.relay.sockets import is_readable, reset_on_close, shutdown, tune, wait_for_more
from harness.migration.relay.way_back import carry_back
from harness.migration.stream.elements import Element
from harness.migration.stream.parser import StreamParser
from harness.model.errors import StreamError
from harness.model.wire import AppliedFault, WireEnd
from harness.model.wire import WireFaultName as Name

COUNT_BYTES = 8 << 20
"""Counted at once: a count takes a third of a millisecond and more, because copying has emptied the caches of all that
it needs."""
CHUNK_BYTES = 4 << 20
"""Edited at once: an edit has a price per call, and touches a page once or not at all, so no cache need hold it all."""
GATHER_MS = 1
"""How long more is waited for before what has come is edited."""
LEAST_RECEIVE_BYTES = 256 << 10
KEEP_BYTES = 64 << 10
"""A record without its end waits in the buffer for more, if it is no longer; else in the parser."""
PAUSE_MS = 10
CONNECT_TIMEOUT_S = 10.0
HOLD_MS = 1000
"""How long device sections are held back when nothing more comes: a stream without description must not stall."""
PACE_BYTES = 64 << 10

_TURN = threading.Lock()
"""Of all relays in this process that edit: who works holds it, who sends or waits does not.

An editor seals or opens page by page, and the binding gives the interpreter away for each. Another that works at the
same time would take it, and hand it back, page by page: each time a thread has to be woken, which takes longer than the
page, and on a busy machine (or a kernel without preemption, until its next tick) a thousand times as long.
"""


class Pump:
    """Serves one connection. :meth:`run` is the thread's body; :meth:`abort` may be called from any thread."""

    def __init__(
        self,
        listener: socket.socket,
        destination: Endpoint,
        *,
        books: Books,
        recorder: Recorder,
        editor: Editor | None,
        bytes_per_s: int | None,
        parser: StreamParser | None = None,
    ) -> None:
        self._listener = listener
        self._destination = destination
        self._books = books
        self._recorder = recorder
        self._editor = editor
        self._bytes_per_s = bytes_per_s
        self._parser: StreamParser | None = parser or StreamParser()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._wake_r, self._wake_w = socket.socketpair()
        self._source: socket.socket | None = None
        self._sink: socket.socket | None = None
        self._is_cut = False

    def run(self) -> None:
        """Accept, connect, forward until either side ends; then close everything."""
        returner: Future[None] | None = None
        try:
            if self._open():
                returner = lend(self._carry_back, name="cvmig-relay-return")
                self._forward()
        except OSError as error:
            self._books.note(f"the connection broke: {error.strerror or error}")
            self._books.finish(WireEnd.CUT)
        except EditorRefusedError as error:
            self._books.note(str(error))
            self._books.finish(WireEnd.ABORTED)
        except StreamError as error:
            self._books.error = error
            self._books.note(f"faults need a stream that is understood, so the relay closed: {error}")
            self._books.finish(WireEnd.ABORTED)
        finally:
            self._end(returner)

    def abort(self) -> None:
        """Close both sides at once. The threads end soon after."""
        with self._lock:
            self._stop.set()
            with contextlib.suppress(OSError):
                self._wake_w.send(b"x")
            for connection in (self._source, self._sink):
                shutdown(connection, socket.SHUT_RDWR)

    def _open(self) -> bool:
        is_readable(self._listener, self._wake_r)
        if self._stop.is_set():
            self._books.finish(WireEnd.ABORTED)
            return False
        source, _ = self._listener.accept()
        self._listener.close()
        tune(source)
        with self._lock:
            self._source = source
        return self._connect()

    def _connect(self) -> bool:
        try:
            sink = self._destination.connect(CONNECT_TIMEOUT_S)
        except OSError as error:
            self._books.note(f"destination {self._destination.uri}: {error.strerror or error}")
            self._books.finish(WireEnd.REFUSED)
            return False
        with self._lock:
            self._sink = sink
        self._books.end = WireEnd.OPEN
        if self._stop.is_set():
            self._books.finish(WireEnd.ABORTED)
        return not self._stop.is_set()

    def _carry_back(self) -> None:
        assert self._source is not None
        assert self._sink is not None
        carry_back(self._sink, self._source, self._books)

    def _forward(self) -> None:
        assert self._source is not None
        buffer = _buffer(CHUNK_BYTES if self._editor else COUNT_BYTES)
        if self._editor is None:
            self._forward_as_it_is(self._source, buffer)
        elif (strike := self._forward_edited(self._source, buffer, self._editor)) is not None:
            self._strike(strike)
            return
        self._close_stream()

    def _forward_as_it_is(self, source: socket.socket, buffer: memoryview) -> None:
        """Send each piece at once; count pages when a whole buffer went by, or when the source pauses.

        Pieces are small (a unix socket gives 200 KiB), and the counting has a price per call.
        """
        assert self._sink is not None
        wait_for_more(source, PAUSE_MS)
        kept = filled = 0
        is_paced = self._bytes_per_s is not None
        conduit = Conduit()
        try:
            while True:
                if len(buffer) - filled < LEAST_RECEIVE_BYTES:
                    kept = filled = self._account(buffer, filled)
                try:
                    count = source.recv_into(buffer[filled:], 0, 0 if is_paced else socket.MSG_PEEK)
                except BlockingIOError:
                    if filled > kept:
                        kept = filled = self._account(buffer, filled)
                    is_readable(source)
                    continue
                if not count:
                    return
                piece = buffer[filled : filled + count]
                if is_paced:
                    self._send(piece)
                else:
                    conduit.carry(source, self._sink, count)
                    self._sent(piece)
                filled += count
        finally:
            conduit.close()
            # What was sent is counted, also when the connection breaks.
            kept = self._account(buffer, filled)
            if self._parser is not None:
                self._parser.feed(buffer[:kept])

    def _forward_edited(self, source: socket.socket, buffer: memoryview, editor: Editor) -> Name | None:
        """What has no end yet goes to the front of *buffer*, and what comes next joins it there."""
        assert self._parser is not None
        wait_for_more(source, GATHER_MS)
        kept = 0
        while count := self._receive(source, buffer[kept:]):
            filled = kept + count
            with _TURN:
                elements, used = self._parse(buffer[:filled])
            strike = self._edit(editor, elements)
            if strike is not None:
                return strike
            kept = _keep(buffer, used, filled)
        self._parser.feed(buffer[:kept])
        return None

    def _receive(self, source: socket.socket, buffer: memoryview) -> int:
        """All that fits and comes without a pause: each call of parser and editor has a price.

        A socket gives small pieces, and behind each call the interpreter has to be waited for while another relay
        works in it: so the kernel gathers them.
        """
        if self._editor is not None and self._editor.is_holding and not is_readable(source, timeout_ms=HOLD_MS):
            self._send(self._editor.release())
        is_readable(source)
        return source.recv_into(buffer, 0, socket.MSG_WAITALL)

    def _account(self, buffer: memoryview, filled: int) -> int:
        """Parse for the books only: what cannot be parsed is forwarded all the same.

        How many bytes at the front of *buffer* are the beginning of what is still to come.
        """
        if self._parser is None:
            return 0
        try:
            _, used = self._parse(buffer[:filled])
        except StreamError as error:
            for element in self._parser.salvaged:
                self._books.element(element)
            self._parser = None
            self._books.note(f"not understood, and forwarded as it came: {error}")
            return 0
        self._see_end()
        return _keep(buffer, used, filled)

    def _parse(self, chunk: memoryview) -> tuple[list[Element], int]:
        """What is whole in *chunk*, and how many bytes of it are done with."""
        assert self._parser is not None
        elements, used = self._parser.cut(chunk)
        if len(chunk) - used > KEEP_BYTES:
            self._parser.feed(chunk[used:])
            used = len(chunk)
        for element in elements:
            self._books.element(element)
        return elements, used

    def _see_end(self) -> None:
        if self._parser is not None and self._parser.is_done:
            self._books.finish(WireEnd.COMPLETE)

    def _edit(self, editor: Editor, elements: Sequence[Element]) -> Name | None:
        for element in elements:
            with _TURN:
                edited = editor.edit(element)
            if edited.pause_s:
                self._stop.wait(edited.pause_s)
            for data in edited.buffers:
                self._send(data)
            if edited.strike is not None:
                return edited.strike
        self._see_end()
        return None

    def _send(self, data: bytes | memoryview) -> None:
        assert self._sink is not None
        step = len(data) if self._bytes_per_s is None else PACE_BYTES
        for start in range(0, len(data), step or 1):
            piece = data[start : start + step]
            self._sink.sendall(piece)
            self._sent(piece)
            if self._bytes_per_s is not None:
                self._stop.wait(len(piece) / self._bytes_per_s)

    def _sent(self, piece: bytes | memoryview) -> None:
        self._recorder.write(piece)
        self._books.bytes_forwarded += len(piece)

    def _close_stream(self) -> None:
        """The source has closed: orderly if its stream is whole."""
        if self._stop.is_set():
            self._books.finish(WireEnd.ABORTED)
        elif self._parser is None:
            self._books.finish(WireEnd.CLOSED)
        else:
            self._judge_end(self._parser)
        shutdown(self._sink, socket.SHUT_WR)

    def _judge_end(self, parser: StreamParser) -> None:
        try:
            self._edit_rest(parser.close())
        except StreamError as error:
            self._books.note(str(error))
            self._books.finish(WireEnd.CUT)
        self._books.finish(WireEnd.COMPLETE)

    def _edit_rest(self, elements: Sequence[Element]) -> None:
        if self._editor is not None:
            self._edit(self._editor, elements)

    def _strike(self, name: Name) -> None:
        self._books.note(f"{name} struck after {self._books.bytes_forwarded} bytes")
        match name:
            case Name.STALL:
                self._stop.wait()
            case Name.CUT:
                self._is_cut = True
                for connection in (self._source, self._sink):
                    reset_on_close(connection)
            case _:
                shutdown(self._sink, socket.SHUT_WR)
        self._books.finish(WireEnd.FAULT)

    def _end(self, returner: Future[None] | None) -> None:
        if self._editor is not None:
            self._books.applied = self._editor.applied()
        if self._bytes_per_s is not None:
            slow = AppliedFault(name=Name.SLOW, times=1, is_harmful=False, detail=f"{self._bytes_per_s} bytes a second")
            self._books.applied = (*self._books.applied, slow)
        try:
            if returner is not None:
                self._end_return(returner)
        finally:
            self._books.finish(WireEnd.CUT)
            self._close()

    def _close(self) -> None:
        with self._lock:
            for connection in (self._source, self._sink):
                if connection is not None:
                    connection.close()
            self._source = self._sink = None
        self._listener.close()
        self._recorder.close()
        self._wake_r.close()
        self._wake_w.close()

    def _end_return(self, returner: Future[None]) -> None:
        match self._books.end:
            case WireEnd.COMPLETE | WireEnd.CLOSED:
                # The destination still has its verdict to give; it closes when it is done.
                pass
            case WireEnd.FAULT if self._is_cut:
                # Nothing may be sent but the reset, so only our own reading ends.
                shutdown(self._sink, socket.SHUT_RD)
            case WireEnd.FAULT:
                shutdown(self._source, socket.SHUT_RDWR)
            case _:
                shutdown(self._source, socket.SHUT_RDWR)
                shutdown(self._sink, socket.SHUT_RDWR)
        returner.result()


def _buffer(count: int) -> memoryview:
    """Memory in huge pages where the kernel has them: copying into small ones is slower by a tenth."""
    memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _keep(buffer: memoryview, used: int, filled: int) -> int:
    """What is not used yet goes to the front of *buffer*; how much it is."""
    buffer[: filled - used] = buffer[used:filled]
    return filled - used
