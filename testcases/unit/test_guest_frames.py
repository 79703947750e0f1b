from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.guest.frames import HEADER_BYTES, Frame, FrameReader, Kind

FIRST = Frame(kind=Kind.REPLY, code=5, seq=7, payload=bytes(range(40)))
SECOND = Frame(kind=Kind.EVENT, code=1, seq=0, payload=b"")


def test_a_frame_comes_back_as_it_went() -> None:
    assert FrameReader().feed(FIRST.encode() + SECOND.encode()) == [FIRST, SECOND]


def test_the_wire_format_is_what_the_guest_was_written_for() -> None:
    wire = Frame(kind=Kind.REQUEST, code=2, seq=0x01020304, payload=b"cvmig").encode()
    # Both checksums come from gzip, which is no part of this code.
    assert wire.hex() == "43564d50010102000403020105000000a6790271fcc640446376" + "6d6967"


@pytest.mark.parametrize("size", [1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 39])
def test_half_a_frame_and_its_repeat_are_one_frame(size: int) -> None:
    assert FrameReader().feed(FIRST.encode()[:size] + FIRST.encode()) == [FIRST]


@given(st.binary(max_size=80), st.lists(st.integers(1, 9), max_size=30))
def test_frames_are_found_after_garbage_in_any_chunking(garbage: bytes, cuts: list[int]) -> None:
    wire = garbage + FIRST.encode() + SECOND.encode()
    reader = FrameReader()
    frames: list[Frame] = []
    at = 0
    for cut in [*cuts, len(wire)]:
        frames += reader.feed(wire[at : at + cut])
        at += cut
    assert frames[-2:] == [FIRST, SECOND]


@given(st.integers(0, len(FIRST.encode()) * 8 - 1))
def test_a_flipped_bit_costs_that_frame_and_no_other(bit: int) -> None:
    wire = bytearray(FIRST.encode())
    wire[bit // 8] ^= 1 << bit % 8
    assert FrameReader().feed(bytes(wire) + SECOND.encode()) == [SECOND]


@pytest.mark.parametrize("sent", [HEADER_BYTES, HEADER_BYTES + 16, HEADER_BYTES + 32])
def test_a_frame_that_a_fault_cut_short_does_not_swallow_the_next(sent: int) -> None:
    # The guest fills the rest with zero bytes, rounded up to its UART's FIFO.
    wire = FIRST.encode()
    rest = -(-(len(wire) - sent) // 16) * 16
    assert FrameReader().feed(wire[:sent] + bytes(rest) + SECOND.encode()) == [SECOND]
