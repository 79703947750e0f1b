#!/usr/bin/env python3
"""Hops a second of an idle guest (64 MiB, not filled), every hop judged; with and without the relay, in turn.

ci/bench/ping_pong.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from harness.cases.ask import Words, requests_of
from harness.cases.runner import run_case
from harness.report.store import Run
from harness.vm.keeper import Keeper

SETS = ("memory_mib=64", "workload=idle", "passes=1", "fill=false", "hops=40")


async def main(rounds: int) -> None:
    speeds: dict[str, list[float]] = {"no relay": [], "relay (default)": []}
    with tempfile.TemporaryDirectory(prefix="cvmig-bench-") as name, Keeper() as keeper:
        run = Run.create(Path(name) / "runs")
        for _ in range(rounds):
            for way, relay in (("no relay", "false"), ("relay (default)", "true")):
                words = Words(accel="tcg", sets=(*SETS, f"relay={relay}"))
                (request,) = requests_of(["memory/ping-pong"], words)
                result = await run_case(request, run, keeper=keeper)
                assert result.verdict == "pass", result.reason
                speeds[way].append(result.timings["hops_per_s"])
    for way, figures in speeds.items():
        print(f"{way:16} median {statistics.median(figures):.1f} hops/s, best {max(figures):.1f}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
