"""The keeper against processes that only look like VMs; with real ones in testcases/vm/test_kill.py."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.model.errors import SetupError
from harness.vm.keeper import PROCESS_PREFIX, Keeper
from harness.vm.runtime import runtime_folder

WAIT_S = 10.0


@contextmanager
def named(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, with QEMU's ``-name`` among its words, up to the point where the words can be seen."""
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import sys; print(flush=True); sys.stdin.read()",
        "-name",
        f"guest={name}",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def has_ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    pidfd = os.pidfd_open(process.pid)
    try:
        return bool(select.select([pidfd], [], [], within_s)[0])
    finally:
        os.close(pidfd)


def test_closing_in_peace_ends_only_its_own() -> None:
    with Keeper() as other, named(other.vm_name("run", "src")) as not_mine:
        keeper = Keeper()
        with named(keeper.vm_name("run", "src")) as mine, named("cvmig-somebody-else") as stranger:
            keeper.close()
            keeper.close()
            assert has_ended(mine, WAIT_S)
            assert mine.wait() == -signal.SIGKILL
            assert not has_ended(stranger, 0)
            assert not has_ended(not_mine, 0)


def test_a_harness_that_dies_is_cleared_away(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from harness.vm.keeper import PROCESS_PREFIX, Keeper\n"
        "keeper = Keeper()\n"
        "keeper.register_folder(Path(sys.argv[1]) / 'gone')\n"
        "keeper.register_folder(Path(sys.argv[1]) / 'kept')\n"
        "keeper.forget_folder(Path(sys.argv[1]) / 'kept')\n"
        "print(PROCESS_PREFIX, keeper.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    for name in ("gone", "kept"):
        (tmp_path / name).mkdir()
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as harness:
        assert harness.stdout is not None
        prefix, keeper = harness.stdout.readline().decode().split()
        pidfd = os.pidfd_open(int(keeper))
        with named(f"{prefix}0-run-dst") as vm, named("cvmig-somebody-else") as stranger:
            harness.kill()
            assert has_ended(vm, WAIT_S)
            assert not has_ended(stranger, 0)
            assert select.select([pidfd], [], [], WAIT_S)[0], "the keeper itself must go"
        os.close(pidfd)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_without_its_keeper_nothing_is_registered(tmp_path: Path) -> None:
    keeper = Keeper()
    os.kill(keeper.pid, signal.SIGKILL)
    pidfd = os.pidfd_open(keeper.pid)
    select.select([pidfd], [], [], WAIT_S)
    os.close(pidfd)
    with pytest.raises(SetupError, match="keeper is gone"):
        keeper.register_folder(tmp_path)
    keeper.close()


def test_names_begin_with_the_process_prefix() -> None:
    with Keeper() as one, Keeper() as two:
        assert one.vm_name("r", "src").startswith(PROCESS_PREFIX)
        assert one.vm_name("r", "src") != two.vm_name("r", "src")
        assert PROCESS_PREFIX.startswith("cvmig-")


def test_the_runtime_folder_is_private_short_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp/" + "x" * 100)
    with Keeper() as keeper, runtime_folder(keeper) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(folder)) + 32 <= 107
        (folder / "a.sock").write_text("")
    assert not folder.exists()
