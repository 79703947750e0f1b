#!/usr/bin/env python3
"""How fast the host compares two guest memories, against bare memcmp over the same bytes.

Usage: python ci/bench/host_compare.py [MIB]
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from harness.vm.ram import SharedRam
from harness.vm.ram_compare import differing_pages

ROUNDS = 7


def best_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - start_s)
    return min(times)


def main(mib: int) -> None:
    size_bytes = mib << 20
    one, other = SharedRam.create(size_bytes), SharedRam.create(size_bytes)
    one.buffer[:] = np.random.default_rng(1).integers(0, 256, size_bytes, dtype=np.uint8)
    other.buffer[:] = one.buffer
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    bare_s = best_s(lambda: memcmp(one.buffer.ctypes.data, other.buffer.ctypes.data, size_bytes))
    equal_s = best_s(lambda: differing_pages(one, other))
    other.buffer[:: 64 * 4096] ^= 1
    some_s = best_s(lambda: differing_pages(one, other))
    sparse = SharedRam.create(64 << 30), SharedRam.create(64 << 30)
    sparse_s = best_s(lambda: differing_pages(*sparse))
    figures = {
        "compared_mib": mib,
        "memcmp_gb_per_s": round(size_bytes / bare_s / 1e9, 2),
        "equal_gb_per_s": round(size_bytes / equal_s / 1e9, 2),
        "equal_to_memcmp": round(bare_s / equal_s, 2),
        "one_page_in_64_differs_gb_per_s": round(size_bytes / some_s / 1e9, 2),
        "untouched_64_gib_ms": round(sparse_s * 1e3, 2),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 128)
