"""Artefacts that could not be written.

A full disk must not decide a case, and must not be hidden either: every writer notes its trouble here once, and the
result tells it in its reason, which the terminal, the JSON document, JUnit and the page all show.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from harness.model.result import CaseResult


class Losses:
    """What is missing from one case's folder, and why. One line per artefact, the first trouble counts."""

    def __init__(self) -> None:
        self._why: dict[str, str] = {}

    def note(self, artefact: str, error: Exception) -> None:
        """Remember that *artefact* (a file name) is missing or incomplete because of *error*."""
        self._why.setdefault(artefact, _words(error))

    @property
    def lines(self) -> tuple[str, ...]:
        """E.g. ``events.jsonl: No space left on device``."""
        return tuple(f"{artefact}: {why}" for artefact, why in self._why.items())

    def __bool__(self) -> bool:
        return bool(self._why)


def tell(result: CaseResult, lines: Iterable[str]) -> CaseResult:
    """*result* with the losses at the end of its reason; the same result when there are none or they are told."""
    lines = tuple(lines)
    if not lines:
        return result
    text = f"artefacts incomplete ({'; '.join(lines)})"
    if text in result.reason:
        return result
    return replace(result, reason=f"{result.reason}; {text}" if result.reason else text)


def error_of(number: int) -> OSError:
    """The OSError of an errno, for writers that learn of a short write without one."""
    return OSError(number, os.strerror(number))


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"bug in the harness: {error!r}"
