"""Faults of a GICv3's state on the wire: which bits of the distributor and the redistributors each of them changes.

As interrupt_edits.py does for a PC. LPIs are not here: they travel in memory (lpi_bits of a wire fault).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from harness.migration.relay.edits import InterruptEdit, Write, changed, field_of, number_of
from harness.model.device_state import Device, DeviceState
from harness.model.wire import WireFaultName as Name

_GIC = "arm_gicv3/0"
_PROBE_LOCAL = 1 << 0 | 1 << 1 | 1 << 15 | 1 << 27
"""Interrupts of the probe's own: SGIs that wake and halt, the virtual timer's PPI (images/probe/arch/aarch64)."""
_LOCAL = 0xFFFFFFFF & ~_PROBE_LOCAL
_WORDS = range(1, 32)
_VCPUS = range(8)
_ROUTER_BYTES = 8


def _of(gic: Device, vcpu: int, name: str) -> str:
    """Path of a redistributor's field: a single vCPU has no index."""
    return f"cpu.{name}" if not vcpu and field_of(gic, f"cpu.{name}") else f"cpu[{vcpu}].{name}"


def _latched(gic: Device, name: str, local: str) -> Iterator[tuple[str, int]]:
    """Fields with pending or active bits of sources, and these bits."""
    for vcpu in _VCPUS:
        path = _of(gic, vcpu, local)
        if field_of(gic, path):
            yield path, number_of(gic, path) & _LOCAL
    for word in _WORDS:
        yield f"{name}[{word}]", number_of(gic, f"{name}[{word}]")


def _bits(value: int) -> Iterator[int]:
    return (bit for bit in range(32) if value >> bit & 1)


def _clear(gic: Device, name: str, local: str) -> Iterator[InterruptEdit]:
    for path, found in _latched(gic, name, local):
        for bit in _bits(found):
            yield changed(gic, path, number_of(gic, path) ^ 1 << bit, f"{path} bit {bit}")


def _clear_pending(gic: Device) -> Iterator[InterruptEdit]:
    return _clear(gic, "pending", "gicr_ipendr0")


def _drop_in_service(gic: Device) -> Iterator[InterruptEdit]:
    return _clear(gic, "active", "gicr_iactiver0")


def _set_pending(gic: Device) -> Iterator[InterruptEdit]:
    """Only of what is enabled and edge triggered, which a latched bit is enough for."""
    for vcpu in _VCPUS:
        pending, enabled, edge = (_of(gic, vcpu, name) for name in ("gicr_ipendr0", "gicr_ienabler0", "edge_trigger"))
        wanted = number_of(gic, enabled) & number_of(gic, edge) & _LOCAL
        for bit in _bits(wanted & ~number_of(gic, pending)):
            yield changed(gic, pending, number_of(gic, pending) | 1 << bit, f"{pending} bit {bit}")
    for word in _WORDS:
        wanted = number_of(gic, f"enabled[{word}]") & number_of(gic, f"edge_trigger[{word}]")
        taken = number_of(gic, f"pending[{word}]") | number_of(gic, f"active[{word}]")
        for bit in _bits(wanted & ~taken):
            value = number_of(gic, f"pending[{word}]") | 1 << bit
            yield changed(gic, f"pending[{word}]", value, f"pending[{word}] bit {bit}")


def _wrong_vcpu(gic: Device) -> Iterator[InterruptEdit]:
    vcpus = [vcpu for vcpu in _VCPUS if field_of(gic, f"cpu[{vcpu}].gicr_ipendr0")]
    for vcpu in vcpus:
        for other in vcpus:
            ours, theirs = (number_of(gic, f"cpu[{one}].gicr_ipendr0") for one in (vcpu, other))
            for bit in _bits(ours & ~theirs & _LOCAL):
                both = (
                    changed(gic, f"cpu[{one}].gicr_ipendr0", value ^ 1 << bit, "")
                    for one, value in ((vcpu, ours), (other, theirs))
                )
                writes = tuple(write for edit in both for write in edit.writes)
                yield InterruptEdit(what=f"{gic.label} INTID {bit} of vCPU {vcpu} to vCPU {other}", writes=writes)
    yield from _wrong_route(gic, len(vcpus))


def _wrong_route(gic: Device, vcpus: int) -> Iterator[InterruptEdit]:
    routers = field_of(gic, "gicd_irouter")
    for word in _WORDS if routers and vcpus > 1 else ():
        for bit in _bits(number_of(gic, f"pending[{word}]")):
            assert routers is not None
            raw, at = bytearray(routers.raw), (word * 32 + bit) * _ROUTER_BYTES + _ROUTER_BYTES - 1
            raw[at] = (raw[at] + 1) % vcpus
            write = Write(device=gic, field=routers, raw=bytes(raw))
            yield InterruptEdit(what=f"{gic.label} route of INTID {word * 32 + bit}", writes=(write,))


_EDITS: Mapping[Name, Callable[[Device], Iterator[InterruptEdit]]] = MappingProxyType(
    {
        Name.IRQ_CLEAR_PENDING: _clear_pending,
        Name.IRQ_SET_PENDING: _set_pending,
        Name.IRQ_WRONG_VCPU: _wrong_vcpu,
        Name.IRQ_DROP_IN_SERVICE: _drop_in_service,
    }
)


def gic_edits_of(name: Name, state: DeviceState) -> Iterator[InterruptEdit]:
    """All that the fault *name* could do to the GIC in *state*; nothing where there is none."""
    gic = state.find(_GIC)
    if gic and name in _EDITS:
        yield from _EDITS[name](gic)
