"""Arm's generic timers that were due when the source stopped, and had not fired: they fire while the destination loads.

QEMU's timers fire in its main loop, which may come late; a stopped machine's do not fire at all. The destination
computes each timer anew when it loads (gt_recalc_timer, from post_load in target/arm), sees that its time is over, and
raises its line. Nothing is lost or added: the guest gets at once what it would have got.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from harness.checks.volatile import VolatileField
from harness.model.device_state import Device, DeviceState

NEVER = (1 << 63) - 1
_REASON = "a generic timer was due when the source stopped; its line goes up while the destination loads"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timer:
    """Names of its item of gt_timer, the PPI that virt wires it to, its control register as arm_registers.py has it."""

    items: tuple[str, str]
    """QEMU 7.2 counts, 10.0 names them."""
    ppi: int
    control: str


_TIMERS = (
    _Timer(items=("0", "GTIMER_PHYS"), ppi=30, control="s3_3_c14_c2_1"),  # CNTP_CTL_EL0
    _Timer(items=("1", "GTIMER_VIRT"), ppi=27, control="s3_3_c14_c3_1"),  # CNTV_CTL_EL0
    _Timer(items=("2", "GTIMER_HYP"), ppi=26, control="s3_4_c14_c2_1"),  # CNTHP_CTL_EL2
    _Timer(items=("3", "GTIMER_SEC"), ppi=29, control="s3_7_c14_c2_1"),  # CNTPS_CTL_EL1
)
_ISTATUS = MappingProxyType({7: 0x04})
_INTERRUPT_HARD = MappingProxyType({3: 0x02})
"""CPU_INTERRUPT_HARD: whether the line reaches the vCPU depends on what its interrupt controller lets through."""


def due_timers(sent: DeviceState) -> tuple[VolatileField, ...]:
    """What may differ for the timers of *sent* whose time was over; nothing on other machines."""
    clock = sent.find("timer/0")
    now_ns = _number(clock, "cpu_clock_offset") if clock else 0
    cpus = [device for device in sent.devices if device.name == "cpu"]
    return tuple(
        field
        for cpu in cpus
        for timer in _TIMERS
        for item in timer.items
        if 0 < _number(cpu, f"gt_timer[{item}]") <= now_ns
        for field in _fields(cpu.instance_id, timer, item, is_single=len(cpus) == 1)
    )


def _fields(vcpu: int, timer: _Timer, item: str, *, is_single: bool) -> Iterator[VolatileField]:
    line = MappingProxyType({3 - timer.ppi // 8: 1 << timer.ppi % 8})
    level = "cpu.level" if is_single else f"cpu[[]{vcpu}].level"
    yield VolatileField(device="arm_gicv3/0", field=level, bits=line, reason=_REASON)
    yield VolatileField(device=f"cpu/{vcpu}", field=f"gt_timer[[]{item}]", reason=_REASON)
    yield VolatileField(device=f"cpu/{vcpu}", field=f"cpreg.{timer.control}", bits=_ISTATUS, reason=_REASON)
    for device, field in (("cpu_common", "interrupt_request"), ("cpu", "cpu/irq-line-state:env.irq_line_state")):
        yield VolatileField(device=f"{device}/{vcpu}", field=field, bits=_INTERRUPT_HARD, reason=_REASON)


def _number(device: Device, path: str) -> int:
    return next((field.value or 0 for field in device.fields if field.path == path), 0)
