"""QEMU without the harness around it: what the benches compare with."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from typing import Any

from harness.guest.image import probe_image
from harness.model.machine import TCG_TRIM_KIB, X86_64_CPU

QEMU = shutil.which("qemu-system-x86_64") or "qemu-system-x86_64"


class Machine:
    """A QEMU with as little around it as possible: its own memory, two sockets, no artefacts."""

    def __init__(self, role: str, memory_mib: int, *, incoming: bool) -> None:
        self.role = role
        pairs = [socket.socketpair() for _ in range(2)]
        theirs = [pair[1] for pair in pairs]
        qmp, channel = (end.fileno() for end in theirs)
        argv = [
            *(QEMU, "-name", f"cvmig-bench-{role}", "-nodefaults", "-display", "none", "-accel", "tcg"),
            *("-machine", "pc-q35-7.2,smm=off,sata=off,usb=off,vmport=off", "-cpu", X86_64_CPU),
            *("-m", f"{memory_mib * 1024 - TCG_TRIM_KIB}K", "-kernel", str(probe_image())),
            *("-chardev", f"socket,id=q,fd={qmp}", "-mon", "chardev=q,mode=control"),
            *("-chardev", f"socket,id=c,fd={channel}", "-device", "isa-serial,index=1,chardev=c"),
            *(("-S", "-incoming", "defer") if incoming else ()),
        ]
        self.process = subprocess.Popen(argv, pass_fds=(qmp, channel), stderr=subprocess.DEVNULL)
        for end in theirs:
            end.close()
        self._ends = [pair[0] for pair in pairs]

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(sock=self._ends[0])
        self.channel = await asyncio.open_connection(sock=self._ends[1])
        await self._reader.readline()
        await self.run("qmp_capabilities")

    async def run(self, command: str, **arguments: Any) -> Any:
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._writer.write(json.dumps({"execute": command, "arguments": words}).encode())
        while True:
            reply = json.loads(await self._reader.readline())
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise RuntimeError(reply["error"])

    async def prepare(self) -> None:
        capabilities = [{"capability": name, "state": True} for name in ("events", "return-path")]
        await self.run("migrate-set-capabilities", capabilities=capabilities)

    async def completed(self) -> None:
        """Wait for the event; whoever was asked anything meanwhile may have missed it."""
        while True:
            said = json.loads(await self._reader.readline())
            if said.get("event") == "MIGRATION" and said["data"]["status"] in {"completed", "failed"}:
                assert said["data"]["status"] == "completed"
                return

    async def wait(self, reached: Any) -> None:
        while not reached(await self.run("query-migrate")):  # noqa: ASYNC110 - as plain as a script gets
            await asyncio.sleep(0.005)

    async def quit(self) -> None:
        await self.run("quit")
        await asyncio.to_thread(self.process.wait)
