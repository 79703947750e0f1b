"""Progress on a terminal: one live line for people, plain single lines for logs, never both.

Everything goes to one stream, stderr; stdout belongs to ``--json``. Text that QEMU or a guest wrote is stripped of
control characters first.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TextIO

from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from harness.report import events
from harness.report.events import Event
from harness.report.figures import number, one_line, size
from harness.report.summary import paint, summary_lines

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

_BAR_CELLS = 20


def is_live(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """True when *stream* is a terminal that can redraw a line."""
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb" and not environ.get("CI")


def has_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """True on a terminal, unless NO_COLOR (https://no-color.org) is set and not empty."""
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb" and not environ.get("NO_COLOR")


class Terminal:
    """A subscriber of :class:`harness.report.events.EventLog`, and the place where the summary is printed.

    Use it as a context manager: leaving it removes the live line, whatever happened.
    """

    def __init__(self, stream: TextIO, *, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self._state = _State()
        self._colour = has_colour(stream, environ)
        self._live = _live(stream, self._colour, self._line) if is_live(stream, environ) else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._stop()

    def _stop(self) -> None:
        if self._live:
            self._state.case = ""
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show *event*. OSError when the terminal is gone."""
        self._state.take(event)
        if event.what == events.VERDICT:
            self._say(_verdict_line(event, self._colour))
        elif not self._live and event.what in {events.CASE, events.STEP}:
            self._say(self._state.plain_line(event))

    def _line(self) -> str:
        return self._state.live_line(time.monotonic())

    def _say(self, line: str) -> None:
        if self._live:
            from rich.text import Text  # noqa: PLC0415 - rich takes 100 ms, and only a live terminal needs it

            self._live.console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            self._stream.write(line + "\n")
            self._stream.flush()

    def summary(self, results: Sequence[CaseResult], *, run_dir: str = "") -> None:
        """Print what came out. Ends the live line. A terminal that is gone is no trouble any more."""
        with contextlib.suppress(OSError):
            self._stop()
            self._live = None
            for line in summary_lines(results, run_dir=run_dir, colour=self._colour):
                self._say(line)


def _live(stream: TextIO, colour: bool, line: Any) -> Live:
    from rich.console import Console  # noqa: PLC0415 - see _say
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def draw() -> Text:
        return Text(line(), no_wrap=True, overflow="ellipsis")

    console = Console(file=stream, force_terminal=True, no_color=not colour, highlight=False)
    return Live(get_renderable=draw, console=console, transient=True, refresh_per_second=8, redirect_stdout=False)


@dataclass(slots=True)
class _State:
    """What the live line shows: the case that runs now and its last sample."""

    case: str = ""
    count: str = ""
    step: str = ""
    began_s: float = 0.0
    sample: Mapping[str, Any] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        data = event.data
        match event.what:
            case events.CASE:
                self.case, self.step, self.sample = one_line(str(data.get("case", ""))), "", {}
                self.count = f"{data['number']}/{data['of']}" if data.get("of", 1) != 1 else ""
                self.began_s = time.monotonic()
            case events.STEP:
                self.step, self.sample = one_line(str(data.get("name", ""))), {}
            case events.SAMPLE:
                self.sample = data
            case events.VERDICT:
                self.case = ""
            case what if what.isupper() or " " in what or event.who != "harness":
                self.step = one_line(f"{event.who} {what}")

    def live_line(self, now_s: float) -> str:
        if not self.case:
            return ""
        parts = [self.count, self.case, self.step, *_sample_parts(self.sample), f"{now_s - self.began_s:.1f} s"]
        return "  ".join(part for part in parts if part)

    def plain_line(self, event: Event) -> str:
        parts = [f"[{event.t_s:6.2f} s]", self.count, self.case, self.step or "begins"]
        return " ".join(part for part in parts if part)


def _sample_parts(sample: Mapping[str, Any]) -> list[str]:
    if not sample:
        return []
    remaining = sample.get("remaining_bytes", 0)
    parts = [f"{size(remaining)} left", f"{number(sample.get('dirty_pages_per_s', 0))} dirty pages/s"]
    if total := sample.get("total_bytes"):
        parts.insert(0, _bar(1.0 - remaining / total))
    if sync := sample.get("dirty_sync_count"):
        parts.append(f"pass {sync}")
    return [str(sample.get("status", "")), *parts]


def _bar(share: float) -> str:
    share = min(1.0, max(0.0, share))
    full = round(share * _BAR_CELLS)
    return f"{'━' * full}{'╌' * (_BAR_CELLS - full)} {share:4.0%}"


def _verdict_line(event: Event, colour: bool) -> str:
    data = event.data
    verdict = Verdict(data["verdict"])
    parts = [paint(verdict, colour), one_line(str(data.get("case", "")))]
    if (total_s := data.get("total_s")) is not None:
        parts.append(f"{total_s:.2f} s")
    if (downtime_ms := data.get("downtime_ms")) is not None:
        parts.append(f"downtime {number(downtime_ms)} ms")
    if verdict is not Verdict.PASS:
        parts.append(one_line(str(data.get("reason", ""))))
    return "  ".join(parts)
