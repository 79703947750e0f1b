"""What tests of VM control share: the QEMUs of this machine, a keeper, and a VM started with one line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.hosts.machine_probe import find_emulators
from harness.model.deadline import Deadline
from harness.model.machine import MachineSpec
from harness.vm.features import Features, probe_binary
from harness.vm.keeper import Keeper
from harness.vm.vm import Vm, start_vm

CHECKOUT = Path(__file__).parents[2]
QEMUS = find_emulators("x86_64", CHECKOUT)
BOUND_S = 90.0


def qemu_label(path: Path) -> str:
    return path.parent.parent.name


@dataclass(frozen=True)
class Lab:
    """Starts VMs for one test."""

    keeper: Keeper
    folder: Path
    deadline: Deadline

    async def features(self, path: Path) -> Features:
        return await probe_binary(path, deadline=self.deadline)

    @asynccontextmanager
    async def vm(
        self, path: Path, spec: MachineSpec | None = None, role: str = "src", **options: Any
    ) -> AsyncIterator[Vm]:
        features = options.pop("features", None) or await self.features(path)
        async with start_vm(
            spec or MachineSpec(memory_mib=32),
            features,
            role=role,
            artefacts=self.folder,
            token="test",
            keeper=self.keeper,
            deadline=self.deadline,
            **options,
        ) as vm:
            yield vm

    def play(self, story: Awaitable[None]) -> None:
        async def run() -> None:
            await story

        asyncio.run(run())


@pytest.fixture(scope="session")
def keeper() -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


@pytest.fixture
def lab(keeper: Keeper, tmp_path: Path) -> Lab:
    return Lab(keeper, tmp_path, Deadline.after(BOUND_S))


@pytest.fixture(params=QEMUS, ids=qemu_label)
def qemu(request: pytest.FixtureRequest) -> Path:
    """Every QEMU of this machine in turn."""
    path: Path = request.param
    return path


def named_processes(prefix: str) -> list[int]:
    """Processes with *prefix* in their command line, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if prefix.encode() in words:
                found.append(int(entry.name))
    return found


Story = Callable[[Lab], Awaitable[None]]
