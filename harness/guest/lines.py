"""The probe's pattern in numpy: what each 64-byte line of a managed page holds. Defined in images/probe/PROTOCOL.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.model.memory import LINE_SIZE, LINES_PER_PAGE, PAGE_SIZE

WORDS_PER_LINE = LINE_SIZE // 8
LINE_STEP = 0x9E3779B97F4A7C15
WORD_FLIP = 0x6A09E667F3BCC908
SHARED_SEED = 0x5348415245442121
"""A shared page of a protected guest carries the pattern of ``seed ^ SHARED_SEED``, so every line says through which
view it was written."""

Words = NDArray[np.uint64]
_STEPS: Words = np.arange(LINES_PER_PAGE, dtype=np.uint64) * np.uint64(LINE_STEP)
_OFFSETS: Words = np.arange(LINES_PER_PAGE, dtype=np.uint64) * np.uint64(LINE_SIZE)


def _words(values: ArrayLike) -> Words:
    # At least one dimension: numpy warns of wrap-around in scalars only, and wrap-around is meant here.
    return np.atleast_1d(np.asarray(values, dtype=np.uint64))


def _mix64(x: Words) -> Words:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def page_keys(page_gpas: ArrayLike, generations: ArrayLike, seed: ArrayLike) -> Words:
    """One key per page; all its lines derive from it."""
    return _mix64(_mix64(_words(seed) + _words(page_gpas)) + _words(generations))


def _compose(out: Words, gpas: Words, generations: Words, seed: Words, keys: Words) -> None:
    """Fill out[..., 8] from arrays of one shape less."""
    out[..., 0] = gpas
    out[..., 1] = generations
    out[..., 2] = seed
    out[..., 3] = keys
    np.bitwise_not(keys, out=out[..., 4])
    np.bitwise_xor(keys, gpas, out=out[..., 5])
    np.add(keys, seed, out=out[..., 6])
    np.bitwise_xor(keys, np.uint64(WORD_FLIP), out=out[..., 7])


def lines_of(line_gpas: ArrayLike, generations: ArrayLike, seeds: ArrayLike) -> Words:
    """Shape (n, 8): the lines at *line_gpas*."""
    gpas = _words(line_gpas)
    generation, seed = np.broadcast_to(_words(generations), gpas.shape), np.broadcast_to(_words(seeds), gpas.shape)
    pages = gpas & np.uint64(~(PAGE_SIZE - 1) & (1 << 64) - 1)
    keys = page_keys(pages, generation, seed) + (gpas - pages) // np.uint64(LINE_SIZE) * np.uint64(LINE_STEP)
    out = np.empty((gpas.size, WORDS_PER_LINE), dtype=np.uint64)
    _compose(out, gpas, generation, seed, keys)
    return out


def pages_of(page_gpas: ArrayLike, generations: ArrayLike, seeds: ArrayLike) -> Words:
    """Shape (n, 64, 8): whole pages. One seed, or one per page."""
    gpas = _words(page_gpas)
    generation = np.broadcast_to(_words(generations), gpas.shape)
    seed = np.broadcast_to(_words(seeds), gpas.shape)
    keys = page_keys(gpas, generation, seed)[:, None] + _STEPS
    out = np.empty((gpas.size, LINES_PER_PAGE, WORDS_PER_LINE), dtype=np.uint64)
    _compose(out, gpas[:, None] + _OFFSETS, generation[:, None], seed[:, None], keys)
    return out


def page_bytes(gpa: int, generation: int, seed: int) -> bytes:
    """One page as it lies in memory (little endian)."""
    return pages_of([gpa], [generation], seed).astype("<u8", copy=False).tobytes()


def told_by(gpa: int, content: bytes) -> str:
    """What a line of 64 bytes, found at *gpa*, says of itself: ``generation 3 of seed 0x1234``; empty if nothing true.

    Wherever a line's content was hidden, by another key or in another place, only the right one comes out as a line.
    """
    if not any(content):
        return "zeros"
    generation, seed = (int.from_bytes(content[start : start + 8], "little") for start in (8, 16))
    whole = lines_of([gpa], [generation], [seed]).astype("<u8", copy=False).tobytes()
    return f"generation {generation} of seed {seed:#x}" if content == whole else ""
