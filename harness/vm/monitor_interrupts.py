"""Interrupts of a stopped PC as its own monitor shows them: HMP ``info lapic``, and of the controllers of lines QMP's
``x-query-interrupt-controllers`` (in 10.0, not in 7.2) or HMP ``info pic``, which are one text.

The monitor is the host's witness before anything was saved. Its text is QEMU's (x86_cpu_dump_local_apic_state in
target/i386/cpu-apic.c or helper.c, pic_print_info, ioapic_print_info).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.model.deadline import Deadline
from harness.vm.vm import Vm

_CONTROLLERS = "x-query-interrupt-controllers"
"""Answers HumanReadableText (qapi/machine.json)."""
_VECTORS = re.compile(r"(\d+)(?:\(level\))?")
_PIC = re.compile(r"pic(\d): irr=([0-9a-f]{2}) imr=([0-9a-f]{2}) isr=([0-9a-f]{2})")
_PIN = re.compile(r"pin (\d+)\s+0x([0-9a-f]{16})")
_IOAPIC_SET = re.compile(r"^\s+(IRR|Remote IRR)\s+(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LapicView:
    """One local APIC."""

    vcpu: int
    pending: frozenset[int]
    in_service: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesView:
    """Both 8259A, master first, and the I/O APIC."""

    pic_irr: tuple[int, int] = (0, 0)
    pic_imr: tuple[int, int] = (0, 0)
    pic_isr: tuple[int, int] = (0, 0)
    pins: tuple[int, ...] = ()
    """Redirection entries."""
    up: frozenset[int] = frozenset()
    """Pins in the I/O APIC's IRR."""


async def look_at_lapics(vm: Vm, *, deadline: Deadline) -> tuple[LapicView, ...]:
    """The local APICs of all vCPUs (APIC id = index: one socket, as many cores as vCPUs)."""
    return tuple([parse_lapic(vcpu, await _hmp(vm, f"info lapic {vcpu}", deadline)) for vcpu in range(vm.spec.vcpus)])


async def look_at_lines(vm: Vm, *, deadline: Deadline) -> LinesView:
    """The controllers of lines."""
    if _CONTROLLERS in vm.features.commands:
        answer = await vm.qmp.execute(_CONTROLLERS, deadline=deadline)
        return parse_pic(str(answer["human-readable-text"]))
    return parse_pic(await _hmp(vm, "info pic", deadline))


def parse_lapic(vcpu: int, text: str) -> LapicView:
    """``info lapic N``: the lines ``ISR`` and ``IRR`` list vectors in decimal."""
    sets = {"ISR": frozenset[int](), "IRR": frozenset[int]()}
    for line in text.splitlines():
        name, _, rest = line.strip().partition("\t")
        if name in sets and "(none)" not in rest:
            sets[name] = frozenset(int(match[1]) for match in _VECTORS.finditer(rest))
    return LapicView(vcpu=vcpu, pending=sets["IRR"], in_service=sets["ISR"])


def parse_pic(text: str) -> LinesView:
    """``info pic``."""
    pics = {int(match[1]): tuple(int(match[part], 16) for part in (2, 3, 4)) for match in _PIC.finditer(text)}
    irr, imr, isr = ((pics[0][part], pics[1][part]) if len(pics) == 2 else (0, 0) for part in range(3))
    up: frozenset[int] = frozenset()
    for match in _IOAPIC_SET.finditer(text):
        if match[1] == "IRR" and "(none)" not in match[2]:
            up = frozenset(int(found[1]) for found in _VECTORS.finditer(match[2]))
    return LinesView(
        pic_irr=irr, pic_imr=imr, pic_isr=isr, pins=tuple(int(match[2], 16) for match in _PIN.finditer(text)), up=up
    )


async def _hmp(vm: Vm, line: str, deadline: Deadline) -> str:
    return str(await vm.qmp.execute("human-monitor-command", {"command-line": line}, deadline=deadline))
