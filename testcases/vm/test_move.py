"""The command line moves: between binaries, inside the sandbox, with the memory that the host sees."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from harness.model.machine import TCG_TRIM_KIB, MachineSpec
from harness.vm.ram_compare import differing_pages
from harness.vm.runtime import runtime_folder
from harness.vm.vm import Vm
from testcases.vm.conftest import QEMUS, Lab, qemu_label

pytestmark = pytest.mark.vm

PAIRS = list(itertools.product(QEMUS, repeat=2))


async def capabilities(vm: Vm, lab: Lab) -> None:
    wanted = [{"capability": name, "state": True} for name in ("events", "return-path")]
    await vm.qmp.execute("migrate-set-capabilities", {"capabilities": wanted}, deadline=lab.deadline)


async def completed(vm: Vm, lab: Lab) -> None:
    def is_over(data: Any) -> bool:
        return data["status"] in {"completed", "failed"}

    event = await vm.qmp.wait_event("MIGRATION", where=is_over, deadline=lab.deadline)
    assert event.data["status"] == "completed", vm.last_words


@pytest.mark.parametrize(("source", "destination"), PAIRS, ids=qemu_label)
def test_a_vm_moves_and_its_memory_is_the_same(lab: Lab, source: Path, destination: Path) -> None:
    spec = MachineSpec(memory_mib=64, trim_kib=TCG_TRIM_KIB, vcpus=2)

    async def story(folder: Path) -> None:
        async with lab.vm(source, spec) as src, lab.vm(destination, spec, role="dst", incoming=True) as dst:
            await asyncio.gather(capabilities(src, lab), capabilities(dst, lab))
            src.ram.buffer[0x200000:0x300000] = 0x5A
            await src.qmp.execute("cont", deadline=lab.deadline)
            uri = f"unix:{folder}/move.sock"
            await dst.qmp.execute("migrate-incoming", {"uri": uri}, deadline=lab.deadline)
            await src.qmp.execute("migrate", {"uri": uri}, deadline=lab.deadline)
            await asyncio.gather(completed(src, lab), completed(dst, lab))
            assert differing_pages(src.ram, dst.ram).tolist() == []
            assert dst.ram.buffer[0x200000] == 0x5A
            dst.ram.buffer[0x200000] ^= 1
            assert differing_pages(src.ram, dst.ram).tolist() == [0x200]
            await dst.qmp.execute("cont", deadline=lab.deadline)
            await dst.qmp.wait_event("RESUME", deadline=lab.deadline)
            assert src.last_words + dst.last_words == ""

    with runtime_folder(lab.keeper) as folder:
        lab.play(story(folder))
    assert not folder.exists()
