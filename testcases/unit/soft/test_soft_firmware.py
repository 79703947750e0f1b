"""The firmware's block: private on a correct host, whatever the guest says of it; class B11 on another."""

from __future__ import annotations

import numpy as np
import pytest

from harness.confidential.soft.channel.hypercalls import HC_MAP_GPA_RANGE, Operation
from harness.confidential.soft.flavour import FLAVOURS, Flavour
from harness.confidential.soft.host.platform import SoftPlatform
from harness.confidential.soft.memory.firmware import LAST_GFN, block_page_of, places_of
from harness.confidential.soft.memory.host_list import HostList
from harness.confidential.soft.processor.status import FirmwareStatus
from harness.model.memory import PAGE_SIZE
from harness.model.page_map import ENCRYPTED_BIT, Conversion
from harness.model.soft_fault import SoftFault

from .conftest import Refuse
from .small_vm import ADDRESSES, TOTAL_PAGES, SmallVm, expect, launch, platform, span

FLASH_GPA, FLASH_PAGES = 0xFFC00000, 1024
BLOCK = span(0, 64)
CODE = np.frombuffer(np.random.default_rng(3).bytes(64 * PAGE_SIZE), dtype=np.uint8).reshape(64, PAGE_SIZE)


def told(*faults: SoftFault, private: bool = False) -> tuple[SmallVm, SmallVm]:
    """A guest that has said of its code flash what it is, and where it goes to."""
    here, there = platform(FLAVOURS["soft-sev"], *faults), platform(FLAVOURS["soft-sev"], *faults, name="destination")
    return begun(here, there, private=private)


def begun(here: SoftPlatform, there: SoftPlatform, *, private: bool = False) -> tuple[SmallVm, SmallVm]:
    source, destination = launch(here), expect(there)
    if not here.flavour.is_es:
        for attributes in (0, ENCRYPTED_BIT)[: 1 + private]:
            registers = {"rbx": FLASH_GPA, "rcx": FLASH_PAGES, "rdx": attributes}
            assert source.ask(Operation.VMMCALL, rax=HC_MAP_GPA_RANGE, **registers).value == 0
    destination.protection.receive_start(source.protection.send_start(there.certificates()))
    return source, destination


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
def test_it_travels_in_packets(flavour: Flavour) -> None:
    source, destination = begun(platform(flavour), platform(flavour, name="destination"))
    packets = source.protection.seal_firmware(BLOCK, CODE)
    assert np.array_equal(destination.protection.open_firmware(BLOCK, packets), CODE)
    sent, held = source.protection.snapshot(), destination.protection.snapshot()
    assert (sent.commands[-1].name, sent.commands[-1].count) == ("send-update-data", 64)
    assert (held.commands[-1].name, held.commands[-1].count) == ("receive-update-data", 64)
    assert sent.pinned_pages == held.pinned_pages == 0


def test_b11_a_correct_host_does_not_listen() -> None:
    assert told()[0].protection.is_firmware_private


def test_b11_one_that_believes_the_guest_does() -> None:
    assert not told(SoftFault.FLASH0_SHARED)[0].protection.is_firmware_private
    assert told(SoftFault.FLASH0_SHARED, private=True)[0].protection.is_firmware_private
    assert launch(platform(FLAVOURS["soft-sev"], SoftFault.FLASH0_SHARED)).protection.is_firmware_private


def test_b11_what_comes_in_clear_is_garbage_to_the_guest() -> None:
    source, destination = told(SoftFault.FLASH0_SHARED)
    cipher = source.protection.firmware_host_view(BLOCK, CODE)
    found = destination.protection.firmware_guest_view(BLOCK, cipher)
    assert (cipher != CODE).any(axis=1).all()
    assert (found != CODE).any(axis=1).all()
    assert (found != cipher).any(axis=1).all()
    assert np.array_equal(source.protection.firmware_guest_view(BLOCK, cipher), CODE)


def test_nothing_is_read_before_a_key_is_there(refuses: Refuse) -> None:
    alone = expect(platform(name="destination"))
    refuses(FirmwareStatus.INVALID_GUEST, alone.protection.firmware_guest_view, BLOCK, CODE)


def test_a_packet_of_firmware_is_none_of_main_memory(refuses: Refuse) -> None:
    source, destination = told()
    packets = source.protection.seal_firmware(BLOCK, CODE)
    refuses(FirmwareStatus.BAD_MEASUREMENT, destination.protection.open, BLOCK, packets)


def test_places_are_behind_main_memory() -> None:
    (place,) = places_of(span(5, 6)).tolist()
    assert place >= TOTAL_PAGES
    assert block_page_of(place) == 5
    assert block_page_of(TOTAL_PAGES) is None


def test_the_list_names_frames_without_memory() -> None:
    host_list = HostList(ADDRESSES)
    host_list.convert(Conversion(gpa=FLASH_GPA, pages=FLASH_PAGES, attributes=0))
    assert [host_list.names(gfn) for gfn in ((FLASH_GPA >> 12) - 1, FLASH_GPA >> 12, LAST_GFN)] == [False, True, True]
    assert not HostList(ADDRESSES).names(LAST_GFN)
