"""This machine as a host."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness.hosts.capability import Capability
from harness.hosts.confidential_probe import probe_confidential
from harness.hosts.gic_probe import probe_gicv4_1
from harness.hosts.kvm_probe import probe_kvm
from harness.hosts.machine_probe import (
    probe_architecture,
    probe_compiler,
    probe_cores,
    probe_emulators,
    probe_huge_pages,
    probe_memory,
)
from harness.hosts.tracer_probe import probe_strace


class LocalHost:
    """The machine that the harness runs on. *root* stands in for / in tests, *checkout* may hold more QEMUs."""

    def __init__(self, *, root: Path = Path("/"), checkout: Path | None = None) -> None:
        self.root = root
        self.checkout = checkout

    async def capabilities(self) -> tuple[Capability, ...]:
        """Everything that can be told without starting a VM. Never raises for what is not there."""
        return await asyncio.to_thread(self._probe)

    def _probe(self) -> tuple[Capability, ...]:
        return (
            probe_architecture(self.root),
            probe_cores(),
            probe_memory(self.root),
            probe_huge_pages(self.root),
            probe_compiler(),
            *probe_emulators(self.checkout),
            probe_kvm(self.root),
            *probe_confidential(self.root),
            probe_gicv4_1(self.root),
            probe_strace(self.root),
        )
