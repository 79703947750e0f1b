"""A GICv3 or GICv4 as the device sections of a stream tell it: what is pending, active, and where its tables lie.

Field names are those of QEMU's vmstate (vmstate_gicv3, vmstate_gicv3_cpu and vmstate_gicv3_gicv4 in
hw/intc/arm_gicv3_common.c, vmstate_its in arm_gicv3_its_common.c); register fields those of Arm IHI 0069, 12.11
and 12.19.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.model.device_state import Device, DeviceState

LOCAL_INTIDS = 32
"""SGIs and PPIs, which every redistributor has for itself."""
FIRST_LPI = 8192
_WORDS = 32
_ITEM = re.compile(r"(?P<name>[\w.]+)\[(?P<index>\d+)\]")
_CPU_FIELD = re.compile(r"cpu(?:\[(?P<vcpu>\d+)\])?[./](?P<name>.*)")
"""A single vCPU has no index."""
ENABLE_LPIS = 1
_TABLE = 0x000F_FFFF_FFFF_0000
"""GICR_PENDBASER, bits 51:16."""
_CONFIGURATION = 0x000F_FFFF_FFFF_F000
"""GICR_PROPBASER, bits 51:12."""
_ID_BITS = 0x1F
VALID = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class LpiTables:
    """Where a redistributor keeps its LPIs, or a vPE its virtual ones."""

    pending_gpa: int
    configuration_gpa: int
    id_bits: int
    """INTIDs are below 2 to the power of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redistributor:
    """What one vCPU has for itself. Bit N of a number stands for INTID N."""

    vcpu: int
    pending: int
    """Latched, or up and level triggered."""
    active: int
    enabled: int
    priority_mask: int = 0
    """ICC_PMR_EL1; 0 where nobody could look."""
    lpis: LpiTables | None = None
    """None when it has never been told where they are; they stay there while its LPIs are disabled."""
    lpis_are_on: bool = False
    has_resident_vpe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Its:
    """Registers of the interrupt translation service that a move has to bring along."""

    is_on: bool
    read_at: int
    """GITS_CREADR, an offset into the queue of commands."""
    written_to: int
    """GITS_CWRITER; unequal to *read_at*: commands wait."""
    queue: int = 0
    """GITS_CBASER."""
    tables: tuple[int, ...] = ()
    """GITS_BASER, those that are valid."""

    @property
    def commands_wait(self) -> bool:
        """Whether the queue holds commands that have not been executed."""
        return self.read_at != self.written_to


@dataclass(frozen=True, slots=True, kw_only=True)
class GicState:
    """A whole interrupt controller. Bit N of a number stands for INTID N."""

    pending: int
    """Of SPIs: latched, or up and level triggered."""
    active: int
    enabled: int
    redistributors: tuple[Redistributor, ...]
    routes: Mapping[int, int] = field(default_factory=dict)
    """SPI -> vCPU, of those that are pending or active."""
    its: Its | None = None


def read_gic(state: DeviceState) -> GicState | None:
    """The interrupt controller in *state*; None when there is no GICv3."""
    device = state.find("arm_gicv3/0")
    if device is None:
        return None
    numbers, cpus = _numbers(device)
    bits = {name: _bits(numbers[name]) for name in ("pending", "active", "enabled", "level", "edge_trigger")}
    pending = bits["pending"] | bits["level"] & ~bits["edge_trigger"]
    return GicState(
        pending=pending,
        active=bits["active"],
        enabled=bits["enabled"],
        redistributors=tuple(_redistributor(vcpu, cpus[vcpu]) for vcpu in sorted(cpus)),
        routes=_routes(device, pending | bits["active"]),
        its=_its(state),
    )


def _numbers(device: Device) -> tuple[dict[str, dict[int, int]], dict[int, dict[str, int]]]:
    """Arrays of the distributor by name and index, and the fields of each redistributor by name."""
    arrays: dict[str, dict[int, int]] = defaultdict(dict)
    cpus: dict[int, dict[str, int]] = defaultdict(dict)
    for entry in device.fields:
        if entry.value is None:
            continue
        if of_cpu := _CPU_FIELD.fullmatch(entry.path):
            cpus[int(of_cpu["vcpu"] or 0)][of_cpu["name"].rpartition(":")[2]] = entry.value
        elif item := _ITEM.fullmatch(entry.path):
            arrays[item["name"]][int(item["index"])] = entry.value
    return arrays, cpus


def _bits(words: Mapping[int, int]) -> int:
    """A bitmap of 32-bit words; the first one, of SGIs and PPIs, is not used."""
    return sum(words.get(index, 0) << 32 * index for index in range(1, _WORDS))


def _redistributor(vcpu: int, fields: Mapping[str, int]) -> Redistributor:
    edge = fields.get("edge_trigger", 0)
    return Redistributor(
        vcpu=vcpu,
        pending=fields.get("gicr_ipendr0", 0) | fields.get("level", 0) & ~edge,
        active=fields.get("gicr_iactiver0", 0),
        enabled=fields.get("gicr_ienabler0", 0),
        priority_mask=fields.get("icc_pmr_el1", 0),
        lpis=tables_at(fields.get("gicr_pendbaser", 0), fields.get("gicr_propbaser", 0)),
        lpis_are_on=bool(fields.get("gicr_ctlr", 0) & ENABLE_LPIS),
        has_resident_vpe=bool(fields.get("gicr_vpendbaser", 0) & VALID),
    )


def tables_at(pending: int, configuration: int) -> LpiTables | None:
    """What GICR_PENDBASER and GICR_PROPBASER say; None while they say nothing."""
    if not pending & _TABLE:
        return None
    return LpiTables(
        pending_gpa=pending & _TABLE,
        configuration_gpa=configuration & _CONFIGURATION,
        id_bits=(configuration & _ID_BITS) + 1,
    )


def _routes(device: Device, wanted: int) -> dict[int, int]:
    """GICD_IROUTER of the SPIs in *wanted*: QEMU's virt counts its first 16 vCPUs in Aff0."""
    routers = next((entry.raw for entry in device.fields if entry.path == "gicd_irouter"), b"")
    return {intid: routers[8 * intid + 7] for intid in range(LOCAL_INTIDS, len(routers) // 8) if wanted >> intid & 1}


def _its(state: DeviceState) -> Its | None:
    device = state.find("arm_gicv3_its/0")
    if device is None:
        return None
    value = {entry.path: entry.value or 0 for entry in device.fields}
    return Its(
        is_on=bool(value.get("ctlr", 0) & 1),
        read_at=value.get("creadr", 0),
        written_to=value.get("cwriter", 0),
        queue=value.get("cbaser", 0),
        tables=tuple(number for path, number in value.items() if path.startswith("baser[") and number & VALID),
    )
