"""RAM blocks other than main memory: each travels as the kind that its content needs (class B11).

The rules are those of the AMD/Hygon series: ROM, ``system.flash1`` (variables) and ``vga.vram`` are shared with the
host; ``system.flash0`` (code) is private, and ``pc.bios`` where it was encrypted at launch, or vCPUs that are reset on
the destination fetch garbage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.model.verdict import Finding

CHECK = "page-map/blocks"
_SHARED_BLOCKS = frozenset({"system.flash1", "vga.vram"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRecords:
    """How the pages of one RAM block travelled, records of the last version of each page."""

    block: str
    """RAMBlock idstr."""
    private_pages: int
    shared_pages: int
    is_launch_encrypted: bool = False
    """Whether its content was encrypted at launch; only asked of ``pc.bios``, which not every backend encrypts."""

    @property
    def is_rom(self) -> bool:
        """``/rom@...`` and ``*.rom``. Not pc.bios: whether it was encrypted at launch is the backend's affair."""
        return self.block.startswith("/rom@") or self.block.endswith(".rom")


def check_block_kinds(blocks: Sequence[BlockRecords]) -> tuple[Finding, ...]:
    """No page of a block travelled as the kind that would destroy it. Main memory is judged page by page elsewhere."""
    return tuple(
        Finding(
            check=CHECK,
            kind=f"{wrong}-record",
            where=item.block,
            detail=f"{pages} of {item.private_pages + item.shared_pages} pages travelled as {wrong}",
            remedy="class B11: the host forces the kind of firmware, ROM and display blocks",
        )
        for item in blocks
        for wrong, pages in _wrong(item)
        if pages
    )


def _wrong(item: BlockRecords) -> tuple[tuple[str, int], ...]:
    if item.block == "system.flash0" or (item.block == "pc.bios" and item.is_launch_encrypted):
        return (("shared", item.shared_pages),)
    if item.block in _SHARED_BLOCKS or item.is_rom:
        return (("private", item.private_pages),)
    return ()
