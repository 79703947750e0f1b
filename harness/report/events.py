"""The event log of a case: JSON lines on disk, and subscribers (the terminal) in memory.

One line is ``{"t": 1.234, "who": "src", "what": "STOP", ...}``: seconds since the case began on the monotonic clock,
who says it, what happened, and whatever belongs to it. Each line reaches the kernel before :meth:`EventLog.emit`
returns, so a killed harness leaves everything up to its last moment.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

from harness.report.losses import Losses, error_of

# The words that the terminal understands. Everything else is written to the log and shown nowhere else.
CASE = "case"
"""A case begins: ``case`` (its id), ``number`` and ``of``."""
STEP = "step"
"""The story goes on: ``name`` (boot, fill, migrate, verify, ...)."""
SAMPLE = "sample"
"""One query-migrate: the members of :class:`harness.model.timeline.Sample`, and ``total_bytes`` when it is known."""
VERDICT = "verdict"
"""A case has ended: ``case``, ``verdict``, ``reason``, ``total_s``, ``downtime_ms``."""

RESERVED = frozenset({"t", "who", "what"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    *data* must not use the names ``t``, ``who`` and ``what``: ValueError.
    """

    t_s: float
    """Seconds since the case began, monotonic."""
    who: str
    """``harness``, ``src``, ``dst``, ``guest``, ``wire`` ..."""
    what: str
    """QEMU's own name for its events (STOP, RESUME), a short word for ours."""
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if clash := RESERVED & self.data.keys():
            raise ValueError(f"an event's data cannot be called {', '.join(sorted(clash))}")

    def as_line(self) -> str:
        """One line of JSON without its end. Values that JSON lacks are written as text."""
        return json.dumps({"t": round(self.t_s, 6), "who": self.who, "what": self.what, **plain(self.data)})


Subscriber = Callable[[Event], None]


def plain(value: Any) -> Any:
    """*value* in JSON's types: mappings, lists, finite numbers, strings, booleans, None; anything else as text.

    What is not finite becomes text too ("inf", "nan"): JSON has no such number, and float() reads it back.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(member) for member in value]
    return _scalar(value)


def _scalar(value: Any) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool):
        return value
    # The abstract numbers, because counts and rates often come out of numpy, whose scalars are none to json.
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value)


class EventLog:
    """Writes events and passes them on. May be used from several threads.

    Trouble with the file or with a subscriber's terminal is noted once in *losses* and never raised. Later events are
    tried again: a disk that was full for a moment costs the lines of that moment only.
    """

    def __init__(self, path: Path | None, losses: Losses, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._losses = losses
        self._clock = clock
        self._began_s = clock()
        self._lock = threading.Lock()
        self._subscribers: list[Subscriber] = []
        self._name = path.name if path else ""
        self._torn = False
        self.missing = 0
        """How many events are not in the file."""
        self._fd = self._open(path) if path else -1

    def _open(self, path: Path) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._losses.note(self._name, error)
            return -1

    @property
    def now_s(self) -> float:
        """Seconds since the case began."""
        return self._clock() - self._began_s

    def emit(self, who: str, what: str, /, **data: Any) -> Event:
        """Write one event and tell every subscriber."""
        event = Event(t_s=self.now_s, who=who, what=what, data=data)
        with self._lock:
            self._write(event.as_line())
            for subscriber in tuple(self._subscribers):
                self._tell(subscriber, event)
        return event

    def _write(self, line: str) -> None:
        if self._fd < 0:
            self.missing += 1
            return
        try:
            self._append(line.encode() + b"\n")
        except OSError as error:
            self.missing += 1
            self._losses.note(self._name, error)

    def _append(self, text: bytes) -> None:
        text = b"\n" + text if self._torn else text
        written = os.write(self._fd, text)
        self._torn = written < len(text)
        if self._torn:
            raise error_of(errno.ENOSPC)

    def _tell(self, subscriber: Subscriber, event: Event) -> None:
        try:
            subscriber(event)
        except OSError as error:
            self._subscribers.remove(subscriber)
            self._losses.note("progress on the terminal", error)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call *subscriber* with every event from now on; one whose terminal is gone (OSError) is dropped."""
        with self._lock:
            self._subscribers.append(subscriber)

    def close(self) -> None:
        """Close the file. Later events reach subscribers only. Safe to call twice."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_events(path: Path) -> tuple[tuple[Event, ...], int]:
    """The events of a file, and how many lines of it are none (the torn end of a killed or disk-full run).

    OSError when the file cannot be read.
    """
    events: list[Event] = []
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for line in lines:
        event = _parse(line)
        if event is not None:
            events.append(event)
    return tuple(events), len(lines) - len(events)


def _parse(line: str) -> Event | None:
    try:
        members = json.loads(line)
        rest = {name: value for name, value in members.items() if name not in RESERVED}
        return Event(t_s=float(members["t"]), who=str(members["who"]), what=str(members["what"]), data=rest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
