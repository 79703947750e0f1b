"""Canaries stay silent when nothing happens, across a move, and name the register that was changed from outside."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.guest.registers import register_name
from harness.model.deadline import Deadline
from harness.model.machine import Arch

pytestmark = pytest.mark.vm
ARCHES = tuple(Arch)
SEED = 0xCAFEF00D12345678


@dataclass(slots=True)
class Debugger:
    """The few packets of the GDB remote protocol that change a register."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, body: str) -> str:
        self.writer.write(f"${body}#{sum(body.encode()) & 0xFF:02x}".encode())
        reply = "T"
        # The stub says unasked that the machine has stopped ("T02thread:01;").
        while reply.startswith("T"):
            await self.reader.readuntil(b"$")
            reply = (await self.reader.readuntil(b"#"))[:-1].decode()
            await self.reader.readexactly(2)
            self.writer.write(b"+")
        return reply

    async def set_register(self, thread: int, number: int, value: bytes) -> bytes:
        """Returns what it was. *number* is gdb's, from QEMU's gdb-xml/i386-64bit.xml and aarch64-*.xml."""
        assert await self.ask(f"Hg{thread:x}") == "OK"
        old = bytes.fromhex(await self.ask(f"p{number:x}"))
        assert await self.ask(f"P{number:x}={value.hex()}") == "OK"
        return old


PLACE = {Arch.X86_64: ("p10", "p11"), Arch.AARCH64: ("p20", "p21")}
"""gdb's questions for the program counter, and for the flags: EFLAGS, PSTATE."""
INTERRUPTIBLE = {Arch.X86_64: (1 << 9, 1 << 9), Arch.AARCH64: (1 << 7, 0)}
"""Mask and value of the flags of a vCPU that takes interrupts: EFLAGS.IF set, PSTATE.I clear."""


def takes_interrupts(arch: Arch, flags: str) -> bool:
    """Whether a vCPU with these flags, as gdb gives them, is at no handler's beginning."""
    mask, value = INTERRUPTIBLE[arch]
    return int.from_bytes(bytes.fromhex(flags), "little") & mask == value


async def stop_while_spinning(path: Path, arch: Arch, deadline: Deadline) -> Debugger:
    """Stop the machine at a moment when both vCPUs are in their spin: elsewhere registers are not canaries yet."""
    while not deadline.has_passed:
        debugger = Debugger(*await asyncio.open_unix_connection(path))
        # QEMU knows registers by number only for who has read their description.
        await debugger.ask("qXfer:features:read:target.xml:0,ffb")
        places = []
        for thread in ("Hg1", "Hg2"):
            await debugger.ask(thread)
            places.append(([await debugger.ask(word) for word in PLACE[arch]], await debugger.ask("p0")))
        ((place, flags), first), ((other, other_flags), second) = places
        # Two vCPUs at one place, with different values in their first register: drawn ones. At the first instruction of
        # an interrupt's handler that is true as well, and the handler puts its own values back.
        is_open = all(takes_interrupts(arch, word) for word in (flags, other_flags))
        if is_open and place == other and first != second:
            return debugger
        await debugger.ask("D")
        debugger.writer.close()
        await debugger.writer.wait_closed()
    raise AssertionError("the vCPUs never spun at the same time")


CHANGES = {
    Arch.X86_64: {
        "rax": 0,
        "rbx": 1,
        "r15": 15,
        "rsp": 7,
        "fs_base": 24,
        "kernel_gs_base": 26,
        "cr2": 28,
        "ymm0": 49,
        "ymm15": 64,
        "st": 36,
        "mxcsr": 65,
    },
    Arch.AARCH64: {"x0": 0, "x7": 7, "x30": 30, "sp": 31, "v0": 34, "v31": 65, "fpsr": 66, "fpcr": 67},
}
"""Register -> gdb's number of it. gdb's x87 registers do not turn with the stack, so any one of ours may be it."""
FLAGS = {"mxcsr": 0x1F81, "fpsr": 0x8000001, "fpcr": 0x400000}
"""Registers that take only some values."""
CHANGED = [(arch, register) for arch, registers in CHANGES.items() for register in registers]


def test_untouched_registers_are_silent_under_interrupts_and_commands(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=4) as (_, probe, _):
            await probe.canary_arm(SEED, deadline=lab.deadline)
            before = await probe.heartbeat(deadline=lab.deadline)
            now = before
            while now.vcpus[3].beats < before.vcpus[3].beats + 5:
                now = await probe.heartbeat(deadline=lab.deadline)
            report = await probe.canary_check(deadline=lab.deadline)
            assert report.mismatches == ()
            assert report.is_clean
            assert report.checks[0] >= 2
            assert report.checks[1:] == (1, 1, 1)

    lab.play(story())


def test_nothing_armed_is_no_pass(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=2) as (_, probe, _):
            report = await probe.canary_check(deadline=first_lab.deadline)
            assert report.checks == (0, 0)
            assert not report.is_clean

    first_lab.play(story())


def test_verify_runs_on_the_others_while_one_vcpu_is_armed(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=3, memory_mib=64) as (_, probe, guest):
            await probe.fill(SEED, deadline=first_lab.deadline)
            await probe.canary_arm(SEED, vcpu_mask=0b100, deadline=first_lab.deadline)
            memory = await probe.verify(deadline=first_lab.deadline)
            assert memory.is_clean
            assert memory.pages_checked == guest.managed_pages
            report = await probe.canary_check(deadline=first_lab.deadline)
            assert report.checks == (0, 0, 1)
            assert report.is_clean

    first_lab.play(story())


@pytest.mark.parametrize("vcpu", [0, 1])
@pytest.mark.parametrize(("first_lab", "register"), CHANGED, indirect=["first_lab"])
def test_a_register_changed_from_outside_is_named(first_lab: Any, register: str, vcpu: int) -> None:
    async def story() -> None:
        path = first_lab.folder / "gdb"
        gdb = ("-chardev", f"socket,id=gdb,path={path},server=on,wait=off", "-gdb", "chardev:gdb")
        async with first_lab.guest(*gdb, vcpus=2, memory_mib=64) as (_, probe, _):
            await probe.canary_arm(SEED, deadline=first_lab.deadline)
            debugger = await stop_while_spinning(path, first_lab.arch, first_lab.deadline)
            number = CHANGES[first_lab.arch][register]
            await debugger.ask(f"Hg{vcpu + 1:x}")
            size = len(bytes.fromhex(await debugger.ask(f"p{number:x}")))
            flags = FLAGS.get(register)
            value = flags.to_bytes(4, "little") if flags else bytes(n % 256 for n in range(1, size + 1))
            if register.endswith("_base"):
                value = value[:6] + bytes(2)
            old = await debugger.set_register(vcpu + 1, number, value)
            await debugger.ask("D")
            report = await probe.canary_check(deadline=first_lab.deadline)
            debugger.writer.close()
            (found,) = report.mismatches
            assert (found.vcpu, found.register.rstrip("01234567") if register == "st" else found.register) == (
                vcpu,
                register,
            )
            # With SVE gdb's v registers are as wide as the processor's vectors; ours are their first 16 bytes.
            assert found.found[:size] == value[: len(found.found)]
            assert found.expected[:size] == old[: len(found.expected)]
            assert not report.is_clean

    first_lab.play(story())


def test_armed_vcpus_move_unharmed(lab: Any) -> None:
    async def story() -> None:
        deadline = lab.deadline
        path = lab.folder / "move"
        async with (
            lab.guest(vcpus=4) as (source, probe, _),
            lab.vm("-incoming", f"unix:{path}", vcpus=4) as destination,
        ):
            await probe.canary_arm(SEED, deadline=deadline)
            await source.monitor.execute("migrate", uri=f"unix:{path}")
            await destination.monitor.wait("RESUME")
            probe.attach(*destination.channel)
            report = await probe.canary_check(deadline=deadline)
            assert report.mismatches == ()
            assert report.checks[1:] == (1, 1, 1)
            assert report.is_clean

    lab.play(story())


def test_register_numbers_have_names() -> None:
    numbers = {0: "rax", 32: "ymm0", 84: "lstar", 120: "gdtr", 255: "register 255", 287: "sp", 351: "v31"}
    numbers |= {386: "tpidr_el1", 404: "mpidr_el1", 432: "icc_pmr_el1", 452: "pmcr_el0"}
    assert {number: register_name(number) for number in numbers} == numbers
