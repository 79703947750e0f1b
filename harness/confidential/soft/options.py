"""How one host of the software platform is set up, faults aside."""

from __future__ import annotations

from dataclasses import dataclass

from harness.confidential.soft.processor.policy import ApiVersion
from harness.model.memory import GpaRange

SOFT_C_BIT = 1 << 58
"""Mask of the software C-bit: processors ignore bits 52-58 of page-table entries (Intel SDM vol. 3, 4.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """Everything has a default that lets a guest migrate."""

    offers_migration: bool = True
    """KVM_FEATURE_HC_MAP_GPA_RANGE and KVM_FEATURE_MIGRATION_CONTROL."""
    answers_retry: bool = False
    """A conversion of more than 64 MiB is done in part, as on TDX hosts."""
    refuses_conversion: int = 0
    """Which conversion behind the first READY is refused, counted from 1; 0 is none."""
    refused_range: GpaRange | None = None
    """Conversions that touch it are refused."""
    owner: str = "owner"
    """Whose platform it is: platforms of one owner accept each other under DOMAIN."""
    vendor: str = "vendor"
    """Who made it: platforms of one vendor accept each other under SEV."""
    version: ApiVersion | None = None
    """Of the firmware's interface; None is the flavour's."""
    caches: bool = False
    """Caches that are not coherent between views are played. They cost as much memory as the guest uses, and time."""
    renews: bool = False
    """A reset gives the guest a new context (QEMU 11: another key, handle and measurement), not the same one again."""
    c_bit: int = SOFT_C_BIT
    """Mask, in the guest's page tables."""
