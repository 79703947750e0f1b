"""Carries the return path, from the destination to the source: a few small messages, of which each counts."""

from __future__ import annotations

import socket

from harness.migration.relay.books import Books
from harness.migration.relay.sockets import shutdown
from harness.migration.stream.return_path import ReturnPathParser
from harness.model.errors import StreamError

CHUNK_BYTES = 1 << 16


def carry_back(sink: socket.socket, source: socket.socket, books: Books) -> None:
    """Forward until *sink* ends, then end *source*. What is not understood is forwarded, with a note."""
    parser: ReturnPathParser | None = ReturnPathParser()
    try:
        while data := sink.recv(CHUNK_BYTES):
            parser = _account(books, parser, data)
            source.sendall(data)
    except OSError as error:
        books.note(f"return path: {error.strerror or error}")
    # The destination has said its last word; the source must not wait for more.
    shutdown(source, socket.SHUT_WR)


def _account(books: Books, parser: ReturnPathParser | None, data: bytes) -> ReturnPathParser | None:
    """The parser for what comes next; None from what it did not understand on."""
    books.bytes_returned += len(data)
    if parser is None:
        return None
    try:
        for message in parser.feed(data):
            books.message(message)
    except StreamError as error:
        books.note(f"return path not understood: {error}")
        return None
    return parser
