"""Geometry of the session's sequence diagram: five lanes, one arrow per command or per kind of record on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from harness.confidential.soft.processor.status import status_words
from harness.model.drawings import Actor, SequenceStep, SessionSequence
from harness.report.figures import number, one_line
from harness.report.plot import WIDTH

BOX_WIDTH = 150
BOX_HEIGHT = 24
_LANES = {actor: round(90 + index * (WIDTH - 180) / 4, 1) for index, actor in enumerate(Actor)}
_TOP = BOX_HEIGHT + 30
_PITCH = 30
_NOTE_MAX = 96
_HEAD = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """One step."""

    y: int
    x1: float
    x2: float
    head: str
    """Path of the arrow's head."""
    label: str
    label_x: float
    tone: str
    """``asked``, ``crossing``, ``refused``, or ``denied`` where refusing is right."""
    title: str
    note: str
    """Of a refusal: the firmware's word and reason behind a mark; empty otherwise."""
    note_x: float
    note_anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """One attempt."""

    title: str
    end: str
    is_good: bool
    height: int
    bottom: int
    lanes: tuple[tuple[str, float], ...]
    arrows: tuple[Arrow, ...]
    wire_x: float
    left_out: int


def draw_sequence(session: SessionSequence) -> Sequence:
    """The drawing of *session*."""
    arrows = tuple(_arrow(step, _TOP + _PITCH * index) for index, step in enumerate(session.steps))
    bottom = _TOP + _PITCH * len(arrows) + (0 if arrows else 8)
    return Sequence(
        title=session.title,
        end=session.end,
        is_good=session.end == "completed",
        height=bottom + 30,
        bottom=bottom,
        lanes=tuple((actor.value, x) for actor, x in _LANES.items()),
        arrows=arrows,
        wire_x=_LANES[Actor.WIRE],
        left_out=session.steps_left_out,
    )


def _arrow(step: SequenceStep, y: int) -> Arrow:
    start, end = _LANES[step.sender], _LANES[step.receiver]
    direction = 1 if end > start else -1
    is_refused = step.status != 0
    is_right = is_refused and step.must_fail
    crosses = min(start, end) < _LANES[Actor.WIRE] < max(start, end)
    label = step.label if step.count == 1 else f"{step.label} \u00d7 {number(step.count)}"
    # What a processor said stands on the other side of its host's lane, where there is room.
    is_left = start < _LANES[Actor.WIRE]
    words = one_line(f"{status_words(step.status)}: {step.detail}" if step.detail else status_words(step.status))
    return Arrow(
        y=y,
        x1=start,
        x2=end - direction * _HEAD,
        head=f"M{end} {y}l{-direction * _HEAD} -4v8z",
        label=label,
        label_x=(start + end) / 2,
        tone="denied" if is_right else "refused" if is_refused else "crossing" if crosses else "asked",
        title=f"{step.sender} to {step.receiver}: {label}; {words}" if not crosses else f"{label}, over the wire",
        note=_note(words, is_right=is_right) if is_refused else "",
        note_x=start + 10 if is_left else start - 10,
        note_anchor="start" if is_left else "end",
    )


def _note(words: str, *, is_right: bool) -> str:
    text = f"✓ denied, the guest was sent: {words}" if is_right else f"✗ {words}"
    return text if len(text) <= _NOTE_MAX else f"{text[: _NOTE_MAX - 1]}…"
