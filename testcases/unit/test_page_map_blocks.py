"""Blocks other than main memory travel as the kind that their content needs."""

from __future__ import annotations

import pytest

from harness.checks.page_map_blocks import BlockRecords, check_block_kinds

GOOD = (
    BlockRecords(block="pc.ram", private_pages=900, shared_pages=100),
    BlockRecords(block="system.flash0", private_pages=30, shared_pages=0),
    BlockRecords(block="system.flash1", private_pages=0, shared_pages=4),
    BlockRecords(block="vga.vram", private_pages=0, shared_pages=64),
    BlockRecords(block="pc.bios", private_pages=0, shared_pages=64),
    BlockRecords(block="pc.bios", private_pages=64, shared_pages=0, is_launch_encrypted=True),
    BlockRecords(block="/rom@etc/acpi/tables", private_pages=0, shared_pages=32),
)


def test_blocks_that_travelled_as_they_should_are_no_finding() -> None:
    assert check_block_kinds(GOOD) == ()


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ("system.flash0", "shared-record"),
        ("system.flash1", "private-record"),
        ("vga.vram", "private-record"),
        ("0000:00:02.0/vga.rom", "private-record"),
        ("/rom@etc/acpi/tables", "private-record"),
    ],
)
def test_b11_a_block_of_the_wrong_kind_is_named(block: str, kind: str) -> None:
    (found,) = check_block_kinds([BlockRecords(block=block, private_pages=2, shared_pages=3)])
    assert (found.check, found.kind, found.where) == ("page-map/blocks", kind, block)
    wrong = 3 if kind == "shared-record" else 2
    assert found.detail == f"{wrong} of 5 pages travelled as {kind.split('-', maxsplit=1)[0]}"
    assert "B11" in found.remedy


def test_b11_firmware_in_pc_bios_is_private_where_it_was_encrypted() -> None:
    firmware = BlockRecords(block="pc.bios", private_pages=0, shared_pages=64, is_launch_encrypted=True)
    (found,) = check_block_kinds([firmware])
    assert (found.check, found.kind, found.where) == ("page-map/blocks", "shared-record", "pc.bios")
