from __future__ import annotations

import json
import resource
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from harness.report.events import Event, EventLog, plain, read_events
from harness.report.losses import Losses


@pytest.fixture
def clock() -> Iterator[float]:
    return (index * 0.5 for index in count())


def test_one_flushed_line_per_event(tmp_path: Path, clock: Iterator[float]) -> None:
    path = tmp_path / "events.jsonl"
    losses = Losses()
    with EventLog(path, losses, clock=lambda: next(clock)) as log:
        log.emit("src", "STOP", runstate="paused")
        assert json.loads(path.read_text()) == {"t": 0.5, "who": "src", "what": "STOP", "runstate": "paused"}
        log.emit("dst", "RESUME")
    events, damaged = read_events(path)
    assert [event.what for event in events] == ["STOP", "RESUME"]
    assert events[0].data == {"runstate": "paused"}
    assert (damaged, bool(losses)) == (0, False)
    assert path.stat().st_mode & 0o077 == 0


def test_an_event_with_an_end_of_line_stays_one_line(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e", Losses()) as log:
        log.emit("guest", "console", text='evil\n{"t":1,"who":"src","what":"forged"}\u2028')
    events, damaged = read_events(tmp_path / "e")
    assert (len(events), damaged) == (1, 0)


def test_values_that_json_lacks_become_text() -> None:
    value = plain(
        {"path": Path("a"), 3: {1}, "n": np.int64(7), "f": float("nan"), "raw": b"\x01\xff", "x": np.float32(0.5)}
    )
    assert value == {"path": "a", "3": [1], "n": 7, "f": "nan", "raw": "01ff", "x": 0.5}


def test_reserved_names_are_refused() -> None:
    with pytest.raises(ValueError, match="who"):
        Event(t_s=0.0, who="src", what="x", data={"who": "dst"})


def test_subscribers_hear_everything_in_order() -> None:
    heard: list[str] = []
    log = EventLog(None, Losses())
    log.subscribe(lambda event: heard.append(event.what))
    log.emit("harness", "one")
    log.emit("harness", "two")
    assert heard == ["one", "two"]


def test_a_subscriber_whose_terminal_is_gone_is_dropped_and_told() -> None:
    losses = Losses()
    log = EventLog(None, losses)

    def gone(_: Event) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    log.subscribe(gone)
    log.emit("harness", "one")
    log.emit("harness", "two")
    assert losses.lines == ("progress on the terminal: Broken pipe",)


def test_a_full_disk_costs_lines_not_the_case() -> None:
    losses = Losses()
    heard: list[str] = []
    with EventLog(Path("/dev/full"), losses) as log:
        log.subscribe(lambda event: heard.append(event.what))
        log.emit("src", "STOP")
        log.emit("src", "RESUME")
        assert log.missing == 2
    assert losses.lines == ("full: No space left on device",)
    assert heard == ["STOP", "RESUME"]


@pytest.fixture
def file_limit() -> Iterator[int]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    yield 100
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path, file_limit: int) -> None:
    path = tmp_path / "events.jsonl"
    losses = Losses()
    with EventLog(path, losses) as log:
        log.emit("src", "fits")
        log.emit("src", "torn", text="x" * file_limit)
        assert path.stat().st_size == file_limit
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        log.emit("src", "again")
    events, damaged = read_events(path)
    assert [event.what for event in events] == ["fits", "again"]
    assert damaged == 1
    assert losses
    assert log.missing == 1


def test_an_unwritable_place_is_a_loss(tmp_path: Path) -> None:
    losses = Losses()
    log = EventLog(tmp_path / "missing" / "events.jsonl", losses)
    log.emit("src", "STOP")
    assert losses.lines == ("events.jsonl: No such file or directory",)


def test_events_after_close_reach_subscribers_only(tmp_path: Path) -> None:
    heard: list[str] = []
    log = EventLog(tmp_path / "e", Losses())
    log.subscribe(lambda event: heard.append(event.what))
    log.close()
    log.close()
    log.emit("src", "late")
    assert heard == ["late"]
    assert (tmp_path / "e").read_text() == ""


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "3", "null", '{"t": "x", "who": 1, "what": 2}', '{"t": 1}', "[" * 100_000]
)
def test_foreign_lines_are_counted_not_raised(tmp_path: Path, line: str) -> None:
    path = tmp_path / "e"
    path.write_text(line + '\n{"t": 1, "who": "a", "what": "b"}\n')
    events, damaged = read_events(path)
    assert len(events) == 1
    assert damaged == (1 if line else 0)


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    with EventLog(tmp_path / "e", Losses()) as log:
        workers = [threading.Thread(target=lambda: [log.emit("src", "x" * 50) for _ in range(50)]) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    events, damaged = read_events(tmp_path / "e")
    assert (len(events), damaged) == (200, 0)
