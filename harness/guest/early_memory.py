"""What the host sees of a guest's memory around a reboot: where firmware worked, and which lines are wrong."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from harness.guest.lines import SHARED_SEED, page_bytes
from harness.model.early import WrongLine
from harness.model.errors import PreconditionError
from harness.model.guest import GuestDescription, RamLayout
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SHIFT, PAGE_SIZE, GpaRange, PageDamage
from harness.vm.ram import SharedRam

_MOST_BYTES = 1 << 20
_MARGIN_BYTES = 256 << 10
"""SeaBIOS takes a page more for each of its threads, and how many there are at once depends on how fast they are."""
_GENERATION = slice(8, 16)
_SEED = slice(16, 24)


def firmware_scratch(ram: SharedRam, layout: RamLayout, description: GuestDescription) -> GpaRange | None:
    """Where firmware worked in what it then gave away as free: what of managed memory is not zero in a first boot.

    To be asked before the guest fills its memory. SeaBIOS runs from such memory while it initialises, right below the
    room for its tables (``malloc_preinit``, ZoneTmpHigh), and does so again in every boot. None where there is none.

    Raises PreconditionError when it is too much to be that.
    """
    pages = np.frombuffer(ram.view, dtype=np.uint64, count=ram.size_bytes // 8).reshape(-1, PAGE_SIZE // 8)
    touched = []
    for start, end in ram.data_extents():
        first, last = start >> PAGE_SHIFT, (end + PAGE_SIZE - 1) >> PAGE_SHIFT
        written = np.flatnonzero(pages[first:last].any(axis=1)) + first
        touched += [layout.ram_to_gpa(int(page) << PAGE_SHIFT) for page in written]
    found = [gpa for gpa in touched if any(span.start <= gpa < span.end for span in description.managed)]
    if not found:
        return None
    lowest = min(found)
    home = next(span for span in description.managed if span.start <= lowest < span.end)
    # It allocates from the top down (run_thread in src/stacks.c, memalign_tmphigh).
    scratch = GpaRange(max(home.start, lowest - _MARGIN_BYTES), max(found) + PAGE_SIZE)
    if scratch.size_bytes > _MOST_BYTES:
        raise PreconditionError(f"memory that should be untouched is not, in {scratch}", hint="has it been filled?")
    return scratch


def wrong_lines(
    damages: Iterable[PageDamage], ram: SharedRam, layout: RamLayout, *, private_seed: int
) -> tuple[WrongLine, ...]:
    """Every wrong line of damaged pages, as they still lie in memory. Each damage tells what its first line should be.

    *private_seed* is that of the pattern of pages that are not shared.
    """
    return tuple(line for damage in damages if damage.expected for line in _lines_of(damage, ram, layout, private_seed))


def _lines_of(damage: PageDamage, ram: SharedRam, layout: RamLayout, private_seed: int) -> list[WrongLine]:
    generation = int.from_bytes(damage.expected[_GENERATION], "little")
    seed = int.from_bytes(damage.expected[_SEED], "little")
    start = layout.gpa_to_ram(damage.gpa)
    found, expected = bytes(ram.view[start : start + PAGE_SIZE]), page_bytes(damage.gpa, generation, seed)
    places = (slice(line * LINE_SIZE, (line + 1) * LINE_SIZE) for line in range(LINES_PER_PAGE))
    return [
        WrongLine(
            gpa=damage.gpa + place.start,
            ram_addr=start + place.start,
            expected=expected[place],
            found=found[place],
            is_shared=seed == private_seed ^ SHARED_SEED,
        )
        for place in places
        if found[place] != expected[place]
    ]
