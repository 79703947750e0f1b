"""Ring-buffer mode of Hygon CSV: many SEND_UPDATE_DATA or RECEIVE_UPDATE_DATA in one command.

QEMU of the series collects up to 4094 pages; the kernel splits such a window into two firmware queues, the first 2047
pages at high and the rest at low priority. What firmware does when a page in the middle fails is not verified; here the
pages before it are done, it and those behind it are not, and the status is that of the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.confidential.soft.processor.packets import Bytes, Packet, PacketRun, Places
from harness.confidential.soft.processor.processor import SecureProcessor
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus

WINDOW_PAGES = 4094
HIGH_PRIORITY_PAGES = 2047


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnd:
    """How a batch ended."""

    done: int
    """Pages that went through, from the first on."""
    refusal: CommandRefusedError | None = None
    """Of the page at index *done*."""


def windows(pages: int) -> Iterator[range]:
    """Indexes of *pages* pages, window by window."""
    return (range(start, min(start + WINDOW_PAGES, pages)) for start in range(0, pages, WINDOW_PAGES))


def queues(window: range) -> tuple[range, range]:
    """The high-priority and the low-priority part of *window*; the second is empty for a short one."""
    return window[:HIGH_PRIORITY_PAGES], window[HIGH_PRIORITY_PAGES:]


def send_batch(
    processor: SecureProcessor, handle: int, pages: Sequence[tuple[int, bytes]]
) -> tuple[list[Packet], BatchEnd]:
    """Packets of (ram_page, content) *pages*, in order, up to the first that is refused.

    Raises CommandRefusedError INVALID_LENGTH for none and for more than a window.
    """
    _check_window(len(pages))
    packets: list[Packet] = []
    for ram_page, content in pages:
        try:
            packets.append(processor.send_update_data(handle, ram_page, content))
        except CommandRefusedError as refusal:
            return packets, BatchEnd(done=len(packets), refusal=refusal)
    return packets, BatchEnd(done=len(packets))


def receive_batch(
    processor: SecureProcessor, handle: int, packets: Sequence[tuple[int, Packet]]
) -> tuple[list[bytes], BatchEnd]:
    """Page contents of (ram_page, packet) *packets*, in order, up to the first refused. Errors as send_batch."""
    _check_window(len(packets))
    contents: list[bytes] = []
    for ram_page, packet in packets:
        try:
            contents.append(processor.receive_update_data(handle, ram_page, packet))
        except CommandRefusedError as refusal:
            return contents, BatchEnd(done=len(contents), refusal=refusal)
    return contents, BatchEnd(done=len(contents))


def send_run(
    processor: SecureProcessor, handle: int, ram_pages: Places, pages: bytes | memoryview | Bytes
) -> PacketRun:
    """As :func:`send_batch` with arrays: all or none, for what refuses one page of a guest refuses all."""
    _check_window(len(ram_pages))
    return processor.send_update_run(handle, ram_pages, pages)


def receive_run(
    processor: SecureProcessor, handle: int, ram_pages: Places, packets: PacketRun
) -> tuple[Bytes, BatchEnd]:
    """As :func:`receive_batch` with arrays."""
    _check_window(len(ram_pages))
    pages, refusal = processor.receive_update_run(handle, ram_pages, packets)
    return pages, BatchEnd(done=len(pages), refusal=refusal)


def _check_window(pages: int) -> None:
    if not 1 <= pages <= WINDOW_PAGES:
        raise CommandRefusedError(FirmwareStatus.INVALID_LENGTH, f"a batch of {pages} pages, 1 to {WINDOW_PAGES} fit")
