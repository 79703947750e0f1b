"""Settings of cases that reboot their guest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from harness.cases.circumstances import ProtectedCaseSettings
from harness.migration.settings import CancelAt
from harness.model.guest import Workload
from harness.model.machine import Arch, MachineSpec
from harness.model.reboot_way import RebootWay, devices_of, ways_of

_CONVERSIONS_PER_TICK = 4


class RebootSettings(ProtectedCaseSettings):
    """A case that reboots its guest; every backend, every architecture."""

    times: int = Field(default=2, ge=1, le=100_000)
    """Reboots, each time where the case has some."""
    ways: tuple[RebootWay, ...] = ()
    """In which ways, in turn, in an order that the seed draws; empty is all that the machine has."""
    window_pages: int = Field(default=64, ge=0, le=4096)
    """Pages in the middle of memory that a protected guest shares anew in each boot."""
    work_ms: int = Field(default=20, ge=0, le=60_000)
    """How long the guest works between two reboots, on its own clock's heartbeats."""
    boot_s: float = Field(default=30.0, gt=0)
    """A guest that is not back by then, and was not ended either, hangs."""
    new_vmfd: bool = True
    """Under KVM a reset gives the guest another VM descriptor, where QEMU has x-change-vmfd-on-reset (11.0)."""
    cancel_at: tuple[CancelAt, ...] = tuple(CancelAt)
    """Phases of the migration in which something happens, in turn: an attempt is cancelled, the guest is rebooted."""

    @field_validator("ways", mode="before")
    @classmethod
    def _ways(cls, value: Any) -> Any:
        return [word for word in value.split(",") if word] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _works(self) -> Self:
        if self.workload is Workload.FULL and self.pages_per_tick:
            raise ValueError("the workload full is never throttled: set workload=random or pages_per_tick=0")
        return self

    @property
    def reboots(self) -> bool:
        """QEMU resets the machine when the guest says so."""
        return True

    @property
    def plays_resets(self) -> bool:
        """Around a protected guest the platform plays what KVM does then."""
        return True

    @property
    def may_renew(self) -> bool:
        """With each reset."""
        return True

    @property
    def changes_vmfd(self) -> bool:
        """As new_vmfd says."""
        return self.new_vmfd

    def ways_on(self, arch: Arch) -> tuple[RebootWay, ...]:
        """The ways of this case on a machine of *arch*, in the order of the table."""
        return tuple(way for way in ways_of(arch) if not self.ways or way in self.ways)

    def machine_for(self, spec: MachineSpec) -> MachineSpec:
        """With the devices that the ways need."""
        made = super().machine_for(spec)
        return replace(made, devices=(*made.devices, *devices_of(self.ways_on(spec.arch))))

    def protected(self) -> Self:
        """The same for a backend that protects memory: the guest converts pages while it works; caches are played."""
        protection = self.protection
        if protection.conversions_per_tick == 0:
            protection = protection.model_copy(update={"conversions_per_tick": _CONVERSIONS_PER_TICK})
        if protection.caches is None:
            protection = protection.model_copy(update={"caches": True})
        return self.model_copy(update={"protection": protection})
