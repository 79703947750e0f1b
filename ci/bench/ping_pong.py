#!/usr/bin/env python3
"""Hops a second of an idle guest (64 MiB, not filled), every hop judged, with and without the relay, for each QEMU.

Beside them the same hops by a minimal script that judges nothing, which tells what QEMU alone takes on this machine: a
new QEMU (the one on PATH) for each hop, started while the guest is still on its way to the one before, and a guest that
has to answer.

ci/bench/ping_pong.py [ROUNDS]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bare import Machine

from harness.cases.ask import Words, requests_of
from harness.cases.runner import run_case
from harness.guest.probe import Probe
from harness.hosts.machine_probe import find_emulators
from harness.model.deadline import Deadline
from harness.report.store import Run
from harness.vm.keeper import Keeper

MIB = 64
HOPS = 40
SCRIPT = "minimal script"
CHECKOUT = Path(__file__).resolve().parents[2]
SETS = (f"memory_mib={MIB}", "workload=idle", "passes=1", "fill=false", f"hops={HOPS}")


async def minimal(folder: Path) -> float:
    deadline = Deadline.after(120)
    source, destination = Machine("src", MIB, incoming=False), await waiting("dst", folder)
    await source.connect()
    await source.prepare()
    probe = Probe(*source.channel)
    await probe.ready(deadline=deadline)
    start_s = time.monotonic()
    for number in range(HOPS):
        following = asyncio.create_task(waiting(f"dst{number}", folder))
        await source.run("migrate", uri=f"unix:{folder / destination.role}")
        await asyncio.gather(source.completed(), destination.completed())
        probe.attach(*destination.channel)
        await destination.run("cont")
        await probe.heartbeat(deadline=deadline)
        await source.quit()
        source, destination = destination, await following
    seconds = time.monotonic() - start_s
    await probe.close()
    for machine in (source, destination):
        await machine.quit()
    return HOPS / seconds


async def waiting(role: str, folder: Path) -> Machine:
    machine = Machine(role, MIB, incoming=True)
    await machine.connect()
    await machine.prepare()
    await machine.run("migrate-incoming", uri=f"unix:{folder / role}")
    return machine


async def main(rounds: int) -> None:
    speeds: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="cvmig-bench-") as name, Keeper() as keeper:
        run = Run.create(Path(name) / "runs")
        for number in range(rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            speeds[SCRIPT].append(await minimal(folder))
            for qemu in find_emulators("x86_64", CHECKOUT):
                for way, relay in (("no relay", "false"), ("relay (default)", "true")):
                    words = Words(accel="tcg", qemu=qemu, sets=(*SETS, f"relay={relay}"))
                    (request,) = requests_of(["memory/ping-pong"], words)
                    result = await run_case(request, run, keeper=keeper)
                    assert result.verdict == "pass", result.reason
                    speeds[f"{result.versions['qemu_src']} {way}"].append(result.timings["hops_per_s"])
    for way, figures in speeds.items():
        pairs = zip(figures, speeds[SCRIPT], strict=True)
        ratio = statistics.median(judged / plain for judged, plain in pairs)
        median = statistics.median(figures)
        print(f"{way:22} median {median:4.1f} hops/s, best {max(figures):4.1f}, x{ratio:.2f} of the script")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
