"""The host's own witness for memory: source and destination, both stopped, compared byte by byte."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.guest.pattern import LEDGER_LOCK, diagnose_page, read_ledger
from harness.model.evidence import BlockComparison
from harness.model.guest import GuestDescription, RamLayout
from harness.model.machine import RAM_IDS
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SHIFT, PAGE_SIZE, Damage, PageDamage, coalesce
from harness.model.page_set import PageSet
from harness.vm.ram import SharedRam
from harness.vm.ram_compare import differing_pages

DIAGNOSED_PAGES = 64
"""Diagnoses are for people; the count of bad pages is always full."""

Lines = NDArray[np.uint8]


def compare_ram(
    source: SharedRam,
    destination: SharedRam,
    guest: GuestDescription,
    layout: RamLayout,
    *,
    seed_of: Callable[[int], int],
    leave_out: PageSet | None = None,
) -> BlockComparison:
    """Compare main memory of two stopped VMs. Blocks for the time of the comparison: call it in a thread.

    A page that differs is diagnosed against the pattern, in the generation that the source's ledger tells, under the
    seed that *seed_of* gives for its RAM page. RAM pages in *leave_out* have no content that means anything.
    """
    pages = differing_pages(source, destination).astype(np.uint64)
    if leave_out:
        pages = pages[~leave_out.holds(pages)]
    ram_addrs = [int(page) << PAGE_SHIFT for page in pages]
    generations = generations_of(source, layout, guest) if ram_addrs else {}
    return BlockComparison(
        block=RAM_IDS[layout.arch],
        source_bytes=source.size_bytes,
        destination_bytes=destination.size_bytes,
        pages_bad=len(ram_addrs),
        ranges=coalesce(map(layout.ram_to_gpa, ram_addrs)),
        damages=tuple(
            damage_of_page(
                _page(source, ram_addr),
                _page(destination, ram_addr),
                gpa=layout.ram_to_gpa(ram_addr),
                generation=generations.get(layout.ram_to_gpa(ram_addr)),
                seed=seed_of(ram_addr >> PAGE_SHIFT),
            )
            for ram_addr in ram_addrs[:DIAGNOSED_PAGES]
        ),
    )


def compare_block(block: str, sent: bytes, held: bytes) -> BlockComparison:
    """Compare a small RAM block: what the source sent, and what the destination holds. Places are ram_addrs."""
    padded = (bytes(-len(sent) % PAGE_SIZE), bytes(-len(held) % PAGE_SIZE))
    left, right = (np.frombuffer(a + b, dtype=np.uint8) for a, b in zip((sent, held), padded, strict=True))
    pages = min(len(left), len(right)) // PAGE_SIZE
    left, right = (side[: pages * PAGE_SIZE].reshape(pages, PAGE_SIZE) for side in (left, right))
    bad = [int(page) for page in np.flatnonzero((left != right).any(axis=1))]
    return BlockComparison(
        block=block,
        source_bytes=len(sent),
        destination_bytes=len(held),
        pages_bad=len(bad),
        ranges=coalesce(page * PAGE_SIZE for page in bad),
        damages=tuple(
            damage_of_page(left[page], right[page], gpa=page * PAGE_SIZE, generation=None, seed=0)
            for page in bad[:DIAGNOSED_PAGES]
        ),
    )


def damage_of_page(sent: Lines, held: Lines, *, gpa: int, generation: int | None, seed: int) -> PageDamage:
    """Tell what happened to a page that is not what it was. *generation* None: it carries no pattern."""
    if generation is not None and (damage := diagnose_page(held.tobytes(), gpa, seed, generation)):
        return damage
    wrong = np.flatnonzero((sent.reshape(LINES_PER_PAGE, -1) != held.reshape(LINES_PER_PAGE, -1)).any(axis=1))
    first = int(wrong[0]) * LINE_SIZE
    return PageDamage(
        gpa=gpa,
        kind=Damage.CHANGED if held.any() else Damage.ZEROED,
        lines=len(wrong),
        first_bad_gpa=gpa + first,
        expected=sent[first : first + LINE_SIZE].tobytes(),
        found=held[first : first + LINE_SIZE].tobytes(),
    )


def _page(ram: SharedRam, ram_addr: int) -> Lines:
    return ram.buffer[ram_addr : ram_addr + PAGE_SIZE]


def generations_of(ram: SharedRam, layout: RamLayout, guest: GuestDescription) -> dict[int, int]:
    """Generation of each managed page by gpa. A few hundred thousand entries at most, and only when pages differ."""
    ledger = read_ledger(ram.view, layout, guest) & np.uint32(LEDGER_LOCK - 1)
    gpas = (gpa for span in guest.managed for gpa in range(span.start, span.end, PAGE_SIZE))
    return dict(zip(gpas, map(int, ledger), strict=True))
