"""Threads that are lent: used again, named after their work, and never kept by what they did."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from harness.migration.relay.lend import lend


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_a_thread_that_has_served_serves_again() -> None:
    seen: list[int] = []
    for _ in range(3):
        lend(lambda: seen.append(threading.get_ident()), name="mine").result(5)
    assert len(set(seen)) == 1


def test_works_that_last_have_a_thread_each() -> None:
    meet = threading.Barrier(3)
    works = [lend(lambda: str(meet.wait(5)) and None, name="mine") for _ in range(3)]
    for work in works:
        work.result(5)


def test_it_has_its_name_while_it_works() -> None:
    go, during = threading.Event(), threading.Event()

    def body() -> None:
        during.set()
        go.wait(5)

    work = lend(body, name="mine")
    assert during.wait(5)
    assert "mine" in names()
    go.set()
    work.result(5)
    assert "mine" not in names()


def test_whoever_lent_it_is_told_what_it_stumbled_over() -> None:
    def body() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        lend(body, name="mine").result(5)
    lend(lambda: None, name="mine").result(5)


def test_a_thread_at_rest_keeps_nothing_of_its_work() -> None:
    class Work:
        def __call__(self) -> None:
            return

    work = Work()
    kept = weakref.ref(work)
    lend(work, name="mine").result(5)
    del work
    # The thread lets go a moment after it has told the end; its next work begins after that.
    lend(lambda: None, name="mine").result(5)
    gc.collect()
    assert kept() is None
