"""Registers of all vCPUs as QEMU holds them: ``info registers -a`` of its monitor, x86 (target/i386/cpu-dump.c)."""

from __future__ import annotations

import re

from harness.model.deadline import Deadline
from harness.model.errors import ProtocolError
from harness.model.reset import Registers
from harness.vm.vm import Vm

_CPU = re.compile(r"^\s*CPU#(\d+)", re.MULTILINE)
_WORD = re.compile(r"\b([RE]?(?:AX|BX|CX|DX|SI|DI|BP|SP|IP)|R\d{1,2}|[RE]FL|CR[0234]|EFER)\s*=\s*([0-9a-f]+)")
_SEGMENT = re.compile(r"^(CS|SS|DS|ES|FS|GS)\s*=([0-9a-f]{4}) ([0-9a-f]+) ([0-9a-f]+)", re.MULTILINE)
_WANTED = 24
"""Fewer than these are no dump of an x86 vCPU."""


async def read_registers(vm: Vm, *, deadline: Deadline) -> tuple[Registers, ...]:
    """Of each vCPU, by its number. ProtocolError for an answer that cannot be read."""
    answer = await vm.qmp.execute("human-monitor-command", {"command-line": "info registers -a"}, deadline=deadline)
    return parse_registers(str(answer))


def parse_registers(dump: str) -> tuple[Registers, ...]:
    """Names are those of 64-bit mode in lower case, whatever mode the vCPU is in; ``cs.base`` of segments.

    Raises ProtocolError.
    """
    parts = _CPU.split(dump.replace("\r", ""))[1:]
    found = [_one(text) for text in parts[1::2]]
    if not found or any(len(registers) < _WANTED for registers in found):
        raise ProtocolError(f"no registers in QEMU's dump: {dump[:80]!r}")
    return tuple(found)


def _one(text: str) -> Registers:
    registers = {_name(name): int(value, 16) for name, value in _WORD.findall(text)}
    for name, selector, base, _limit in _SEGMENT.findall(text):
        registers[name.lower()] = int(selector, 16)
        registers[f"{name.lower()}.base"] = int(base, 16)
    return registers


def _name(name: str) -> str:
    if name.endswith("FL"):
        return "rflags"
    is_wide = name[0] in "RE" and name != "EFER"
    return f"r{name[1:].lower()}" if is_wide else name.lower()
