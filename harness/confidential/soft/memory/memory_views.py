"""Guest memory through the host's eyes.

QEMU's memory holds what the guest sees. Where the guest's tables and the host's list disagree, the host would see, or
hand over, something else: it is computed here, and only for pages on which the guest's tables are clear.

What is in a stream may be older than the tables: a page may have been converted since QEMU read it. Its old content
then never goes out in clear, and the page is noted as unsure: with the VM stopped it has to be sent once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.memory.conversions import Unfinished
from harness.confidential.soft.memory.guest_tables import View, Views
from harness.confidential.soft.processor.memory_encryption import MemoryCipher
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]
Flags = NDArray[np.bool_]

_PAGES_AT_ONCE = 1024


class MemoryViews:
    """Of one VM. One caller at a time."""

    def __init__(self, ram: Contents, look: Callable[[Pages], Views]) -> None:
        """*look* is what the guest's tables say."""
        self._ram, self._look = pages_of(ram), look
        self._unsure: set[int] = set()

    def forget(self) -> None:
        """A new attempt begins."""
        self._unsure.clear()

    def unsure(self) -> Pages:
        """Pages whose latest record may not be what is right now, ascending."""
        return np.array(sorted(self._unsure), dtype=np.uint64)

    def to_seal(self, ram_pages: Pages, contents: Contents, cipher: Callable[[], MemoryCipher]) -> Contents:
        """What SEND_UPDATE_DATA reads: it decrypts, so a page that the guest wrote as shared becomes garbage."""
        is_wrong = self._look(ram_pages) == View.SHARED
        self._note(ram_pages, is_wrong)
        if not is_wrong.any():
            return contents
        changed = contents.copy()
        changed[is_wrong] = decrypted(cipher(), ram_pages[is_wrong], contents[is_wrong])
        return changed

    def in_clear(
        self,
        ram_pages: Pages,
        contents: Contents,
        cipher: Callable[[], MemoryCipher],
        unfinished: Iterable[Unfinished] = (),
    ) -> Contents:
        """What the host reads without a command: ciphertext where the guest writes as private."""
        unfinished = tuple(unfinished)
        is_private = self._look(ram_pages) == View.PRIVATE
        is_old = (contents != self._ram[ram_pages.astype(np.int64)]).any(axis=1)
        hides = is_private | is_old
        amid = [item for item in unfinished if item.touches(ram_pages)]
        self._note(ram_pages, hides)
        if not hides.any() and not amid:
            return contents
        changed = contents.copy()
        changed[hides] = encrypted(cipher(), ram_pages[hides], contents[hides])
        for item in amid:
            self._hide_old_lines(changed, item, ram_pages, contents, ~hides, cipher())
        return changed

    def _hide_old_lines(
        self,
        changed: Contents,
        item: Unfinished,
        ram_pages: Pages,
        contents: Contents,
        is_open: Flags,
        cipher: MemoryCipher,
    ) -> None:
        """Lines that the guest has not written since their page turned shared: as they stand in DRAM, encrypted."""
        rows = np.flatnonzero(is_open & item.holds(ram_pages))
        if not len(rows):
            return
        before = item.before(ram_pages[rows])
        lines = contents[rows].reshape(-1, LINES_PER_PAGE, LINE_SIZE)
        is_old = (lines == before.reshape(lines.shape)).all(axis=2)
        hidden = encrypted(cipher, ram_pages[rows], before).reshape(lines.shape)
        changed[rows] = np.where(is_old[:, :, None], hidden, lines).reshape(-1, PAGE_SIZE)
        self._unsure.update(ram_pages[rows[is_old.any(axis=1)]].tolist())

    def _note(self, ram_pages: Pages, is_unsure: Flags) -> None:
        if self._unsure:
            self._unsure.difference_update(ram_pages[~is_unsure].tolist())
        if is_unsure.any():
            self._unsure.update(ram_pages[is_unsure].tolist())


def pages_of(ram: Contents) -> Contents:
    """The same memory, a row per page."""
    return ram[: len(ram) // PAGE_SIZE * PAGE_SIZE].reshape(-1, PAGE_SIZE)


def encrypted(cipher: MemoryCipher, ram_pages: Pages, contents: Contents) -> Contents:
    """The host's view of what the guest wrote as private."""
    data = np.ascontiguousarray(contents).reshape(-1).data
    return np.frombuffer(cipher.host_view(ram_pages.tolist(), data), dtype=np.uint8).reshape(-1, PAGE_SIZE)


def decrypted(cipher: MemoryCipher, ram_pages: Pages, contents: Contents) -> Contents:
    """What the guest reads through a private mapping where the host left *contents*."""
    data = np.ascontiguousarray(contents).reshape(-1).data
    return np.frombuffer(cipher.guest_view(ram_pages.tolist(), data), dtype=np.uint8).reshape(-1, PAGE_SIZE)


def change_key(ram: Contents, ram_pages: Pages, *, old: MemoryCipher, new: MemoryCipher) -> None:
    """These private pages keep their ciphertext, and the guest reads them by *new* from now on: garbage."""
    content = pages_of(ram)
    for first in range(0, len(ram_pages), _PAGES_AT_ONCE):
        part = ram_pages[first : first + _PAGES_AT_ONCE]
        rows = part.astype(np.int64)
        content[rows] = decrypted(new, part, encrypted(old, part, content[rows]))
