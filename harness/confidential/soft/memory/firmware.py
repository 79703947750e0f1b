"""The RAM block with the firmware's code: encrypted at launch, so private whatever page tables and hypercalls say.

The AMD/Hygon series forces ``system.flash0`` private; with ``-bios`` the same code is in ``pc.bios``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.model.memory import PAGE_SHIFT

FIRMWARE_BLOCKS = frozenset({"pc.bios", "system.flash0"})
"""RAMBlock idstr (QEMU hw/i386/x86.c, hw/i386/pc_sysfw.c)."""
LAST_GFN = (4 << 30 >> PAGE_SHIFT) - 1
"""The frame with the reset vector; the block ends behind it."""
SHADOW_GFNS = range(0xC0000 >> PAGE_SHIFT, 0x100000 >> PAGE_SHIFT)
"""RAM that a PC's PAM registers show in place of firmware and option ROMs (QEMU hw/pci-host/pam.c).

A reset leaves the registers as they are (mch_reset in hw/pci-host/q35.c), so SeaBIOS is entered in its copy here.
"""
_FIRST_PLACE = 1 << 40
"""Behind any page of main memory: a packet of the one is none of the other."""

Pages = NDArray[np.uint64]


def places_of(block_pages: Pages) -> Pages:
    """What packets and memory encryption know pages of this block by, in the place of RAM pages."""
    return block_pages + np.uint64(_FIRST_PLACE)


def block_page_of(place: int) -> int | None:
    """Which page of the block *place* is; None for one of main memory."""
    return place - _FIRST_PLACE if place >= _FIRST_PLACE else None
