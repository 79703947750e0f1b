"""What happened to a page, told from its content alone. The probe's diagnose.c has the same rules: PROTOCOL.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from harness.guest.lines import Words, lines_of, pages_of
from harness.guest.protocol import damage_detail
from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE, Damage, PageDamage

FEW_LINES = 8
"""Up to so many wrong lines of no page-wide story are LINE."""


class _Content(IntEnum):
    """What a wrong line is. On equal counts the earlier one names the damage."""

    OWN = 0
    """This very line, of another generation."""
    MOVED = 1
    """Another line of this page."""
    OTHER = 2
    """A line of another page."""
    FOREIGN = 3
    """A line of another seed."""
    ZERO = 4
    GARBAGE = 5

    @property
    def is_pattern(self) -> bool:
        return self <= _Content.FOREIGN


_WHOLE = {
    _Content.OTHER: Damage.SWAPPED,
    _Content.FOREIGN: Damage.FOREIGN,
    _Content.ZERO: Damage.ZEROED,
    _Content.GARBAGE: Damage.RANDOM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _BadLine:
    index: int
    content: _Content
    generation: int


def diagnose_page(page: bytes | memoryview, gpa: int, seed: int, generation: int) -> PageDamage | None:
    """The damage of one page of *page* bytes at *gpa* that should hold *generation* of *seed*; None when it does."""
    found = np.frombuffer(page, dtype="<u8").reshape(LINES_PER_PAGE, -1)
    expected = pages_of([gpa], [generation], seed)[0]
    wrong = np.flatnonzero((found != expected).any(axis=1))
    if not wrong.size:
        return None
    bad = _survey(found, wrong, gpa, seed)
    first = bad[0]
    is_bit = len(bad) == 1 and _bits_wrong(found[first.index], expected[first.index]) == 1
    claims = first.content.is_pattern
    return PageDamage(
        gpa=gpa,
        kind=Damage.BIT if is_bit else _judge(bad, generation),
        lines=len(bad),
        first_bad_gpa=gpa + first.index * LINE_SIZE,
        expected=expected[first.index].tobytes(),
        found=found[first.index].tobytes(),
        detail=damage_detail(int(found[first.index, 0]) if claims else 0, gpa, first.generation, generation),
    )


def _bits_wrong(left: Words, right: Words) -> int:
    return sum(int(word).bit_count() for word in left ^ right)


def _survey(found: Words, wrong: np.ndarray, gpa: int, seed: int) -> list[_BadLine]:
    lines = found[wrong]
    valid = (lines == lines_of(lines[:, 0], lines[:, 1], lines[:, 2])).all(axis=1)
    return [
        _BadLine(
            index=int(index),
            content=_content(line, bool(ok), gpa + int(index) * LINE_SIZE, seed),
            generation=int(line[1]),
        )
        for index, line, ok in zip(wrong, lines, valid, strict=True)
    ]


def _content(line: Words, is_valid: bool, line_gpa: int, seed: int) -> _Content:
    claimed = int(line[0])
    if not line.any():
        return _Content.ZERO
    if not is_valid or claimed % LINE_SIZE or int(line[1]) >> 32:
        return _Content.GARBAGE
    if int(line[2]) != seed:
        return _Content.FOREIGN
    if claimed == line_gpa:
        return _Content.OWN
    return _Content.MOVED if claimed // PAGE_SIZE == line_gpa // PAGE_SIZE else _Content.OTHER


def _judge(bad: list[_BadLine], generation: int) -> Damage:
    contents = [line.content for line in bad]
    dominant = max(_Content, key=lambda content: (contents.count(content), -content))
    if dominant is _Content.MOVED:
        return Damage.SHIFTED
    if dominant is _Content.OWN:
        return _judge_own([line for line in bad if line.content is _Content.OWN], bad, generation)
    return Damage.LINE if len(bad) <= FEW_LINES else _WHOLE[dominant]


def _judge_own(own: list[_BadLine], bad: list[_BadLine], generation: int) -> Damage:
    generations = {line.generation for line in own}
    if len(own) == LINES_PER_PAGE and len(generations) == 1:
        return Damage.STALE if own[0].generation < generation else Damage.NEWER
    return Damage.TORN if len(bad) > FEW_LINES or _is_edge_run(bad) else Damage.LINE


def _is_edge_run(bad: list[_BadLine]) -> bool:
    """A run of lines at the start or the end of the page: what a copy in the midst of a write leaves."""
    first, last = bad[0].index, bad[-1].index
    return 1 < len(bad) == last - first + 1 and (first == 0 or last == LINES_PER_PAGE - 1)
