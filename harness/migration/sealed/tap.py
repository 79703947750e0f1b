"""What an observer of the wire between two hosts can count, and whether he reads anything of a private page.

A line that the guest wrote through a private mapping carries the pattern under the guest's own seed; what it wrote
through a shared one carries another seed (images/probe/PROTOCOL.md).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.guest.lines import lines_of
from harness.migration.sealed.page_buffers import contents_of, ram_pages_of
from harness.migration.sealed.records import CpuStatePart, SealedPages, SharedListPart, Subtype, VcpuPacket
from harness.migration.stream import elements
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import Element, Eof, RamBlock, RamBlockList, Tail
from harness.model.errors import StreamError
from harness.model.memory import LINE_SIZE, PAGE_SHIFT, PAGE_SIZE, GpaRange, coalesce
from harness.model.page_set import PageSet
from harness.model.protection import BlockKinds, SealedRecords
from harness.vm.commandline import RAM_ID

UNSENT, PLAIN, SEALED = range(3)
"""Kinds of the last record of a page."""

MAX_RANGES = 64
_SEED_AT = 16
"""Offset of the seed in a line."""
_ORDER_LIMIT = 64
_MIXED = {"start", "page", "plain"}
_SEALED_REGISTERS = (
    "env.regs[[]*",
    "env.eip",
    "env.eflags",
    "env.cr[[]2]",
    "env.cr[[]3]",
    "env.xmm*",
    "env.fpregs[[]*",
)
"""Fields of the vmstate of a vCPU that must never be readable: a few that every guest uses, named here independently
of what the sealer takes out."""

Kinds = NDArray[np.uint8]


class Tap:
    """Feed it every element between the hosts; read it at any time."""

    def __init__(self, *, private_seed: int | None = None, is_es: bool = False, main: str = RAM_ID) -> None:
        """*private_seed* is the pattern's seed of private pages; without one nothing is looked for.

        *is_es*: the guest's registers are to be encrypted, whether or not any packet brings some.
        """
        self._seed, self._is_es = private_seed, is_es
        self._main = main
        self._kinds: Kinds = np.zeros(0, dtype=np.uint8)
        self._was_sealed = np.zeros(0, dtype=np.bool_)
        self._others: dict[str, Kinds] = {}
        self._unended = 0
        self._tail: Tail | None = None
        self._starts = self._pages = self._plain_pages = self._lists = self._batch = 0
        self._batches: list[int] = []
        self._vcpus: list[int] = []
        self._order: list[str] = []
        self._clear: set[int] = set()
        self._clear_records = 0

    def add(self, element: Element) -> None:
        """Take one element."""
        match element:
            case RamBlockList():
                main = next((block for block in element.blocks if block.name == self._main), None)
                self._kinds = np.zeros(_pages(main) if main else 0, dtype=np.uint8)
                self._was_sealed = np.zeros(len(self._kinds), dtype=np.bool_)
                others = (block for block in element.blocks if block.name != self._main)
                self._others = {block.name: np.zeros(_pages(block), dtype=np.uint8) for block in others}
            case SealedPages():
                self._sealed(element)
            case elements.RamPages() if element.block == self._main:
                self._plain(element)
            case elements.RamPages():
                self._others[element.block][ram_pages_of(element)] = PLAIN
            case SharedListPart(data=b""):
                self._lists += 1
                self._note("list")
            case CpuStatePart():
                self._note("cpu")
                self._vcpus += [entry.vcpu for entry in element.entries if isinstance(entry, VcpuPacket)]
            case Tail():
                self._note("end")
                self._tail = element if self._vcpus or self._is_es else None
            case Eof():
                self._note("end")

    def kinds(self) -> Kinds:
        """Kind of the last record of each page of main memory: UNSENT, PLAIN or SEALED. A copy."""
        return self._kinds.copy()

    def records(self, unknown_flags: tuple[int, ...] = ()) -> SealedRecords:
        """What was counted; *unknown_flags* is what the parser stumbled over."""
        sealed = np.flatnonzero(self._was_sealed).astype(np.uint64)
        return SealedRecords(
            starts=self._starts,
            pages=self._pages,
            plain_pages=self._plain_pages,
            batches=tuple(self._batches),
            lists=self._lists,
            vcpu_packets=tuple(self._vcpus),
            order=tuple(self._order),
            unknown_flags=unknown_flags,
            clear_private_pages=self._clear_records,
            clear_private_ranges=coalesce(self._clear)[:MAX_RANGES],
            # Looked for when somebody asks: while the tail passes, the VM stands still.
            clear_registers=_clear_registers(self._tail) if self._tail else (),
            unended_batches=self._unended + bool(self._batch),
            packet_pages=PageSet.from_bounds(sealed, sealed + np.uint64(1)),
            blocks=tuple(_block_kinds(name, kinds) for name, kinds in self._others.items() if kinds.any()),
        )

    def _sealed(self, pages: SealedPages) -> None:
        if pages.session is not None:
            self._starts += 1
            self._note("start")
        self._note("page")
        self._pages += len(pages.ram_addrs)
        if pages.block == self._main:
            self._kinds[pages.ram_addrs >> np.uint64(PAGE_SHIFT)] = SEALED
            self._was_sealed[pages.ram_addrs >> np.uint64(PAGE_SHIFT)] = True
        else:
            self._others[pages.block][pages.ram_addrs >> np.uint64(PAGE_SHIFT)] = SEALED
        if pages.subtype is Subtype.PAGE:
            self._unended += bool(self._batch)
            self._batch = 0
            return
        self._batch += len(pages.ram_addrs)
        if pages.subtype is Subtype.BATCH_END:
            self._batches.append(self._batch)
            self._batch = 0

    def _plain(self, pages: elements.RamPages) -> None:
        self._note("plain")
        self._plain_pages += len(pages)
        self._kinds[ram_pages_of(pages)] = PLAIN
        if self._seed is None:
            return
        contents = np.empty((len(pages), PAGE_SIZE), dtype=np.uint8)
        contents_of(pages, contents)
        lines = contents.view("<u8").reshape(-1, LINE_SIZE // 8)
        found = lines[lines[:, _SEED_AT // 8] == np.uint64(self._seed)]
        genuine = found[(found == lines_of(found[:, 0], found[:, 1], self._seed)).all(axis=1)] if len(found) else found
        if len(genuine):
            gpas = {int(gpa) & -PAGE_SIZE for gpa in genuine[:, 0]}
            self._clear_records += len(gpas)
            self._clear |= gpas

    def _note(self, what: str) -> None:
        """Pages of both kinds take turns all the time: of neighbours each kind is noted once."""
        mixed = takewhile(lambda item: item in _MIXED, reversed(self._order)) if what in _MIXED else self._order[-1:]
        if what not in mixed and len(self._order) < _ORDER_LIMIT:
            self._order.append(what)


def _pages(block: RamBlock) -> int:
    return -(-block.used_bytes // PAGE_SIZE)


def _block_kinds(name: str, kinds: Kinds) -> BlockKinds:
    packets, plain = (int((kinds == kind).sum()) for kind in (SEALED, PLAIN))
    return BlockKinds(block=name, packet_pages=packets, plain_pages=plain)


def _clear_registers(tail: Tail) -> tuple[str, ...]:
    """Fields of the cpu sections that an ES guest's VMSA carries, as far as there is a value in them."""
    if tail.description_at is None:
        return ()
    try:
        devices = decode_tail(tail).devices
    except StreamError:
        # Whoever loads these sections says so.
        return ()
    return tuple(
        f"{device.label} {field.path}"
        for device in devices
        if device.name == "cpu"
        for field in device.fields
        if any(fnmatchcase(field.path, glob) for glob in _SEALED_REGISTERS) and any(field.raw)
    )[:MAX_RANGES]


def clear_lines(capture: Path, private_seed: int, *, limit: int = 1 << 16) -> tuple[GpaRange, ...]:
    """Pages of which a recorded wire shows a line of the private pattern, at whatever byte offset it stands.

    At most *limit* lines are looked at. Raises OSError when the file cannot be read.
    """
    with capture.open("rb") as file:
        if not capture.stat().st_size:
            return ()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return coalesce(_pages_of_lines(data, private_seed, limit))


def _pages_of_lines(data: mmap.mmap, seed: int, limit: int) -> Iterator[int]:
    needle, at = seed.to_bytes(8, "little"), -1
    for _ in range(limit):
        at = data.find(needle, at + 1)
        if at < 0:
            return
        line = data[max(at - _SEED_AT, 0) : at - _SEED_AT + LINE_SIZE]
        if len(line) == LINE_SIZE:
            words = np.frombuffer(line, dtype="<u8")
            if np.array_equal(words, lines_of(words[0], words[1], seed)[0]):
                yield int(words[0]) & -PAGE_SIZE
