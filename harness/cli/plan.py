"""``cvmig plan``: what ``cvmig run`` with the same words would do."""

from __future__ import annotations

import asyncio
import sys

from harness.cases.ask import Words, requests_of
from harness.cases.plan import plan_lines
from harness.cli import options as opt


def plan(
    cases: opt.Cases = None,
    sets: opt.Sets = None,
    backend: opt.Backend = None,
    arch: opt.ArchName = None,
    accel: opt.AccelName = "auto",
    qemu: opt.Qemu = None,
    qemu_dst: opt.QemuDst = None,
    seed: opt.SeedText = None,
    fault: opt.Faults = None,
    file: opt.PlanPath = None,
) -> int:
    """Show what would run, with full command lines."""
    words = Words(
        sets=tuple(sets or ()),
        backend=backend,
        arch=arch,
        accel=accel,
        qemu=qemu,
        qemu_dst=qemu_dst,
        seed=seed,
        faults=tuple(fault or ()),
    )
    requests = requests_of(cases or (), words, file=file)
    sys.stdout.write("".join(f"{line}\n" for line in asyncio.run(plan_lines(requests))))
    return 0
