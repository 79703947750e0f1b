#!/usr/bin/env python3
"""What the harness adds to the QEMU work of memory/precopy: the whole case against a minimal script, in turn.

The script does the same with QEMU and the guest (start both, boot, fill, dirty, hold two passes, migrate, verify, quit)
and nothing else: no relay, no witness on the host, no artefacts. Prints medians, and the difference, pair by pair.

    ci/bench/precopy_overhead.py [PAIRS]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bare import Machine

from harness.cases.ask import Words, requests_of
from harness.cases.runner import run_case
from harness.guest.probe import Probe
from harness.model.deadline import Deadline
from harness.model.guest import Workload
from harness.report.store import Run
from harness.vm.keeper import Keeper

MIB = 128


async def minimal(folder: Path) -> float:
    start_s = time.monotonic()
    deadline = Deadline.after(60)
    source, destination = Machine("src", MIB, incoming=False), Machine("dst", MIB, incoming=True)
    await asyncio.gather(source.connect(), destination.connect())
    probe = Probe(*source.channel)
    await probe.ready(deadline=deadline)
    await probe.fill(1, deadline=deadline)
    await probe.start(Workload.FULL, pages_per_flush=64, deadline=deadline)
    for machine in (source, destination):
        await machine.prepare()
    uri = f"unix:{folder / 'm'}"
    await destination.run("migrate-incoming", uri=uri)
    await source.run("migrate-set-parameters", max_bandwidth=MIB * 5 << 20, downtime_limit=1)
    await source.run("migrate", uri=uri)
    await source.wait(lambda reply: reply.get("ram", {}).get("dirty-sync-count", 0) >= 2)
    await source.run("migrate-set-parameters", max_bandwidth=0, downtime_limit=2_000_000)
    await source.wait(lambda reply: reply["status"] == "completed")
    await destination.wait(lambda reply: reply.get("status") == "completed")
    probe.attach(*destination.channel)
    stopping = asyncio.create_task(probe.stop(deadline=deadline))
    await destination.run("cont")
    await stopping
    memory = await probe.verify(deadline=deadline)
    assert memory.is_clean, memory
    await probe.close()
    for machine in (source, destination):
        await machine.quit()
    (folder / "m").unlink(missing_ok=True)
    return time.monotonic() - start_s


async def case(keeper: Keeper, run: Run, words: Words) -> float:
    start_s = time.monotonic()
    (request,) = requests_of(["memory/precopy"], words)
    result = await run_case(request, run, keeper=keeper)
    assert result.verdict == "pass", result.reason
    return time.monotonic() - start_s


async def main(pairs: int) -> None:
    ways = {"relay (default)": Words(accel="tcg"), "no relay": Words(accel="tcg", sets=("relay=false",))}
    with tempfile.TemporaryDirectory(prefix="cvmig-bench-") as name, Keeper() as keeper:
        folder = Path(name)
        run = Run.create(folder / "runs")
        await minimal(folder)
        await case(keeper, run, ways["relay (default)"])
        plain: list[float] = []
        whole: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(pairs):
            plain.append(await minimal(folder))
            for way, words in ways.items():
                whole[way].append(await case(keeper, run, words))
    print(f"minimal script       median {statistics.median(plain):.3f} s  min {min(plain):.3f} s")
    for way, seconds in whole.items():
        added = statistics.median(a - b for a, b in zip(seconds, plain, strict=True))
        ratio = statistics.median(a / b for a, b in zip(seconds, plain, strict=True))
        print(
            f"{way:20} median {statistics.median(seconds):.3f} s  min {min(seconds):.3f} s  "
            f"adds {added:+.3f} s (median of pairs), x{ratio:.2f}, minima differ by {min(seconds) - min(plain):+.3f} s"
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 7))
