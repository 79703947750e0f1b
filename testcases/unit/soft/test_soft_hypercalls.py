"""Frames of the hypercall channel, and the thread that answers them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.confidential.soft.channel.hypercall_server import HypercallServer
from harness.confidential.soft.channel.hypercalls import (
    REPLY_BYTES,
    REQUEST_BYTES,
    HypercallReply,
    HypercallRequest,
    Operation,
    ReplyFlag,
    RequestReader,
    decode_reply,
    decode_request,
)

REQUEST = HypercallRequest(
    vcpu=3, operation=Operation.VMMCALL, seq=7, boot_id=0xB007, rax=12, rbx=0x7000, rcx=5, rdx=1 << 4
)
WORD = st.integers(0, (1 << 64) - 1)


@given(WORD, WORD, st.sampled_from(Operation), st.booleans())
def test_a_request_survives_the_wire(low: int, high: int, operation: Operation, is_resend: bool) -> None:
    request = replace(REQUEST, rax=low, rdx=high, operation=operation, is_resend=is_resend)
    assert len(request.encode()) == REQUEST_BYTES
    assert decode_request(request.encode()) == request


@given(WORD, WORD, st.integers(0, 3), st.integers(0, (1 << 32) - 1))
def test_a_reply_survives_the_wire(value: int, extra: int, flags: int, seq: int) -> None:
    reply = HypercallReply(value=value, extra=extra, flags=ReplyFlag(flags))
    assert len(reply.encode(seq)) == REPLY_BYTES
    assert decode_reply(reply.encode(seq)) == (seq, reply)


def test_a_negative_errno_is_what_the_guest_finds_in_rax() -> None:
    assert HypercallReply(value=-22).encode(1)[8:16] == (-22).to_bytes(8, "little", signed=True)


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(1, 80))
def test_requests_are_found_among_garbage_however_they_are_cut(before: bytes, between: bytes, piece: int) -> None:
    other = replace(REQUEST, seq=8)
    wire = before + REQUEST.encode() + between + other.encode()
    reader = RequestReader()
    found = [request for at in range(0, len(wire), piece) for request in reader.feed(wire[at : at + piece])]
    assert found == [REQUEST, other]
    assert reader.garbage_bytes == len(before) + len(between)


@pytest.mark.parametrize("at", range(0, REQUEST_BYTES, 3))
def test_a_request_with_a_wrong_bit_is_none(at: int) -> None:
    wire = bytearray(REQUEST.encode())
    wire[at] ^= 4
    assert decode_request(bytes(wire)) is None
    reader = RequestReader()
    assert reader.feed(bytes(wire) + REQUEST.encode()) == [REQUEST]


def test_half_a_request_does_not_swallow_the_next() -> None:
    reader = RequestReader()
    assert reader.feed(REQUEST.encode()[:40] + REQUEST.encode()) == [REQUEST]


def test_an_operation_that_nobody_knows_is_no_request() -> None:
    wire = bytearray(REQUEST.encode())
    wire[6] = 99
    assert RequestReader().feed(bytes(wire)) == []


class Desk:
    def __init__(self) -> None:
        self.guest, host = socket.socketpair()
        self.guest.settimeout(10.0)
        self.handled: list[HypercallRequest] = []
        self.server = HypercallServer(host, self._handle)
        self.server.start()
        self._host = host

    def _handle(self, request: HypercallRequest) -> HypercallReply:
        if request.rax == 0xBAD:
            raise OSError("the handler fell over")
        self.handled.append(request)
        return HypercallReply(value=len(self.handled))

    def ask(self, request: HypercallRequest) -> tuple[int, HypercallReply] | None:
        self.guest.sendall(request.encode())
        return decode_reply(self.guest.recv(REPLY_BYTES, socket.MSG_WAITALL))

    def close(self) -> None:
        self.server.stop()
        self.guest.close()
        self._host.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    opened = Desk()
    yield opened
    opened.close()


def test_each_request_is_handled_and_answered(desk: Desk) -> None:
    assert desk.ask(REQUEST) == (7, HypercallReply(value=1))
    assert desk.ask(replace(REQUEST, seq=8)) == (8, HypercallReply(value=2))


def test_a_repeat_gets_the_same_reply_and_is_not_handled_again(desk: Desk) -> None:
    first = desk.ask(REQUEST)
    assert desk.ask(replace(REQUEST, is_resend=True)) == first
    assert desk.handled == [REQUEST]


def test_the_same_number_of_another_boot_is_another_request(desk: Desk) -> None:
    desk.ask(REQUEST)
    assert desk.ask(replace(REQUEST, boot_id=1)) == (7, HypercallReply(value=2))


def test_garbage_and_half_frames_are_survived(desk: Desk) -> None:
    desk.guest.sendall(b"CVHC" * 30 + REQUEST.encode()[:33])
    assert desk.ask(REQUEST) == (7, HypercallReply(value=1))
    assert desk.server.garbage_bytes == 120 + 33


def test_a_guest_that_does_not_listen_does_not_stop_the_server(desk: Desk) -> None:
    for seq in range(100, 20_000):
        desk.guest.send(replace(REQUEST, seq=seq).encode())
        if desk.server.error is not None:
            break
    assert desk.server.error is None


def test_stop_ends_the_thread_and_may_be_called_again(desk: Desk) -> None:
    desk.ask(REQUEST)
    desk.server.stop()
    desk.server.stop()
    desk.server.join(0)
    assert desk.guest.recv(1) == b""
    assert (desk.handled, desk.server.error) == ([REQUEST], None)


def test_a_server_that_was_never_started_can_be_stopped() -> None:
    guest, host = socket.socketpair()
    with guest, host:
        HypercallServer(host, lambda _: HypercallReply()).stop()


def test_a_hang_up_ends_the_thread_without_error(desk: Desk) -> None:
    desk.ask(REQUEST)
    desk.guest.close()
    desk.server.stop()
    assert desk.server.error is None


def test_what_the_handler_stumbles_over_is_kept_for_the_owner(desk: Desk) -> None:
    desk.guest.sendall(replace(REQUEST, rax=0xBAD).encode())
    desk.server.join(5.0)
    assert isinstance(desk.server.error, OSError)
