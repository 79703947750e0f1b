"""strace's lines about ioctl, read as they come: who, when, which number, what came of it.

Of ``strace -f -ttt -e trace=ioctl -e raw=ioctl -o FILE``: each line begins with a thread id and a time. A call that is
interrupted in the log by another thread's has two lines (``<unfinished ...>``, ``<... ioctl resumed>``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from harness.model.reset import IoctlCall

_MOST_BYTES = 4096
"""No line about an ioctl with raw arguments is longer."""

_LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
_CALL = re.compile(r"ioctl\((\w+), (\w+)(?:, \w+)?\s*(.*)")
_RESULT = re.compile(r"\)\s*= (\?|-?\w+)(?: (\w+))?")
_RESUMED = re.compile(r"<\.\.\. ioctl resumed>.*?(\).*)")
_END = re.compile(r"\+\+\+ (exited with \d+|killed by \w+)")
_QUIET = ("---", "<...", "+++", "strace:", "???", "restart_syscall(")


class StraceParser:
    """Of one strace. Give it what comes, in pieces of any size."""

    def __init__(self, wanted: Collection[int]) -> None:
        self.calls: list[IoctlCall] = []
        """Calls with one of the *wanted* numbers, in the order in which they were entered."""
        self.others = 0
        self.unread = 0
        self.ends: dict[int, str] = {}
        """How threads ended, e.g. ``killed by SIGKILL``."""
        self._wanted = frozenset(wanted)
        self._open: dict[int, int] = {}
        """Place in *calls* of what a thread has begun."""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More of strace's output."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="replace"))
        if len(self._rest) > _MOST_BYTES:
            self.unread += 1
            self._rest = self._rest[-_MOST_BYTES:]

    def finish(self) -> None:
        """Nothing more comes."""
        if self._rest:
            self._take(self._rest.decode(errors="replace"))
        self._rest = b""

    def _take(self, line: str) -> None:
        match = _LINE.match(line)
        if match is None:
            self.unread += bool(line)
            return
        thread, at_s, what = int(match[1]), float(match[2]), match[3]
        call, resumed, end = _CALL.match(what), _RESUMED.match(what), _END.match(what)
        if call:
            self._entered(thread, at_s, call)
        elif resumed:
            self._returned(thread, resumed[1])
        elif end:
            self.ends[thread] = end[1]
            self._open.pop(thread, None)
        elif not what.startswith(_QUIET):
            self.unread += 1

    def _entered(self, thread: int, at_s: float, call: re.Match[str]) -> None:
        try:
            fd, request = int(call[1], 0), int(call[2], 0)
        except ValueError:
            self.unread += 1
            return
        if request not in self._wanted:
            self.others += 1
            return
        self._open[thread] = len(self.calls)
        self.calls.append(IoctlCall(at_s=at_s, thread=thread, fd=fd, request=request, result=None))
        self._returned(thread, call[3])

    def _returned(self, thread: int, rest: str) -> None:
        match = _RESULT.match(rest)
        if match is None or thread not in self._open:
            return
        place = self._open.pop(thread)
        if match[1] != "?":
            result = int(match[1], 0)
            self.calls[place] = replace(self.calls[place], result=result, error=(match[2] or "") if result < 0 else "")
