"""Write registers of a stopped VM's vCPUs through QEMU's gdb stub: nothing else lets a host do so.

Protocol: GDB manual, appendix E. Numbers of registers: QEMU target/i386/gdbstub.c with gdb-xml/i386-64bit.xml.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, LostError
from harness.vm.vm import Vm

NUMBERS: Mapping[str, int] = {
    **{name: number for number, name in enumerate(["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"])},
    **{f"r{number}": number for number in range(8, 16)},
    "rip": 16,
    "rflags": 17,
    "cr0": 27,
    "cr2": 28,
    "cr3": 29,
    "cr4": 30,
    "efer": 32,
}
_IN_ORDER = ("efer", "cr4", "cr3", "cr0")
"""Long mode begins with CR0.PG, and by then the others must be there (Intel SDM vol. 3, 10.8.5)."""
_MORE_BYTES = 4096


class GdbStub:
    """A connection to one VM's stub. The VM must be stopped, and stays so."""

    def __init__(self, role: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._role, self._reader, self._writer = role, reader, writer

    async def write_registers(self, vcpu: int, values: Mapping[str, int], *, deadline: Deadline) -> None:
        """Those of *values* that can be written at all. HarnessError when QEMU refuses one."""
        await self._ask(f"Hg{vcpu + 1:x}", deadline)
        names = [name for name in values if name in NUMBERS and name not in _IN_ORDER]
        for name in [*names, *(name for name in _IN_ORDER if name in values)]:
            size_bytes = 4 if name == "rflags" else 8
            value = values[name].to_bytes(size_bytes, "little").hex()
            if await self._ask(f"P{NUMBERS[name]:x}={value}", deadline) != "OK":
                raise HarnessError(f"{self._role}: QEMU's gdb stub does not write {name} of vCPU {vcpu}")

    async def greet(self, deadline: Deadline) -> None:
        """QEMU 7.2 takes single registers only from who has read what registers there are."""
        await self._ask("qXfer:features:read:target.xml:0,ffb", deadline)

    async def _ask(self, packet: str, deadline: Deadline) -> str:
        data = packet.encode("ascii")
        self._writer.write(b"+$%s#%02x" % (data, sum(data) & 0xFF))
        try:
            async with asyncio.timeout(deadline.left_s):
                await self._reader.readuntil(b"$")
                answer = (await self._reader.readuntil(b"#"))[:-1]
                await self._reader.readexactly(2)
        except TimeoutError:
            raise DeadlineError(f"{self._role}: no answer from QEMU's gdb stub before the deadline") from None
        except (EOFError, OSError) as loss:
            raise LostError(f"{self._role}: QEMU's gdb stub hung up") from loss
        return answer.decode("ascii", "replace")


@asynccontextmanager
async def gdb_stub(vm: Vm, folder: Path, *, deadline: Deadline) -> AsyncIterator[GdbStub]:
    """The stub of *vm*, whose socket is in the private *folder*; closed again with the block."""
    path = folder / f"{vm.role}.gdb"
    await _monitor(vm, f"gdbserver unix:{path},server=on,wait=off", deadline)
    try:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            stub = GdbStub(vm.role, reader, writer)
            await stub.greet(deadline)
            yield stub
        finally:
            writer.close()
    finally:
        await _monitor(vm, "gdbserver none", deadline)
        path.unlink(missing_ok=True)


async def _monitor(vm: Vm, line: str, deadline: Deadline) -> None:
    await vm.qmp.execute("human-monitor-command", {"command-line": line}, deadline=deadline)
