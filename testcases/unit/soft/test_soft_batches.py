"""Ring-buffer windows with their edges, and how fast a real processor would be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.confidential.soft.processor.ring_buffer import WINDOW_PAGES, queues, receive_batch, send_batch, windows
from harness.confidential.soft.processor.status import FirmwareStatus
from harness.confidential.soft.processor.timing import AMD_SINGLE, ProcessorSpeed

from .conftest import PAGE, Refuse, World

PROPERTY = settings(deadline=None, derandomize=True)
"""The same examples in every run, and no clock decides."""


@PROPERTY
@given(st.integers(0, 3 * WINDOW_PAGES))
def test_windows_cover_every_page_once(pages: int) -> None:
    cut = list(windows(pages))
    assert [index for window in cut for index in window] == list(range(pages))
    assert all(len(window) == WINDOW_PAGES for window in cut[:-1])
    assert all(window for window in cut)


@pytest.mark.parametrize(
    ("pages", "high", "low"),
    [(1, 1, 0), (2, 2, 0), (2046, 2046, 0), (2047, 2047, 0), (2048, 2047, 1), (4093, 2047, 2046), (4094, 2047, 2047)],
)
def test_a_window_is_split_after_2047_pages(pages: int, high: int, low: int) -> None:
    (window,) = windows(pages)
    assert [len(part) for part in queues(window)] == [high, low]
    assert [*queues(window)[0], *queues(window)[1]] == list(window)


def test_one_page_more_than_a_window_is_a_second_window() -> None:
    assert [len(window) for window in windows(4095)] == [4094, 1]


@pytest.mark.parametrize("pages", [1, 2, 2047, 4094])
def test_a_batch_is_the_same_as_its_pages_one_by_one(world: World, pages: int) -> None:
    source, destination = world.platform(), world.platform()
    handle = world.running(source)
    arriving = destination.receive_start(source.send_start(handle, destination.export_certificates()))
    destination.activate(arriving, 1)
    packets, end = send_batch(source, handle, [(page, PAGE) for page in range(pages)])
    assert (end.done, end.refusal) == (pages, None)
    contents, end = receive_batch(destination, arriving, list(enumerate(packets)))
    assert (end.done, end.refusal) == (pages, None)
    assert all(content == PAGE for content in contents)
    assert source.send_update_data(handle, 0, PAGE).sequence == pages


def test_b33_a_page_that_fails_in_the_middle_ends_the_batch_there(world: World) -> None:
    source, destination = world.platform(), world.platform()
    handle = world.running(source)
    arriving = destination.receive_start(source.send_start(handle, destination.export_certificates()))
    destination.activate(arriving, 1)
    packets, end = send_batch(source, handle, [(0, PAGE), (1, PAGE), (2, b"short"), (3, PAGE)])
    assert (len(packets), end.done) == (2, 2)
    assert end.refusal
    assert end.refusal.status == FirmwareStatus.INVALID_LENGTH
    packets += [source.send_update_data(handle, page, PAGE) for page in (2, 3)]
    contents, end = receive_batch(destination, arriving, [(0, packets[0]), (7, packets[1]), (2, packets[2])])
    assert (len(contents), end.done) == (1, 1)
    assert end.refusal
    assert end.refusal.status == FirmwareStatus.BAD_MEASUREMENT
    contents, end = receive_batch(destination, arriving, list(enumerate(packets))[1:])
    assert (len(contents), end.refusal) == (3, None)


def test_no_batch_is_empty_or_larger_than_the_window(world: World, refuses: Refuse) -> None:
    source, there = world.platform(), world.platform()
    handle = world.sending(source, there.export_certificates())
    for pages in ([], [(0, PAGE)] * 4095):
        refuses(FirmwareStatus.INVALID_LENGTH, send_batch, source, handle, pages)
    refuses(FirmwareStatus.INVALID_LENGTH, receive_batch, there, 1, [])


def test_the_amd_figure_is_within_what_was_reported() -> None:
    assert 350 <= AMD_SINGLE.pages_per_s(batched=False) <= 450


@PROPERTY
@given(st.integers(1, 100_000), st.floats(0, 5000), st.floats(1, 5000))
def test_a_batch_never_takes_longer(pages: int, command_us: float, page_us: float) -> None:
    speed = ProcessorSpeed(command_us=command_us, page_us=page_us)
    assert speed.batched_s(pages) <= speed.single_s(pages) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("dirty_pages_per_s", "downtime_limit_s", "pages", "batched", "converges"),
    [
        (100, 0.3, 65536, False, True),
        (500, 0.3, 65536, False, False),
        (500, 0.3, 65536, True, True),
        (500, 0.3, 100, False, True),
        (20000, 0.3, 65536, True, False),
    ],
)
def test_b34_whether_a_precopy_can_end(
    dirty_pages_per_s: float, downtime_limit_s: float, pages: int, batched: bool, converges: bool
) -> None:
    found = AMD_SINGLE.can_converge(
        dirty_pages_per_s=dirty_pages_per_s, downtime_limit_s=downtime_limit_s, pages=pages, batched=batched
    )
    assert found == converges
