"""Starting, controlling and ending real QEMUs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, GuestError, LostError, SetupError
from harness.model.machine import MachineSpec
from harness.vm import feature_cache, features
from testcases.vm.conftest import QEMUS, Lab, named_processes
from testcases.vm.payload import payload

pytestmark = pytest.mark.vm


def test_a_vm_starts_runs_and_leaves_nothing(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu) as vm:
            status = await vm.qmp.execute("query-status", deadline=lab.deadline)
            assert status["status"] == "prelaunch"
            await vm.qmp.execute("cont", deadline=lab.deadline)
            await vm.qmp.wait_event("RESUME", deadline=lab.deadline)
            assert vm.last_words == "", "QEMU warns about our own command line"
            assert vm.describe_exit() == "is running"
            assert vm.qmp.version == vm.features.version
            pid = vm.pid
        assert vm.describe_exit() == "was killed by SIGKILL"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert vm.troubles == ()

    lab.play(story())
    assert named_processes(lab.keeper.prefix + "test") == []
    assert {path.name for path in lab.folder.iterdir()} == {
        *("src.command.txt", "src.console.log", "src.qmp.jsonl", "src.stderr.log")
    }
    assert all(json.loads(line) for line in (lab.folder / "src.qmp.jsonl").read_text().splitlines())


def test_features_are_the_binarys_own(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        found = await lab.features(qemu)
        assert {"pc-q35-7.2"} <= found.machines
        assert "q35" not in found.machines
        assert "tcg" in found.accelerators
        assert found.target == "x86_64"
        assert found.has_sandbox
        assert {"memory-backend", "suppress-vmdesc"} <= found.machine_properties
        assert {"events", "return-path", "x-ignore-shared"} <= found.migration_capabilities
        assert {"max-bandwidth", "downtime-limit"} <= found.migration_parameters
        assert found.takes("migrate", "uri")
        assert found.takes("migrate", "channels") == (not found.version.startswith("7."))
        assert "MIGRATION_PASS" in found.events

    lab.play(story())


def test_a_remembered_binary_says_the_same(lab: Lab, qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(lab.folder / "cache"))
    monkeypatch.setattr(features, "_known", {})

    async def story() -> None:
        fresh = await lab.features(qemu)
        features._known.clear()
        assert feature_cache.load(feature_cache.key_of(qemu))
        assert await lab.features(qemu) == fresh

    lab.play(story())


def test_memory_is_shared_both_ways(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu) as vm:
            vm.ram.buffer[0x1000:0x1004] = list(b"pVMM")
            dump = lab.folder / "dump"
            await vm.qmp.execute("pmemsave", {"val": 0x1000, "size": 4, "filename": str(dump)}, deadline=lab.deadline)
            assert dump.read_bytes() == b"pVMM"
            before = vm.ram.used_bytes
            await vm.qmp.execute("cont", deadline=lab.deadline)
            while vm.ram.used_bytes == before:
                assert not lab.deadline.has_passed, "the firmware writes to memory that we do not see"
                await asyncio.sleep(0.005)

    lab.play(story())


def test_our_command_line_gives_two_serial_ports_in_order(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu) as vm:
            chardevs = {entry["label"] for entry in await vm.qmp.execute("query-chardev", deadline=lab.deadline)}
            assert {"qmp", "console", "channel"} <= chardevs
            for name, index in (("com1", 0), ("com2", 1)):
                path = f"/machine/peripheral/{name}"
                got = await vm.qmp.execute("qom-get", {"path": path, "property": "index"}, deadline=lab.deadline)
                assert got == index

    lab.play(story())


def test_a_killed_qemu_is_lost_at_once_to_everybody_who_waits(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu) as vm:
            guarded = vm.guarded(vm.channel[0].readexactly(1), lab.deadline, what="a byte from the guest")
            event = vm.qmp.wait_event("STOP", deadline=lab.deadline)
            waits = asyncio.gather(guarded, event, vm.lost, return_exceptions=True)
            await asyncio.sleep(0)
            os.kill(vm.pid, signal.SIGSEGV)
            byte, stop, ended = await waits
            assert isinstance(byte, LostError)
            assert "was killed by SIGSEGV" in str(byte)
            assert "a byte from the guest" in str(byte)
            assert isinstance(stop, LostError)
            assert not isinstance(ended, BaseException)
            assert ended.status == -signal.SIGSEGV

    lab.play(story())


def test_the_loss_quotes_qemus_words(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu, role="dst", incoming=True) as vm:
            await vm.qmp.execute("migrate-incoming", {"uri": f"unix:{lab.folder}/in"}, deadline=lab.deadline)
            _, writer = await asyncio.open_unix_connection(lab.folder / "in")
            writer.write(b"no stream at all")
            with pytest.raises(LostError, match=r"exited with status 1: .*[Nn]ot a migration stream"):
                await vm.guarded(asyncio.Event().wait(), lab.deadline, what="the stream")
            writer.close()

    lab.play(story())


def test_quit_and_wait(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu) as vm:
            assert (await vm.quit(lab.deadline)).status == 0
            assert vm.describe_exit() == "exited with status 0"
            await vm.kill()

    lab.play(story())


def test_a_stopped_process_ends_at_the_deadline_and_is_cleared_away(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        async with lab.vm(qemu) as vm:
            os.kill(vm.pid, signal.SIGSTOP)
            with pytest.raises(DeadlineError, match="query-status"):
                await vm.qmp.execute("query-status", deadline=Deadline.after(0.05))
            with pytest.raises(DeadlineError, match="the moon"):
                await vm.guarded(asyncio.Event().wait(), Deadline.after(0.05), what="the moon")
            with pytest.raises(DeadlineError, match="did not end"):
                await vm.wait_exit(Deadline.after(0.05))
        assert vm.describe_exit() == "was killed by SIGKILL"

    lab.play(story())


def test_a_deadline_that_two_waits_share_is_told_in_one_way(lab: Lab, qemu: Path) -> None:
    """Whoever waits inside often ends at the very same deadline, and either may notice first."""

    def late() -> asyncio.Future[None]:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.set_exception(DeadlineError("the moon did not answer", hint="is it up?"))
        return answer

    async def story() -> None:
        async with lab.vm(qemu) as vm:
            words = r"waited for the moon until the deadline \(the moon did not answer\); QEMU is running"
            with pytest.raises(DeadlineError, match=words) as told:
                await vm.guarded(late(), Deadline.after(0.0), what="the moon")
            assert told.value.hint == "is it up?"
            # A deadline of its own is its own affair.
            with pytest.raises(DeadlineError, match=r"^the moon did not answer$"):
                await vm.guarded(late(), lab.deadline, what="the moon")

    lab.play(story())


@pytest.mark.parametrize("firmware", ["", "qboot.rom"])
def test_a_payload_boots_and_its_console_is_heard(lab: Lab, qemu: Path, firmware: str) -> None:
    kernel = lab.folder / "payload.elf"
    kernel.write_bytes(payload(b"hello", dies=False))

    async def story() -> None:
        async with lab.vm(qemu, MachineSpec(memory_mib=32, kernel=str(kernel), firmware=firmware)) as vm:
            await vm.qmp.execute("cont", deadline=lab.deadline)
            line = vm.console.wait_line(lambda line: line.endswith("hello"), deadline=lab.deadline)
            await vm.guarded(line, lab.deadline, what="the payload", guest_too=True)
            assert vm.last_words == ""

    lab.play(story())
    assert (lab.folder / "src.console.log").read_bytes().endswith(b"hello\n")


def test_a_guest_that_dies_ends_the_wait_and_stays_for_the_post_mortem(lab: Lab, qemu: Path) -> None:
    kernel = lab.folder / "payload.elf"
    kernel.write_bytes(payload(b"last gasp", dies=True))

    async def story() -> None:
        async with lab.vm(qemu, MachineSpec(memory_mib=32, kernel=str(kernel))) as vm:
            await vm.qmp.execute("cont", deadline=lab.deadline)
            with pytest.raises(GuestError, match=r"SHUTDOWN guest-reset.*a reply.*last gasp"):
                await vm.guarded(vm.channel[0].read(1), lab.deadline, what="a reply", guest_too=True)
            with pytest.raises(GuestError):
                await vm.guarded(vm.channel[0].read(1), lab.deadline, what="another", guest_too=True)
            status = await vm.qmp.execute("query-status", deadline=lab.deadline)
            assert status["running"] is False

    lab.play(story())


def test_a_refused_command_line_is_a_setup_error_with_qemus_words(lab: Lab, qemu: Path) -> None:
    async def story() -> None:
        spec = MachineSpec(memory_mib=32, cpu="no-such-cpu")
        with pytest.raises(SetupError, match=r"refuses to start: exited with status 1: .*no-such-cpu"):
            async with lab.vm(qemu, spec):
                pass

    lab.play(story())
    assert "no-such-cpu" in (lab.folder / "src.stderr.log").read_text()


def test_a_binary_replaced_behind_its_start_script_is_noticed(
    lab: Lab, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(lab.folder / "cache"))

    async def story() -> None:
        old = replace(await lab.features(qemu), version="1.2.3")
        with pytest.raises(SetupError, match=r"was QEMU 1\.2\.3 and is"):
            async with lab.vm(qemu, features=old):
                pass

    lab.play(story())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho usage: frobnicate >&2; exit 7\n", "exited with status 7: usage: frobnicate"),
        ("#!/bin/sh\nprintf 'SSH-2.0\\r\\n' >&3; exec sleep 60\n", "no QMP greeting"),
        ("#!/no/such/interpreter\n", "No such file"),
        ("\x7fELF", "is no QEMU"),
        ("all work and no play", "neither a program nor a start script"),
    ],
)
def test_what_is_no_qemu_is_one_line_with_a_hint(lab: Lab, script: str, words: str) -> None:
    path = lab.folder / "qemu-system-x86_64"
    path.write_text(script)
    path.chmod(0o755)

    async def story() -> None:
        with pytest.raises(SetupError, match=words) as caught:
            await features.probe_binary(path, deadline=Deadline.after(5.0))
        assert caught.value.hint
        assert "\n" not in str(caught.value)

    lab.play(story())


PARROT = """#!{python}
import json, re, sys
words = next(word for word in sys.argv if word.startswith("socket,id=qmp"))
qmp = open(int(re.search(r"fd=([0-9]+)", words)[1]), "r+b", buffering=0)
version = {{"qemu": {{"major": 7, "minor": 2, "micro": 0}}, "package": ""}}
qmp.write(json.dumps({{"QMP": {{"version": version, "capabilities": []}}}}).encode() + b"\\r\\n")
while words := qmp.read(1 << 16):
    qmp.write(json.dumps({{"return": {reply}, "id": json.loads(words).get("id")}}).encode() + b"\\r\\n")
"""


@pytest.mark.parametrize("reply", ["{}", "[]", "None", "5", "'x'", "[{}]", "[5]"])
def test_what_answers_qmp_in_another_way_than_qemu_is_none(lab: Lab, reply: str) -> None:
    path = lab.folder / "qemu-system-x86_64"
    path.write_text(PARROT.format(python=sys.executable, reply=reply))
    path.chmod(0o755)

    async def story() -> None:
        with pytest.raises(SetupError, match="not like a QEMU system emulator"):
            await features.probe_binary(path, deadline=Deadline.after(10.0))

    lab.play(story())


def test_a_binary_that_hangs_is_given_up(lab: Lab) -> None:
    path = lab.folder / "qemu-system-x86_64"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)

    async def story() -> None:
        with pytest.raises(SetupError, match="does not answer"):
            await features.probe_binary(path, deadline=Deadline.after(0.2))

    lab.play(story())


def test_a_start_script_that_does_not_exec_leaves_no_orphan(lab: Lab) -> None:
    path = lab.folder / "qemu-system-x86_64"
    path.write_text(f'#!/bin/sh\n"{QEMUS[0]}" "$@"\ntrue\n')
    path.chmod(0o755)

    async def story() -> None:
        async with lab.vm(path) as vm:
            await vm.qmp.execute("query-status", deadline=lab.deadline)
            assert len(named_processes(vm.name)) == 2

    lab.play(story())
    assert named_processes(lab.keeper.prefix + "test") == []


def test_a_cancelled_start_or_run_leaves_nothing(lab: Lab, qemu: Path) -> None:
    async def forever() -> None:
        async with lab.vm(qemu):
            await asyncio.Event().wait()

    async def story() -> None:
        await lab.features(qemu)
        for turns in range(1, 40, 2):
            task = asyncio.create_task(forever())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    lab.play(story())
    assert named_processes(lab.keeper.prefix + "test") == []
