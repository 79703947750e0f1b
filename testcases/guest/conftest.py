"""A launcher as small as can be, so that tests of the probe depend on nothing but the probe and its client."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.guest.image import probe_image
from harness.guest.probe import Probe
from harness.hosts.machine_probe import find_emulators
from harness.model.deadline import Deadline
from harness.model.guest import GuestDescription, RamLayout
from harness.model.machine import TCG_TRIM_KIB, Arch

CHECKOUT = Path(__file__).parents[2]
QEMUS = [(arch, qemu) for arch in Arch for qemu in find_emulators(arch, CHECKOUT)]
BOUND_S = 180.0
"""For a host on which ten times as many threads want to run as it has CPUs; a guest takes a second or two."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Monitor:
    """Just enough QMP: one command at a time, events kept for who waits."""

    streams: Streams
    events: list[str] = field(default_factory=list)

    async def _next(self) -> dict[str, Any]:
        line = await self.streams[0].readline()
        assert line, "QEMU closed its monitor"
        message: dict[str, Any] = json.loads(line)
        if "event" in message:
            status = message.get("data", {}).get("status", "")
            self.events.append(message["event"] + (f" {status}" if status else ""))
        return message

    async def execute(self, command: str, **arguments: Any) -> Any:
        self.streams[1].write(json.dumps({"execute": command, "arguments": arguments}).encode())
        while not {"return", "error"} & (message := await self._next()).keys():
            pass
        assert "return" in message, message
        return message["return"]

    async def wait(self, *names: str) -> str:
        """The first of *names* that has come or comes."""
        while not (seen := [name for name in self.events if name in names]):
            await self._next()
        self.events.remove(seen[0])
        return seen[0]


@dataclass(slots=True, kw_only=True)
class Vm:
    process: asyncio.subprocess.Process
    channel: Streams
    monitor: Monitor
    ram: memoryview
    layout: RamLayout
    console: Path
    hypercalls: socket.socket
    """The host's end of COM3; nobody listens there unless the test does."""


@dataclass(slots=True, kw_only=True)
class Lab:
    folder: Path
    arch: Arch
    qemu: Path
    deadline: Deadline
    started: int = 0

    @asynccontextmanager
    async def vm(
        self,
        *options: str,
        vcpus: int = 1,
        memory_mib: int = 128,
        below_4g_mib: int = 0,
        accel: str = "tcg",
        has_platform: bool = True,
    ) -> AsyncIterator[Vm]:
        self.started += 1
        console = self.folder / f"console-{self.started}"
        async with AsyncExitStack() as stack:
            ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
            stack.callback(ours[2].close)
            memfd = os.memfd_create("cvmig-test")
            memory_kib = (memory_mib << 10) - TCG_TRIM_KIB
            os.ftruncate(memfd, memory_kib << 10)
            area = mmap.mmap(memfd, memory_kib << 10)
            fds = [memfd, *(end.fileno() for end in theirs)]
            words = command_line(self.arch, str(self.qemu), fds, vcpus, memory_kib, console, below_4g_mib)
            words[words.index("-accel") + 1] = accel
            if not has_platform:
                del words[-2:]
            process = await asyncio.create_subprocess_exec(*words, *options, pass_fds=fds)
            stack.push_async_callback(end_process, process)
            os.close(memfd)
            for end in theirs:
                end.close()
            monitor = Monitor(await asyncio.open_connection(sock=ours[0]))
            channel = await asyncio.open_connection(sock=ours[1])
            for writer in (monitor.streams[1], channel[1]):
                stack.push_async_callback(close_writer, writer)
            await monitor.execute("qmp_capabilities")
            layout = RamLayout.of(self.arch, memory_kib << 10, below_4g_mib=below_4g_mib)
            yield Vm(
                process=process,
                channel=channel,
                monitor=monitor,
                ram=memoryview(area),
                layout=layout,
                console=console,
                hypercalls=ours[2],
            )

    @asynccontextmanager
    async def guest(self, *options: str, **properties: Any) -> AsyncIterator[tuple[Vm, Probe, GuestDescription]]:
        """*properties* are those of :meth:`vm`."""
        async with self.vm(*options, **properties) as vm:
            probe = Probe(*vm.channel)
            try:
                # Asked while it boots, it would get the question twice: READY makes the channel repeat what is open.
                await probe.ready(deadline=self.deadline)
                yield vm, probe, await probe.describe(deadline=self.deadline)
            finally:
                await probe.close()

    def play(self, story: Coroutine[Any, Any, None]) -> None:
        asyncio.run(story)


MACHINES = {Arch.X86_64: "pc-q35-7.2", Arch.AARCH64: "virt-7.2,gic-version=3"}


def serial_lines(arch: Arch) -> tuple[str, ...]:
    """Behind the console: the channel, and a PC's third line for hypercalls."""
    if arch is Arch.AARCH64:
        return ("-device", "pci-serial,addr=1,chardev=channel")
    return ("-serial", "chardev:channel", "-serial", "chardev:hypercalls")


def command_line(
    arch: Arch, qemu: str, fds: list[int], vcpus: int, memory_kib: int, console: Path, below_4g_mib: int
) -> list[str]:
    memfd, monitor, channel, hypercalls = fds
    split = f",max-ram-below-4g={below_4g_mib}M" if below_4g_mib else ""
    return [
        *(qemu, "-name", "cvmig-probe-test", "-nodefaults", "-display", "none", "-no-user-config"),
        *("-machine", f"{MACHINES[arch]},memory-backend=ram{split}", "-accel", "tcg", "-cpu", "max"),
        *("-m", f"{memory_kib}K", "-smp", str(vcpus), "-kernel", str(probe_image(arch))),
        *("-object", f"memory-backend-file,id=ram,size={memory_kib}K,mem-path=/proc/self/fd/{memfd},share=on"),
        *("-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=hypercalls,fd={hypercalls}", "-serial", f"file:{console}"),
        *("-chardev", f"socket,id=channel,fd={channel}", *serial_lines(arch)),
    ]


async def end_process(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def close_writer(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Modules that name their ARCHES run on these, the others on a PC alone.

    One that says ``NEWER_QEMU_IS_NIGHTLY`` is about the guest's own code, which takes long and asks little of QEMU.
    """
    arches = getattr(metafunc.module, "ARCHES", (Arch.X86_64,))
    named = [str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")]
    if "lab" in metafunc.fixturenames:
        found = [one for one in QEMUS if one[0] in arches]
        metafunc.parametrize("lab", [_param(one, metafunc) for one in found], indirect=True)
    if "first_lab" in metafunc.fixturenames and not any("first_lab" in names for names in named):
        metafunc.parametrize("first_lab", arches, indirect=True)


def _param(one: tuple[Arch, Path], metafunc: pytest.Metafunc) -> Any:
    arch, qemu = one
    is_first = one == next(other for other in QEMUS if other[0] is arch)
    is_nightly = getattr(metafunc.module, "NEWER_QEMU_IS_NIGHTLY", False) and not is_first
    marks = (pytest.mark.nightly,) if is_nightly else ()
    return pytest.param(one, id=f"{arch}-{qemu.parent.parent.name}", marks=marks)


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """Once per QEMU of this machine."""
    arch, qemu = request.param
    return Lab(folder=tmp_path, arch=arch, qemu=qemu, deadline=Deadline.after(BOUND_S))


@pytest.fixture
def first_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """The first QEMU of each architecture, for what does not depend on QEMU."""
    qemu = next((qemu for arch, qemu in QEMUS if arch is request.param), None)
    if qemu is None:
        pytest.skip(f"no qemu-system-{request.param}")
    return Lab(folder=tmp_path, arch=request.param, qemu=qemu, deadline=Deadline.after(BOUND_S))


Story = Callable[[Lab], Coroutine[Any, Any, None]]
