"""What can be run: the registry of cases. A case is a coroutine over a Stage, with settings of its own class."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from harness.cases.settings import Settings
from harness.model.errors import UsageError
from harness.model.machine import Arch

if TYPE_CHECKING:
    from harness.cases.stage import Stage

S = TypeVar("S", bound=Settings)
Play = Callable[["Stage", Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One entry of ``cvmig list cases``."""

    id: str
    summary: str
    settings: type[Settings]
    defaults: Mapping[str, Any]
    """Over the class's own defaults."""
    play: Play
    nightly: bool = False
    """Too slow or too large for every commit."""
    backend: str = "none"
    """What protects its memory when nobody says; a case that is about protection has one that protects."""
    arches: tuple[Arch, ...] = tuple(Arch)
    """Of the guests that it is about; the first one is taken when nobody says."""


CASES: dict[str, Case] = {}
UNLISTED: dict[str, Case] = {}
"""Cases that need more than a name, such as a file: no glob finds them, and no list tells of them."""


def case(
    case_id: str,
    *,
    summary: str,
    settings: type[S],
    nightly: bool = False,
    listed: bool = True,
    backend: str = "none",
    arches: tuple[Arch, ...] = tuple(Arch),
    **defaults: Any,
) -> Callable[[Callable[[Stage, S], Awaitable[None]]], Callable[[Stage, S], Awaitable[None]]]:
    """Register the decorated coroutine as *case_id*."""

    def register(play: Callable[[Stage, S], Awaitable[None]]) -> Callable[[Stage, S], Awaitable[None]]:
        (CASES if listed else UNLISTED)[case_id] = Case(
            id=case_id,
            summary=summary,
            settings=settings,
            defaults=defaults,
            play=play,
            nightly=nightly,
            backend=backend,
            arches=arches,
        )
        return play

    return register


def find_cases(patterns: Iterable[str]) -> list[Case]:
    """Cases named by *patterns* (ids or globs such as ``memory/*``), in the order given.

    Raises UsageError for a pattern that names none.
    """
    found: dict[str, Case] = {}
    for pattern in patterns:
        names = [name for name in CASES if fnmatch.fnmatchcase(name, pattern)] or [*UNLISTED.keys() & {pattern}]
        if not names:
            raise UsageError(f"unknown case {pattern!r}", hint=_suggestion(pattern))
        found.update((name, named_case(name)) for name in names)
    return list(found.values())


def named_case(case_id: str) -> Case:
    """The case of exactly this name, listed or not. Raises KeyError."""
    return CASES[case_id] if case_id in CASES else UNLISTED[case_id]


def _suggestion(pattern: str) -> str:
    near = difflib.get_close_matches(pattern, CASES, n=1)
    return f"did you mean {near[0]}?" if near else "see 'cvmig list cases'"
