"""The block with the firmware's code: packets of its own, and garbage where a host took it for shared (B11)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.confidential.soft.processor.status import FirmwareStatus
from harness.migration.relay.editor import EditorRefusedError
from harness.migration.sealed.opener import Opener
from harness.migration.sealed.records import SealedPages, Subtype
from harness.migration.sealed.sealer import Sealer
from harness.migration.sealed.sides import sealed_parser
from harness.migration.sealed.tap import Tap
from harness.migration.stream.parser import StreamParser
from harness.model.page_set import PageSet
from harness.model.protection import BlockKinds
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault
from testcases.sealed.hosts import CSV, OTHER_KEY, SCRAMBLE, SEV, Host, Kind
from testcases.sealed.pipeline import ROM_PAGES, elements_of, memory_of, page_of, sealed, stream, through

PROPERTY = settings(deadline=None, derandomize=True, max_examples=12)
PAGES = 64
SHARED = PageSet.of((5, 9), (63, 64))
PLAIN = {"soft-sev": SEV, "soft-csv": CSV}
BLOCKS = ("pc.bios", "system.flash0")


def pair(kind: Kind, shared: PageSet = SHARED) -> tuple[Host, Host]:
    return Host(kind, PAGES, shared=shared).launch(), Host(kind, PAGES, number=2)


def expected(mask: int = 0) -> np.ndarray:
    """The block as it arrives, with every byte changed by *mask*."""
    content = b"".join(page_of(number, 1) for number in range(ROM_PAGES))
    return np.frombuffer(content, dtype=np.uint8).reshape(ROM_PAGES, -1) ^ np.uint8(mask)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", PLAIN.values(), ids=PLAIN)
@PROPERTY
@given(cuts=st.lists(st.integers(1, 90_000), max_size=8), window=st.integers(1, 100))
def test_it_arrives_in_packets_of_its_own(kind: Kind, block: str, cuts: list[int], window: int) -> None:
    source, target, sizes = *pair(kind), [*cuts, 30_011]
    tap = Tap()
    wire = sealed(source, target, stream(PAGES, other=block), sizes=sizes, window_pages=window)
    out = through(sealed_parser(), Opener(target, tap=tap), wire, [7, *sizes])
    assert np.array_equal(memory_of(out, block), expected())
    records = tap.records()
    assert records.blocks == (BlockKinds(block=block, packet_pages=ROM_PAGES, plain_pages=0),)
    assert records.pages == sum(source.commands) == sum(target.commands)
    assert np.array_equal(target.kinds, np.where(source.is_shared, 1, 2))
    packets = [item for item in elements_of(wire) if isinstance(item, SealedPages) and item.block == block]
    assert {item.subtype for item in packets} == {Subtype.PAGE}


def test_other_blocks_are_shared() -> None:
    source, target = pair(CSV)
    tap = Tap()
    through(sealed_parser(), Opener(target, tap=tap), sealed(source, target, stream(PAGES)))
    assert tap.records().blocks == (BlockKinds(block="pc.rom", packet_pages=0, plain_pages=ROM_PAGES),)


def test_it_may_bring_the_session() -> None:
    """Where all of main memory is shared its first page is the first packet."""
    source, target = pair(SEV, PageSet.of((0, PAGES)))
    wire = sealed(source, target, stream(PAGES, other="pc.bios"))
    first = next(item for item in elements_of(wire) if isinstance(item, SealedPages))
    assert first.session
    assert first.block == "pc.bios"
    assert np.array_equal(memory_of(through(sealed_parser(), Opener(target, tap=Tap()), wire), "pc.bios"), expected())


@pytest.mark.parametrize("kind", PLAIN.values(), ids=PLAIN)
def test_b11_a_host_that_believes_it_shared_sends_ciphertext_in_clear(kind: Kind) -> None:
    source, target = pair(kind)
    source.is_firmware_private = False
    sealer = Sealer(source, target.certificates(), seed=Seed(1))
    wire = through(StreamParser(), sealer, stream(PAGES, other="pc.bios"))
    assert sealer.struck == {SoftFault.FLASH0_SHARED: 2 * ROM_PAGES}
    tap = Tap()
    out = through(sealed_parser(), Opener(target, tap=tap), wire)
    assert np.array_equal(memory_of(out, "pc.bios"), expected(SCRAMBLE ^ OTHER_KEY))
    assert tap.records().blocks == (BlockKinds(block="pc.bios", packet_pages=0, plain_pages=ROM_PAGES),)


def refused(target: Host, wire: bytes) -> tuple[int, str]:
    opener = Opener(target, tap=Tap())
    with pytest.raises(EditorRefusedError):
        through(sealed_parser(), opener, wire)
    (refusal,) = opener.refusals
    return refusal.status, refusal.reason


def test_its_packets_are_none_of_main_memory() -> None:
    """Page 0 of the one does not verify as page 0 of the other."""
    source, target = pair(SEV)
    wire = sealed(source, target, stream(PAGES, 1, other="pc.bios"))
    head, name, tail = wire.rpartition(b"\x07pc.bios")
    assert name
    status, _ = refused(target, head + b"\x06pc.ram" + tail)
    assert status == FirmwareStatus.BAD_MEASUREMENT


def test_packets_of_another_block_are_refused() -> None:
    source, target = pair(SEV)
    wire = sealed(source, target, stream(PAGES, 1, other="pc.bios"))
    status, reason = refused(target, wire.replace(b"\x07pc.bios", b"\x06pc.rom"))
    assert status == 0
    assert "pc.rom, which is shared" in reason
