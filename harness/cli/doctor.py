"""``cvmig doctor``: what this machine can do, each with the reason and what to do about an absence."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

from harness.cases.doctor import examine
from harness.cli import options as opt
from harness.hosts.capability import Capability


def doctor(qemu: opt.Qemu = None, as_json: opt.AsJson = False) -> int:
    """Look at this machine: binaries, accelerators, confidential technologies, compilers."""
    found = asyncio.run(examine(qemu, checkout=Path.cwd()))
    if as_json:
        sys.stdout.write(json.dumps([asdict(capability) for capability in found], indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for capability in found for line in _lines(capability)))
    return 0


def _lines(capability: Capability) -> list[str]:
    mark = "+" if capability.present else "-"
    lines = [f"{mark} {capability.name:22} {capability.found}"]
    if not capability.present:
        lines += [f"  {'':22} needs: {capability.needed}"] if capability.needed else []
        lines += [f"  {'':22} do: {capability.remedy}"] if capability.remedy else []
    return lines
