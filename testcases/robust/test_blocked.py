"""A VM that QEMU refuses to migrate is blocked, with QEMU's own reason: neither a failure nor an error."""

import asyncio
import shutil
from pathlib import Path

import pytest

from harness.migration.driver import listen, migrate, prepare
from harness.migration.settings import MigrationSettings
from harness.model.deadline import Deadline
from harness.model.errors import BlockedError
from harness.model.machine import MachineSpec
from harness.vm.features import probe_binary
from harness.vm.keeper import Keeper
from harness.vm.runtime import runtime_folder
from harness.vm.vm import start_vm

pytestmark = pytest.mark.vm

PEER = MachineSpec(
    memory_mib=64,
    devices=("ivshmem-plain,memdev=shm,master=off",),
    extra_args=("-object", "memory-backend-ram,id=shm,size=1M,share=on"),
)
"""An ivshmem device in peer mode adds a migration blocker (QEMU hw/misc/ivshmem.c)."""


def test_a_blocker_is_told_in_its_own_words(tmp_path: Path) -> None:
    asyncio.run(_blocked(tmp_path))


async def _blocked(folder: Path) -> None:
    deadline = Deadline.after(30)
    features = await probe_binary(Path(shutil.which("qemu-system-x86_64") or ""), deadline=deadline)
    settings = MigrationSettings(hold_passes=1)
    common = {"artefacts": folder, "token": "blocked", "deadline": deadline}
    with Keeper() as keeper, runtime_folder(keeper) as runtime:
        async with (
            start_vm(PEER, features, role="src", keeper=keeper, incoming=False, **common) as source,
            start_vm(PEER, features, role="dst", keeper=keeper, incoming=True, **common) as destination,
        ):
            for vm in (source, destination):
                await prepare(vm, settings, deadline=deadline)
            uri = await listen(destination, f"unix:{runtime / 'in'}", deadline=deadline)
            with pytest.raises(BlockedError, match="peer mode"):
                await migrate(source, destination, uri, settings, deadline=deadline)
