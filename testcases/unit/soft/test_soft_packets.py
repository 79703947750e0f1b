"""Packets and memory encryption, as properties."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.confidential.soft.processor.memory_encryption import MemoryCipher
from harness.confidential.soft.processor.packets import (
    HEADER_BYTES,
    PLACE_LIMIT,
    Packet,
    PacketKind,
    PacketOpener,
    PacketRun,
    PacketSealer,
    TransportKeys,
)
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus

PROPERTY = settings(deadline=None, derandomize=True)
"""The same examples in every run, and no clock decides."""

KEYS = TransportKeys(bytes(16), bytes(range(16)))
OTHER = TransportKeys(bytes(16), bytes(range(1, 17)))
pages = st.binary(min_size=1, max_size=4096).map(lambda seed: (seed * 4096)[:4096])
places = st.integers(0, PLACE_LIMIT - 1)
kinds = st.sampled_from(list(PacketKind))


def status_of(opener: PacketOpener, kind: PacketKind, place: int, packet: Packet) -> FirmwareStatus:
    with pytest.raises(CommandRefusedError) as caught:
        opener.open(kind, place, packet)
    return caught.value.status


@PROPERTY
@given(st.lists(st.tuples(kinds, places, pages), max_size=5))
def test_what_was_sealed_in_order_opens_in_order(sent: list[tuple[PacketKind, int, bytes]]) -> None:
    sealer, opener = PacketSealer(KEYS), PacketOpener(KEYS)
    packets = [sealer.seal(*item) for item in sent]
    assert [packet.sequence for packet in packets] == list(range(len(sent)))
    opened = [opener.open(kind, place, packet) for (kind, place, _), packet in zip(sent, packets, strict=True)]
    assert opened == [content for _, _, content in sent]


@PROPERTY
@given(kinds, places, pages, st.integers(0, (HEADER_BYTES + 4096) * 8 - 1))
def test_no_bit_of_a_packet_can_be_changed(kind: PacketKind, place: int, page: bytes, bit: int) -> None:
    packet = PacketSealer(KEYS).seal(kind, place, page)
    whole = bytearray(packet.header + packet.data)
    whole[bit // 8] ^= 1 << bit % 8
    bent = Packet(bytes(whole[:HEADER_BYTES]), bytes(whole[HEADER_BYTES:]))
    opener = PacketOpener(KEYS)
    assert status_of(opener, kind, place, bent) == FirmwareStatus.BAD_MEASUREMENT
    assert opener.open(kind, place, packet) == page


@PROPERTY
@given(kinds, kinds, places, places, pages)
def test_a_packet_is_for_one_place_and_one_kind(
    kind: PacketKind, other_kind: PacketKind, place: int, other_place: int, page: bytes
) -> None:
    packet, opener = PacketSealer(KEYS).seal(kind, place, page), PacketOpener(KEYS)
    if (kind, place) != (other_kind, other_place):
        assert status_of(opener, other_kind, other_place, packet) == FirmwareStatus.BAD_MEASUREMENT
    assert opener.open(kind, place, packet) == page


@PROPERTY
@given(st.permutations(range(5)))
def test_only_the_order_of_sending_is_taken(order: list[int]) -> None:
    sealer, opener = PacketSealer(KEYS), PacketOpener(KEYS)
    packets = [sealer.seal(PacketKind.DATA, 1, bytes([index]) * 4096) for index in range(5)]
    for index in order:
        if index == opener.received:
            assert opener.open(PacketKind.DATA, 1, packets[index])[0] == index
        else:
            assert status_of(opener, PacketKind.DATA, 1, packets[index]) == FirmwareStatus.SECURE_DATA_INVALID


@PROPERTY
@given(st.integers(1, 5), st.data())
def test_a_replay_is_out_of_turn(count: int, data: st.DataObject) -> None:
    sealer, opener = PacketSealer(KEYS), PacketOpener(KEYS)
    packets = [sealer.seal(PacketKind.DATA, 1, bytes(4096)) for _ in range(count)]
    for packet in packets:
        opener.open(PacketKind.DATA, 1, packet)
    again = data.draw(st.sampled_from(packets))
    assert status_of(opener, PacketKind.DATA, 1, again) == FirmwareStatus.SECURE_DATA_INVALID


@PROPERTY
@given(pages)
def test_a_packet_of_another_session_does_not_verify(page: bytes) -> None:
    packet = PacketSealer(OTHER).seal(PacketKind.DATA, 1, page)
    assert status_of(PacketOpener(KEYS), PacketKind.DATA, 1, packet) == FirmwareStatus.BAD_MEASUREMENT


@PROPERTY
@given(st.integers(0, HEADER_BYTES - 1), st.integers(0, 4095))
def test_a_cut_packet_is_told_by_its_length(header_bytes: int, data_bytes: int) -> None:
    packet, opener = PacketSealer(KEYS).seal(PacketKind.DATA, 1, bytes(4096)), PacketOpener(KEYS)
    for cut in (Packet(packet.header[:header_bytes], packet.data), Packet(packet.header, packet.data[:data_bytes])):
        assert status_of(opener, PacketKind.DATA, 1, cut) == FirmwareStatus.INVALID_LENGTH


@PROPERTY
@given(kinds, places, pages, st.integers(0, 3))
def test_the_bytes_are_those_that_are_written_down(kind: PacketKind, place: int, page: bytes, before: int) -> None:
    sealer = PacketSealer(KEYS)
    for _ in range(before):
        sealer.seal(PacketKind.DATA, 0, bytes(4096))
    packet = sealer.seal(kind, place, page)
    nonce = before.to_bytes(5, "big") + bytes([kind]) + place.to_bytes(6, "big")
    sealed = AESGCM(KEYS.tek).encrypt(nonce, page, KEYS.tik)
    assert packet.data == sealed[:4096]
    assert packet.header == bytes(4) + before.to_bytes(16, "big") + sealed[4096:] + bytes(16)


@PROPERTY
@given(st.lists(places, min_size=1, max_size=5), st.integers(0, 3), st.integers(0, 1 << 32))
def test_a_run_is_its_packets_one_by_one(places: list[int], before: int, content: int) -> None:
    one, run = PacketSealer(KEYS), PacketSealer(KEYS)
    for sealer in (one, run):
        for _ in range(before):
            sealer.seal(PacketKind.DATA, 0, bytes(4096))
    plain = Random(content).randbytes(4096 * len(places))
    numbers = np.array(places, dtype=np.uint64)
    packets = run.seal_run(PacketKind.DATA, numbers, plain)
    pages = [plain[at : at + 4096] for at in range(0, len(plain), 4096)]
    assert list(packets) == [one.seal(PacketKind.DATA, place, page) for place, page in zip(places, pages, strict=True)]
    opener = PacketOpener(KEYS)
    opener.received = before
    opened, refusal = opener.open_run(PacketKind.DATA, numbers, PacketRun.of(list(packets)))
    assert (opened.tobytes(), refusal) == (plain, None)


@PROPERTY
@given(st.integers(0, 4), st.sampled_from(["data", "mac", "place", "order"]))
def test_a_run_goes_up_to_the_first_bad_packet(bad: int, how: str) -> None:
    plain = b"".join(bytes([number]) * 4096 for number in range(5))
    numbers = np.arange(5, dtype=np.uint64)
    run = PacketSealer(KEYS).seal_run(PacketKind.DATA, numbers, plain)
    headers, data = run.headers.copy(), run.data.copy()
    expected = FirmwareStatus.BAD_MEASUREMENT
    match how:
        case "data":
            data[bad, 7] ^= 1
        case "mac":
            headers[bad, 30] ^= 4
        case "place":
            numbers[bad] += 9
        case _:
            order = [*range(bad), *range(bad + 1, 5)]
            headers, data, numbers = headers[order], data[order], numbers[order]
            expected = FirmwareStatus.SECURE_DATA_INVALID
    opened, refusal = (opener := PacketOpener(KEYS)).open_run(PacketKind.DATA, numbers, PacketRun(headers, data))
    assert opened.tobytes() == plain[: bad * 4096]
    assert opener.received == bad
    assert (refusal.status if refusal else None) == (expected if bad < len(numbers) else None)


def test_a_place_beyond_all_memory_is_refused() -> None:
    with pytest.raises(CommandRefusedError) as caught:
        PacketSealer(KEYS).seal(PacketKind.DATA, PLACE_LIMIT, bytes(4096))
    assert caught.value.status == FirmwareStatus.INVALID_ADDRESS


def test_equal_pages_never_look_equal_on_the_wire() -> None:
    sealer = PacketSealer(KEYS)
    seen = {sealer.seal(PacketKind.DATA, 1, bytes(4096)).data for _ in range(8)}
    assert len(seen) == 8
    lines = {data[start : start + 64] for data in seen for start in range(0, 4096, 64)}
    assert len(lines) == 8 * 64


ONE, TWO = MemoryCipher(bytes(range(32))), MemoryCipher(bytes(range(1, 33)))


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 1 << 52), pages), max_size=4))
def test_the_guest_reads_what_it_wrote(memory: list[tuple[int, bytes]]) -> None:
    places = [place for place, _ in memory]
    plain = b"".join(content for _, content in memory)
    seen = ONE.host_view(places, plain)
    assert ONE.guest_view(places, seen) == plain
    assert not memory or seen != plain


@PROPERTY
@given(st.integers(0, 1 << 52), st.integers(0, 1 << 52), pages)
def test_ciphertext_elsewhere_or_under_another_key_is_garbage(place: int, elsewhere: int, page: bytes) -> None:
    seen = ONE.host_view([place], page)
    readings = [TWO.guest_view([place], seen)]
    if elsewhere != place:
        readings.append(ONE.guest_view([elsewhere], seen))
    for garbage in readings:
        same = sum(garbage[start : start + 16] == page[start : start + 16] for start in range(0, 4096, 16))
        assert same == 0


def test_equal_lines_of_a_page_look_different() -> None:
    seen = ONE.host_view([2, 3], bytes(8192))
    assert len({seen[start : start + 16] for start in range(0, 8192, 16)}) == 512


def test_one_changed_bit_spoils_its_block_only() -> None:
    seen = bytearray(ONE.host_view([1], bytes(4096)))
    seen[100] ^= 1
    read = ONE.guest_view([1], bytes(seen))
    assert [start for start in range(0, 4096, 16) if read[start : start + 16] != bytes(16)] == [96]


def test_wrong_sizes_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="2 pages, but 4096 bytes"):
        ONE.host_view([1, 2], bytes(4096))
    with pytest.raises(ValueError, match="32 bytes"):
        MemoryCipher(bytes(16))
