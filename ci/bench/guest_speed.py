#!/usr/bin/env python3
"""How fast the probe is under TCG: from start to READY, and fill and verify against plain store and load loops.

ci/bench/guest_speed.py [ROUNDS [ARCH]]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness.cases.binaries import locate_qemu
from harness.guest.image import probe_image
from harness.guest.probe import Probe
from harness.model.deadline import Deadline
from harness.model.machine import DEFAULT_MACHINES, Arch, MachineSpec
from harness.vm.features import probe_binary
from harness.vm.keeper import Keeper
from harness.vm.vm import start_vm

PAGE_BYTES = 4096


async def one(keeper: Keeper, folder: Path, arch: Arch) -> dict[str, float]:
    deadline = Deadline.after(60)
    features = await probe_binary(locate_qemu(None, arch), deadline=deadline)
    spec = MachineSpec(arch=arch, machine=DEFAULT_MACHINES[arch], memory_mib=128, kernel=str(probe_image(arch)))
    start_s = time.monotonic()
    async with start_vm(
        spec, features, role="src", artefacts=folder, token="bench", keeper=keeper, deadline=deadline
    ) as vm:
        await vm.qmp.execute("cont", deadline=deadline)
        probe = Probe(*vm.channel)
        await probe.ready(deadline=deadline)
        figures = {"ready_ms": (time.monotonic() - start_s) * 1e3}
        hz = (await probe.clock(deadline=deadline)).tsc_hz

        def mb_s(pages: int, ticks: int) -> float:
            return pages * PAGE_BYTES * hz / ticks / 1e6

        fills = [await probe.fill(1, deadline=deadline) for _ in range(3)]
        figures["first_fill_mb_s"] = mb_s(fills[0].pages, fills[0].ticks)
        figures["fill_mb_s"] = max(mb_s(fill.pages, fill.ticks) for fill in fills)
        checks = [await probe.verify(deadline=deadline) for _ in range(3)]
        figures["verify_mb_s"] = max(mb_s(check.pages_checked, check.ticks) for check in checks)
        pages = fills[0].pages
        for name, store in (("load", False), ("store", True)):
            loops = [await probe.bench(store=store, pages=pages, deadline=deadline) for _ in range(3)]
            figures[f"{name}_loop_mb_s"] = max(mb_s(loop.pages, loop.ticks) for loop in loops)
        await probe.close()
    return figures


async def main(rounds: int, arch: Arch) -> None:
    with Keeper() as keeper, tempfile.TemporaryDirectory(prefix="cvmig-bench-") as folder:
        figures = [await one(keeper, Path(folder), arch) for _ in range(rounds)]
    middle = {name: statistics.median(figure[name] for figure in figures) for name in figures[0]}
    print(f"start to READY     median {middle['ready_ms']:.0f} ms")
    print(f"first fill         median {middle['first_fill_mb_s']:.0f} MB/s (the host gives the pages)")
    for name, loop in (("fill", "store"), ("verify", "load")):
        speed, plain = middle[f"{name}_mb_s"], middle[f"{loop}_loop_mb_s"]
        print(f"{name:18} median {speed:.0f} MB/s, x{speed / plain:.2f} of a plain {loop} loop ({plain:.0f} MB/s)")


if __name__ == "__main__":
    asyncio.run(
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, Arch(sys.argv[2]) if len(sys.argv) > 2 else Arch.X86_64)
    )
