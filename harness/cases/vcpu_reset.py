"""Registers of protected vCPUs around a reset: what POST copies back, what PRE lets QEMU write, and the bugs of both.

QEMU under TCG has reset the vCPUs itself, which is what VMSA and register writes come to when nothing is wrong.
The bugs are really inflicted: the vCPUs hold the old boot's registers, and whoever looks at QEMU sees them.
"""

from __future__ import annotations

from harness.cases.stage import CaseOverError, Stage
from harness.checks import reset_vcpu
from harness.model.deadline import Deadline
from harness.model.reset import Registers
from harness.model.soft_fault import SoftFault
from harness.vm.cpu_registers import read_registers
from harness.vm.gdb_stub import gdb_stub
from harness.vm.vm import Vm

_CONTROL = frozenset({"cr0", "cr4", "efer"})
"""What KVM keeps of a protected vCPU outside its VMSA, and takes from QEMU at a reset."""


async def before_reset(stage: Stage, vm: Vm, *, deadline: Deadline) -> tuple[Registers, ...]:
    """The old boot's registers, where a bug brings them back; else nothing, and nobody is asked."""
    return await read_registers(vm, deadline=deadline) if _kept(stage) else ()


async def after_reset(stage: Stage, vm: Vm, old: tuple[Registers, ...], *, deadline: Deadline) -> None:
    """Inflict what belongs to a bug, then judge the registers with which the vCPUs are about to run.

    Raises CaseOverError when they are wrong: such a guest goes nowhere.
    """
    if kept := _kept(stage):
        async with gdb_stub(vm, stage.runtime, deadline=deadline) as stub:
            for number, registers in enumerate(old):
                values = {name: value for name, value in registers.items() if kept == "all" or name in _CONTROL}
                await stub.write_registers(number, values, deadline=deadline)
    found = reset_vcpu.check_reset_registers(await read_registers(vm, deadline=deadline))
    if stage.notebook.judge(reset_vcpu.CHECK, found):
        raise CaseOverError


def _kept(stage: Stage) -> str:
    """Which of the old boot's registers outlive the reset of this host: ``all``, ``control`` or none."""
    if stage.shield is None or not stage.shield.flavour.is_es:
        return ""
    if stage.shield.has(SoftFault.VMSA_SNAPSHOT_STALE):
        return "all"
    return "control" if stage.shield.has(SoftFault.STATE_STAYS_PROTECTED) else ""
