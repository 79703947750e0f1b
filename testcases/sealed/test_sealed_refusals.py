"""Packet faults and disorder between the hosts: each is refused, with the right word, and nothing is when clean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.confidential.soft.processor.policy import Policy, PolicyFlag
from harness.confidential.soft.processor.status import FirmwareStatus
from harness.guest.lines import page_bytes
from harness.migration.relay.editor import EditorRefusedError
from harness.migration.sealed.opener import Opener
from harness.migration.sealed.packet_faults import HOW, PacketFaultEditor
from harness.migration.sealed.records import Subtype, cpu_state_record, list_record
from harness.migration.sealed.sealer import Sealer
from harness.migration.sealed.sides import sealed_parser
from harness.migration.sealed.tap import Tap, clear_lines
from harness.migration.stream.parser import StreamParser
from harness.model.page_set import PageSet
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault
from testcases.sealed.hosts import CSV, SCRAMBLE, SEV, Host, Kind
from testcases.sealed.pipeline import ROM_PAGES, memory_of, page_of, sealed, stream, through

PROPERTY = settings(deadline=None, derandomize=True, max_examples=12)
PAGES = 512
SHARED = PageSet.of((5, 9), (100, 160), (511, 512))
PLAIN = {"soft-sev": SEV, "soft-csv": CSV}


def pair(kind: Kind, pages: int = PAGES) -> tuple[Host, Host]:
    return Host(kind, pages, shared=SHARED).launch(), Host(kind, pages, number=2)


def refusal_of(target: Host, data: bytes) -> tuple[int, str]:
    opener = Opener(target, tap=Tap())
    with pytest.raises(EditorRefusedError):
        through(sealed_parser(), opener, data)
    (refusal,) = opener.refusals
    assert not refusal.is_source
    return refusal.status, refusal.reason


@pytest.mark.parametrize("kind", PLAIN.values(), ids=PLAIN)
@PROPERTY
@given(cuts=st.lists(st.integers(1, 300_000), max_size=8), window=st.integers(1, 200))
def test_content_arrives_whatever_the_pieces(kind: Kind, cuts: list[int], window: int) -> None:
    source, target, sizes = *pair(kind), [*cuts, 100_003]
    wire = sealed(source, target, stream(PAGES), sizes=sizes, window_pages=window)
    memory = memory_of(through(sealed_parser(), Opener(target, tap=Tap()), wire, [7, *sizes]))
    for number in range(PAGES):
        page = np.frombuffer(page_of(number, 1), dtype=np.uint8)
        expected = page ^ np.uint8(SCRAMBLE) if source.is_shared[number] else page
        assert np.array_equal(memory[number], expected), number
    assert np.array_equal(target.kinds, np.where(source.is_shared, 1, 2))
    assert target.came is not None
    assert target.came.shared == SHARED


STATUSES = {
    SoftFault.PACKET_TAMPERED: FirmwareStatus.BAD_MEASUREMENT,
    SoftFault.PACKET_REPLAYED: FirmwareStatus.SECURE_DATA_INVALID,
    SoftFault.PACKET_REORDERED: FirmwareStatus.SECURE_DATA_INVALID,
    SoftFault.PACKET_TRUNCATED: FirmwareStatus.INVALID_LENGTH,
    SoftFault.PACKET_MISPLACED: FirmwareStatus.BAD_MEASUREMENT,
    SoftFault.PACKET_DROPPED: FirmwareStatus.SECURE_DATA_INVALID,
    SoftFault.PACKET_OF_OTHER_SESSION: FirmwareStatus.BAD_MEASUREMENT,
}


@pytest.mark.parametrize("kind", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("fault", list(HOW))
def test_each_packet_fault_strikes_and_is_refused(fault: SoftFault, kind: Kind) -> None:
    for seed in range(5):
        source, target = pair(kind)
        editor = PacketFaultEditor([fault], Seed(seed))
        wire = through(sealed_parser(), editor, sealed(source, target, stream(PAGES, 1)))
        (struck,) = editor.struck()
        assert (struck.name, struck.times) == (fault, 1)
        status, _ = refusal_of(target, wire)
        assert status == STATUSES[fault], seed


def test_without_faults_the_editor_changes_nothing() -> None:
    wire = sealed(*pair(CSV), stream(PAGES))
    editor = PacketFaultEditor([SoftFault.VMSA_SWAPPED], Seed(1))
    assert through(sealed_parser(), editor, wire) == wire
    assert editor.struck() == ()


def test_a_fault_that_finds_no_packet_says_so() -> None:
    editor = PacketFaultEditor([SoftFault.PACKET_DROPPED], Seed(1))
    through(sealed_parser(), editor, sealed(Host(SEV, 6).launch(), Host(SEV, 6, number=2), stream(6, 1)))
    assert [one.times for one in editor.struck()] == [0]


def cut_behind_list(wire: bytes) -> tuple[bytes, bytes]:
    """Before and behind the shared list, which is the last record."""
    end = wire.rindex((0x10).to_bytes(8, "big"))
    return wire[:end], wire[end:]


def test_disorder_is_refused() -> None:
    source, target = pair(SEV)
    head, end = cut_behind_list(sealed(source, target, stream(PAGES, 1)))
    assert "behind the shared list" in refusal_of(target, head + list_record("", b"\0\0\0\2") + end)[1]
    again = Host(SEV, PAGES, number=2)
    assert "registers are plain" in refusal_of(again, head + cpu_state_record("", ()) + end)[1]


def test_packets_before_a_session_are_refused() -> None:
    source, target = pair(CSV)
    wire = sealed(source, target, stream(PAGES, 1))
    name = b"\x06pc.ram"
    start = wire.index(name + int(Subtype.PAGE).to_bytes(4, "big"))
    packet = (52).to_bytes(4, "big") + bytes(52) + (4096).to_bytes(4, "big") + bytes(4096)
    record = name + int(Subtype.BATCH_END).to_bytes(4, "big") + packet
    assert "before a session" in refusal_of(target, wire[:start] + record + wire[start - 8 :])[1]


def test_a_window_without_end_is_refused() -> None:
    source, target = pair(CSV)
    wire = bytearray(sealed(source, target, stream(PAGES, 1), window_pages=64))
    at = wire.index((0x34).to_bytes(4, "big"), wire.index(int(Subtype.BATCH_END).to_bytes(4, "big") + b"\0\0\0\x34"))
    wire[at - 1] = Subtype.BATCH
    sealer_was_right = sealed(*pair(CSV), stream(PAGES, 1), window_pages=64)
    assert bytes(wire) != sealer_was_right
    opener = Opener(target, tap=(tap := Tap()))
    through(sealed_parser(), opener, bytes(wire))
    assert max(tap.records().batches) == 128


def test_a_session_for_another_host_is_refused() -> None:
    source, target = pair(SEV)
    wire = sealed(source, target, stream(PAGES, 1))
    assert refusal_of(Host(SEV, PAGES, number=3), wire)[0] == FirmwareStatus.BAD_MEASUREMENT


def test_a_policy_that_forbids_sending_ends_the_source() -> None:
    source = Host(SEV, PAGES, policy=Policy.of(PolicyFlag.NOSEND)).launch()
    target = Host(SEV, PAGES, number=2)
    sealer = Sealer(source, target.certificates(), seed=Seed(1))
    with pytest.raises(EditorRefusedError, match="POLICY_FAILURE"):
        through(StreamParser(), sealer, stream(PAGES, 1))
    (refusal,) = sealer.refusals
    assert refusal.is_source
    assert refusal.status == FirmwareStatus.POLICY_FAILURE


def test_a_slow_processor_is_waited_for_by_whoever_sends() -> None:
    source, target = pair(SEV)
    source.page_delay_s = 3600.0
    sealer = Sealer(source, target.certificates(), seed=Seed(1))
    edited = [sealer.edit(element) for element in StreamParser().feed(stream(PAGES, 1))]
    pauses = [one.pause_s for one in edited]
    assert sum(pauses) > PAGES * 1800.0
    assert all(one.buffers for one in edited if one.pause_s)


def test_pages_amid_a_conversion_go_once_more_before_the_list() -> None:
    source, target = pair(CSV)
    source.unsure = np.array([3, 6], dtype=np.uint64)
    memory = memory_of(through(sealed_parser(), Opener(target, tap=Tap()), sealed(source, target, stream(PAGES))))
    assert set(memory[3].tolist()) == {0x77}
    assert set(memory[6].tolist()) == {0x77 ^ SCRAMBLE}


def test_pages_that_qemu_forgets_are_not_sent() -> None:
    source, target = pair(CSV)
    source.to_forget = np.array([11, 12], dtype=np.uint64)
    through(sealed_parser(), Opener(target, tap=Tap()), sealed(source, target, stream(PAGES)))
    assert [int(kind) for kind in target.kinds[10:14]] == [2, 0, 0, 2]


def test_a_capture_is_searched_at_every_byte_offset(tmp_path: Path) -> None:
    page = page_bytes(0x7000, 3, 0x1122334455667788)
    capture = tmp_path / "wire"
    capture.write_bytes(b"x" * 4099 + page[64:128] + b"y" * 7 + page[128:180])
    (found,) = clear_lines(capture, 0x1122334455667788)
    assert (found.start, found.end) == (0x7000, 0x8000)
    assert clear_lines(capture, 0x1122334455667789) == ()
    capture.write_bytes(b"")
    assert clear_lines(capture, 1) == ()


@pytest.mark.parametrize("kind", PLAIN.values(), ids=PLAIN)
def test_no_plain_byte_of_a_private_page_is_on_the_wire(kind: Kind) -> None:
    source, target = pair(kind)
    wire = sealed(source, target, stream(PAGES))
    # The ROM has the content of the lowest pages, and is no secret.
    for number in range(ROM_PAGES, PAGES):
        if not source.is_shared[number] and number % 5:
            assert page_of(number, 0)[:16] not in wire
