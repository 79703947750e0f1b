"""What a host does with virtual LPIs that hardware delivers itself, while their VM moves (KVM's vGIC on a GICv4.1).

Save: pause the vCPUs, stop the devices, flush the ITS's tables, then the redistributors' pending tables, into which
the state of forwarded LPIs goes as well. Resume: restore the tables, then establish forwarding anew, which hands
pending state over from the vGIC to the hardware (Linux arch/arm64/kvm/vgic/vgic-v4.c and vgic-v3.c,
vgic_v3_save_pending_tables).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Act(StrEnum):
    """One step of the workflow."""

    VCPUS_PAUSED = "vCPUs paused"
    DEVICES_STOPPED = "devices stopped"
    ITS_FLUSHED = "ITS tables flushed"
    PENDING_FLUSHED = "pending tables flushed"
    ITS_RESTORED = "ITS tables restored"
    PENDING_RESTORED = "pending tables restored"
    FORWARDED = "forwarding set"
    UNFORWARDED = "forwarding unset"
    RESUMED = "vCPUs resumed"


SAVE_ORDER = (Act.VCPUS_PAUSED, Act.DEVICES_STOPPED, Act.ITS_FLUSHED, Act.PENDING_FLUSHED)
RESUME_ORDER = (Act.ITS_RESTORED, Act.PENDING_RESTORED, Act.FORWARDED, Act.RESUMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step that was taken."""

    act: Act
    intid: int = 0
    """Of the LPI, for steps that are about one."""
    was_pending: bool = False
    """Whether it was pending in hardware then."""
