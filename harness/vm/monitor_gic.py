"""Registers of a stopped machine's GICv3 as its own monitor reads them: HMP ``xp`` calls the device's read function.

The host's witness before anything was saved. Addresses: QEMU hw/arm/virt.c, base_memmap; registers: Arm IHI 0069, 12.9,
12.11 and 12.19. None of those read here changes by being read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.model.deadline import Deadline
from harness.vm.vm import Vm

GICD, GITS, GICR = 0x0800_0000, 0x0808_0000, 0x080A_0000
_GICR_STRIDE = {3: 0x2_0000, 4: 0x4_0000}
_SGI_FRAME, _VLPI_FRAME = 0x1_0000, 0x2_0000
_ISENABLER, _ISPENDR, _ISACTIVER, _IROUTER = 0x100, 0x200, 0x300, 0x6000
_CTLR, _PROPBASER, _PENDBASER = 0x0, 0x70, 0x78
_CBASER, _CWRITER, _CREADR, _BASER, _BASERS = 0x80, 0x88, 0x90, 0x100, 3
_WORD = re.compile(r"0x([0-9a-f]+)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedistributorView:
    """One vCPU's registers."""

    vcpu: int
    enabled: int
    pending: int
    active: int
    ctlr: int
    propbaser: int
    pendbaser: int
    vpendbaser: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GicView:
    """Redistributors, and of the distributor what was asked for. Bit N of a number stands for INTID N."""

    redistributors: tuple[RedistributorView, ...]
    enabled: int = 0
    pending: int = 0
    active: int = 0
    routers: dict[int, int]
    """INTID -> GICD_IROUTER, its lower half."""
    its_ctlr: int
    its_written_to: int
    its_read_at: int
    its_queue: int
    its_tables: tuple[int, ...] = ()
    """GITS_BASER of devices, collections and vPEs."""


async def look_at_gic(vm: Vm, spis: Iterable[int], *, deadline: Deadline) -> GicView:
    """The redistributors of all vCPUs, the ITS, and the distributor's state of *spis*."""
    spis = sorted(set(spis))
    words = sorted({intid // 32 for intid in spis})
    redistributors = [await _redistributor(vm, vcpu, deadline) for vcpu in range(vm.spec.vcpus)]
    bits = {}
    for name, base in (("enabled", _ISENABLER), ("pending", _ISPENDR), ("active", _ISACTIVER)):
        found = [await _read(vm, GICD + base + 4 * word, deadline) << 32 * word for word in words]
        bits[name] = sum(found)
    return GicView(
        redistributors=tuple(redistributors),
        **bits,
        routers={intid: await _read(vm, GICD + _IROUTER + 8 * intid, deadline) for intid in spis},
        its_ctlr=await _read(vm, GITS + _CTLR, deadline),
        its_written_to=await _read(vm, GITS + _CWRITER, deadline),
        its_read_at=await _read(vm, GITS + _CREADR, deadline),
        its_queue=await _read(vm, GITS + _CBASER, deadline, size="g"),
        its_tables=tuple([await _read(vm, GITS + _BASER + 8 * at, deadline, size="g") for at in range(_BASERS)]),
    )


async def _redistributor(vm: Vm, vcpu: int, deadline: Deadline) -> RedistributorView:
    base = GICR + vcpu * _GICR_STRIDE[vm.spec.gic_version]
    virtual = base + _VLPI_FRAME if vm.spec.gic_version == max(_GICR_STRIDE) else 0
    return RedistributorView(
        vcpu=vcpu,
        enabled=await _read(vm, base + _SGI_FRAME + _ISENABLER, deadline),
        pending=await _read(vm, base + _SGI_FRAME + _ISPENDR, deadline),
        active=await _read(vm, base + _SGI_FRAME + _ISACTIVER, deadline),
        ctlr=await _read(vm, base + _CTLR, deadline),
        propbaser=await _read(vm, base + _PROPBASER, deadline, size="g"),
        pendbaser=await _read(vm, base + _PENDBASER, deadline, size="g"),
        vpendbaser=await _read(vm, virtual + _PENDBASER, deadline, size="g") if virtual else 0,
    )


async def _read(vm: Vm, gpa: int, deadline: Deadline, *, size: str = "w") -> int:
    """One access of 4 bytes, or 8 with *size* ``g``."""
    line = f"xp /1{size}x {gpa:#x}"
    return parse_word(str(await vm.qmp.execute("human-monitor-command", {"command-line": line}, deadline=deadline)))


def parse_word(text: str) -> int:
    """The number in a line of ``xp``; 0 where the monitor shows none."""
    found = _WORD.search(text)
    return int(found[1], 16) if found else 0
