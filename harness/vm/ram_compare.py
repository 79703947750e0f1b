"""Which pages of two VMs' memories differ, at memcmp's speed. Pages that neither side ever wrote are not touched."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.model.memory import PAGE_SIZE
from harness.vm.ram import SharedRam

_CHUNK_BYTES = 2 << 20
_WORD = np.uint64
_ZEROS = np.zeros(_CHUNK_BYTES, dtype=np.uint8)

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int

_THREADS = min(4, os.cpu_count() or 1)
"""memcmp is bound by memory; more threads than this fetch nothing faster."""

Pages = NDArray[np.int64]
_Segment = tuple[int, int, bool, bool]
"""Start and end of a range, and whether each side has data there."""


def differing_pages(one: SharedRam, other: SharedRam) -> Pages:
    """Indexes (ram_addr / 4096), ascending, of the pages whose content differs. Neither VM may run meanwhile.

    Both memories must have the same size, a whole number of pages. Blocks for as long as the comparison takes, with the
    interpreter lock released nearly all the time: call it in a thread of its own.
    """
    if one.size_bytes != other.size_bytes:
        raise ValueError(f"{one.size_bytes} bytes cannot be compared with {other.size_bytes}")

    def compare(segment: _Segment) -> Pages:
        start, end, in_one, in_other = segment
        return _differing(one.buffer if in_one else None, other.buffer if in_other else None, start, end)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="compare") as pool:
        parts = list(pool.map(compare, _segments(one, other)))
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _segments(one: SharedRam, other: SharedRam) -> Iterator[_Segment]:
    """Ranges up to a chunk long that are data on at least one side."""
    first, second = list(one.data_extents()), list(other.data_extents())
    cuts = sorted({cut for extent in first + second for cut in extent})
    for start, end in pairwise(cuts):
        here = _holds(first, start), _holds(second, start)
        if any(here):
            for chunk in range(start, end, _CHUNK_BYTES):
                yield chunk, min(chunk + _CHUNK_BYTES, end), *here


def _holds(extents: list[tuple[int, int]], position: int) -> bool:
    """Whether *position* lies in an extent; those that are behind it are dropped, so ask in ascending order."""
    while extents and extents[0][1] <= position:
        extents.pop(0)
    return bool(extents) and extents[0][0] <= position


def _differing(one: NDArray[np.uint8] | None, other: NDArray[np.uint8] | None, start: int, end: int) -> Pages:
    left = _ZEROS[: end - start] if one is None else one[start:end]
    right = _ZEROS[: end - start] if other is None else other[start:end]
    if _memcmp(left.ctypes.data, right.ctypes.data, end - start) == 0:
        return np.empty(0, dtype=np.int64)
    words = left.view(_WORD).reshape(-1, PAGE_SIZE // 8) != right.view(_WORD).reshape(-1, PAGE_SIZE // 8)
    found: Pages = np.flatnonzero(words.any(axis=1)).astype(np.int64)
    return found + start // PAGE_SIZE
