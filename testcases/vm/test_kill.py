"""kill -9 of the harness, at any moment, leaves no QEMU, no folder and no keeper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.model.deadline import Deadline
from harness.model.seed import Seed
from testcases.vm.conftest import CHECKOUT, QEMUS, named_processes

pytestmark = pytest.mark.vm

CLEAR_S = 5.0
SEED = Seed(0x6B11)

HARNESS = """
import asyncio, sys
from pathlib import Path
from harness.model.deadline import Deadline
from harness.model.machine import MachineSpec
from harness.vm.features import probe_binary
from harness.vm.keeper import PROCESS_PREFIX, Keeper
from harness.vm.runtime import runtime_folder
from harness.vm.vm import start_vm

async def vm(keeper, features, role, incoming):
    async with start_vm(MachineSpec(memory_mib=32), features, role=role, artefacts=Path(sys.argv[2]), token="k",
                        keeper=keeper, incoming=incoming, deadline=Deadline.after(60)) as vm:
        print("vm", flush=True)
        await asyncio.sleep(float(sys.argv[3]))

async def main():
    keeper = Keeper()
    print(PROCESS_PREFIX, keeper.pid, flush=True)
    features = await probe_binary(Path(sys.argv[1]), deadline=Deadline.after(60))
    while True:
        with runtime_folder(keeper) as folder:
            (folder / "some.sock").write_text("")
            print("folder", folder, flush=True)
            await asyncio.gather(vm(keeper, features, "src", False), vm(keeper, features, "dst", True))

asyncio.run(main())
"""


class Doomed:
    """A harness in a process of its own."""

    def __init__(self, folder: Path, *, stay_s: float) -> None:
        self.folder = folder
        environ = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_RUNTIME_DIR": str(folder),
        }
        command = [sys.executable, "-c", HARNESS, str(QEMUS[-1]), str(folder), str(stay_s)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True)
        assert self.process.stdout is not None
        self.lines = self.process.stdout
        self.prefix, keeper = self.lines.readline().split()
        self.keeper = int(keeper)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.lines.close()

    def leftovers(self) -> list[str]:
        folders = [str(path) for path in self.folder.glob("cvmig-*")]
        return [f"process {pid}" for pid in named_processes(self.prefix)] + folders


def wait_until_clear(doomed: Doomed) -> float:
    start_s, deadline = time.monotonic(), Deadline.after(CLEAR_S)
    while doomed.leftovers() and not deadline.has_passed:
        time.sleep(0.01)
    assert doomed.leftovers() == []
    return time.monotonic() - start_s


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("k")


@pytest.mark.parametrize("number", range(12))
def test_kill_at_any_moment(short_folder: Path, number: int) -> None:
    doomed = Doomed(short_folder, stay_s=0.01)
    # The seed decides where in starting, running and ending it hits; the result must not depend on it.
    time.sleep(SEED.rng("kill", number).uniform(0.0, 0.4))
    doomed.kill()
    wait_until_clear(doomed)


def test_kill_while_two_vms_run(short_folder: Path) -> None:
    doomed = Doomed(short_folder, stay_s=60.0)
    seen = [doomed.lines.readline().split()[0] for _ in range(3)]
    assert seen == ["folder", "vm", "vm"]
    assert len(doomed.leftovers()) >= 4, "two VMs, a folder and the keeper"
    doomed.kill()
    wait_until_clear(doomed)


def test_without_the_keeper_the_kernel_kills_the_vms(short_folder: Path) -> None:
    doomed = Doomed(short_folder, stay_s=60.0)
    assert [doomed.lines.readline().split()[0] for _ in range(3)] == ["folder", "vm", "vm"]
    os.kill(doomed.keeper, signal.SIGKILL)
    doomed.kill()
    deadline = Deadline.after(CLEAR_S)
    while named_processes(doomed.prefix) and not deadline.has_passed:
        time.sleep(0.01)
    assert named_processes(doomed.prefix) == []


def test_an_interrupt_leaves_nothing_either(short_folder: Path) -> None:
    doomed = Doomed(short_folder, stay_s=60.0)
    assert [doomed.lines.readline().split()[0] for _ in range(3)] == ["folder", "vm", "vm"]
    doomed.process.send_signal(signal.SIGTERM)
    doomed.process.wait()
    doomed.lines.close()
    wait_until_clear(doomed)
