"""Splits a finding's text into words and bytes, so that the page can set bytes in monospace and align them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

_BYTES = r"(?:[0-9a-f]{2}[ :]){3,}[0-9a-f]{2}|[0-9a-f]{8,}(?: [0-9a-f]{8,})+|[0-9a-f]{16,}"
_PAIR = re.compile(rf"expected:?\s+({_BYTES})\s*[,;:]?\s*found:?\s+({_BYTES})", re.IGNORECASE)
_ROW_BYTES = 16
_CODE = re.compile(rf"\b(?:0x[0-9a-f]+(?:-0x[0-9a-f]+)?|{_BYTES})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of text; *code* for addresses and bytes."""

    text: str
    code: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BytePair:
    """One byte as it should be and as it is, in hex; empty where one side ends earlier."""

    expected: str
    found: str

    @property
    def differs(self) -> bool:
        """True where somebody has to look."""
        return self.expected.lower() != self.found.lower()


def pieces(text: str) -> tuple[Piece, ...]:
    """*text* in order, addresses and runs of hex bytes apart from the words."""
    found, at = [], 0
    for match in _CODE.finditer(text):
        found += [Piece(text=text[at : match.start()], code=False), Piece(text=match.group(), code=True)]
        at = match.end()
    found.append(Piece(text=text[at:], code=False))
    return tuple(piece for piece in found if piece.text)


def byte_rows(text: str) -> tuple[str, tuple[tuple[BytePair, ...], ...]]:
    """*text* without its ``expected HEX, found HEX``, and those bytes in rows of 16; all of it when it has none."""
    match = _PAIR.search(text)
    if match is None:
        return text, ()
    expected, found = (_split(group) for group in match.groups())
    pairs = [BytePair(expected=e, found=f) for e, f in zip_longest(expected, found, fillvalue="")]
    rows = tuple(tuple(pairs[start : start + _ROW_BYTES]) for start in range(0, len(pairs), _ROW_BYTES))
    rest = f"{text[: match.start()].rstrip(' ;,:')} {text[match.end() :].lstrip(' ;,')}"
    return rest.strip(), rows


def _split(text: str) -> list[str]:
    digits = re.sub(r"[^0-9a-fA-F]", "", text)
    return [digits[index : index + 2] for index in range(0, len(digits), 2)]
