"""The relay: what stands between two QEMUs when a case wants to know, keep, or break what they say to each other."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from harness.migration.relay.books import Books
from harness.migration.relay.editor import Editor, StreamEditor
from harness.migration.relay.endpoint import Endpoint
from harness.migration.relay.lend import lend
from harness.migration.relay.pump import Pump
from harness.migration.relay.recorder import DEFAULT_CAP_BYTES, Recorder
from harness.migration.stream.ledger import Counts
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.settled import settled_stream
from harness.migration.stream.snapshot import Snapshot
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, StreamError
from harness.model.seed import Seed
from harness.model.wire import WireAccount, WireFault
from harness.model.wire import WireFaultName as Name


class Relay:
    """Listens on one endpoint, connects to another, and carries one migration between them.

    ::

        async with Relay(Endpoint.unix(folder / "relay"), Endpoint.parse(uri), record=folder / "stream") as relay:
            await migrate(relay.listen.uri)
            account = await relay.wait(deadline)

    Entering raises SetupError when it cannot listen. Leaving closes both connections at once, wherever the stream is,
    and ends both threads; the account stays readable.
    """

    def __init__(
        self,
        listen: Endpoint,
        connect: Endpoint,
        *,
        faults: Sequence[WireFault] = (),
        record: Path | None = None,
        seed: Seed | None = None,
        record_cap_bytes: int = DEFAULT_CAP_BYTES,
        editor: Editor | None = None,
        parser: StreamParser | None = None,
    ) -> None:
        """*editor* works instead of *faults*, *parser* cuts the stream for it."""
        self.listen = listen
        """Where the source has to migrate to; with the port that was bound, once entered."""
        self.connect = connect
        self._faults = tuple(faults)
        self._seed = seed or Seed(0)
        self._record = record
        self._record_cap_bytes = record_cap_bytes
        self._editor = editor
        self._parser = parser
        self.bug: Exception | None = None
        """What its thread stumbled over: trouble of ours, whatever became of the migration."""
        self._books = Books()
        self._pump: Pump | None = None
        self._thread: Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        listener, self.listen = self.listen.listen()
        self._ended = asyncio.get_running_loop().create_future()
        self._pump = self._make_pump(listener)
        self._thread = lend(self._run, name="cvmig-relay-forward")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def wait(self, deadline: Deadline) -> WireAccount:
        """The account when both sides have closed. Raises DeadlineError; the relay goes on then."""
        assert self._ended is not None
        try:
            async with asyncio.timeout(deadline.left_s):
                await asyncio.shield(self._ended)
        except TimeoutError:
            raise DeadlineError(f"the wire is still {self._books.end}") from None
        return self.account()

    async def aclose(self) -> None:
        """Close both sides; may be called again."""
        if self._pump is None or self._thread is None or self._ended is None:
            return
        self._pump.abort()
        await asyncio.shield(self._ended)
        self._thread.result()
        self.listen.remove()

    def check_ours(self) -> None:
        """Raise HarnessError when it broke by a mistake of ours: that says nothing about the product."""
        if self.bug:
            raise HarnessError(f"bug in the harness: the relay broke: {self.bug!r}") from self.bug

    def account(self) -> WireAccount:
        """What the wire has told so far."""
        return self._books.account(self._record)

    @property
    def bytes_forwarded(self) -> int:
        """How much of the stream has been passed on so far."""
        return self._books.bytes_forwarded

    @property
    def error(self) -> StreamError | None:
        """Why a stream that was edited was not understood any more."""
        return self._books.error

    def snapshot(self) -> Snapshot:
        """What the source sent beside main memory, before any fault touched it. Raises StreamError."""
        return self._books.collector.snapshot()

    def settled(self, main: str, ram: NDArray[np.uint8], extents: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """A stream like the one that passed, with one record per page; *ram* is the final content of block *main*.

        Nothing when the stream broke off before the devices. Raises StreamError when a block cannot be decoded.
        """
        books = self._books
        if not books.frame.is_whole or not books.collector.tail_bytes:
            return iter(())
        blocks = books.collector.snapshot().blocks
        tail = books.collector.tail_bytes
        return settled_stream(books.frame, main=main, ram=ram, extents=extents, blocks=blocks, tail=tail)

    def sent_tail(self) -> bytes:
        """The device sections as the source sent them, before any fault touched them; empty when they never came."""
        return self._books.collector.tail_bytes

    def page_counts(self, block: str) -> Counts:
        """How often each page of *block* was sent, in page order. Raises StreamError for an unknown block."""
        if block not in self._books.ledger.blocks:
            raise StreamError(f"no RAM block {block} was announced", offset=0)
        return self._books.ledger.counts(block)

    def _make_pump(self, listener: socket.socket) -> Pump:
        slow = [fault.bytes_per_s for fault in self._faults if fault.name == Name.SLOW]
        edits = [fault for fault in self._faults if fault.name != Name.SLOW]
        return Pump(
            listener,
            self.connect,
            books=self._books,
            recorder=Recorder(self._record, cap_bytes=self._record_cap_bytes, note=self._books.note),
            editor=self._editor or (StreamEditor(edits, self._seed) if edits else None),
            bytes_per_s=min(slow, default=None),
            parser=self._parser,
        )

    def _run(self) -> None:
        assert self._pump is not None
        assert self._ended is not None
        loop, ended = self._ended.get_loop(), self._ended
        try:
            self._pump.run()
        except Exception as bug:  # noqa: BLE001 - a thread has nobody to tell it to; its owner looks here
            self.bug = bug
        finally:
            # The loop may be gone when its owner did not leave the context: then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, ended)


def _set(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
