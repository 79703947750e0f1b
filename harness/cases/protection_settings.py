"""Settings of the software platform: ``--set protection.NAME=VALUE``."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class PolicyWord(StrEnum):
    """Policy bits that a case may set; ES follows from the backend."""

    NODBG = "nodbg"
    NOKS = "noks"
    NOSEND = "nosend"
    DOMAIN = "domain"
    SEV = "sev"


class ConversionShape(StrEnum):
    """Ranges that the guest converts while it runs."""

    SMALL = "4k"
    LARGE = "2m"
    ODD = "odd"
    """Any start and length, rounded out to pages."""


class ProcessorPace(StrEnum):
    """How long the secure processor takes."""

    INSTANT = "instant"
    """As fast as this machine encrypts."""
    AMD = "amd"
    """The 350-450 pages a second that the AMD series reports."""
    BATCHED = "batched"
    """The same, many pages with each command, where the backend has batches."""


class ProtectionSettings(BaseModel):
    """How host and guest protect memory. Only for backends that do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: tuple[PolicyWord, ...] = ()
    minimum_api: str = Field(default="0.0", pattern=r"^\d{1,3}\.\d{1,3}$")
    """Oldest firmware that the policy lets the guest run on."""
    conversions_per_tick: int = Field(default=0, ge=0, le=1000)
    """Ranges that each vCPU converts between two timer interrupts, 100 a second."""
    shapes: tuple[ConversionShape, ...] = tuple(ConversionShape)
    window_mib: int = Field(default=0, ge=0)
    """Memory that conversions stay in; 0 is all of it."""
    offers_migration: bool = True
    """The host announces KVM_FEATURE_HC_MAP_GPA_RANGE and KVM_FEATURE_MIGRATION_CONTROL."""
    heeds_blocker: bool = True
    """False is a host whose operator migrates although the guest has not said READY."""
    answers_retry: bool = False
    """The host converts 64 MiB at most at once and answers RETRY, as TDX hosts do."""
    refuses_conversion: int = Field(default=0, ge=0)
    """The host refuses this conversion of the guest's workload, counted from 1; 0 refuses none."""
    pace: ProcessorPace = ProcessorPace.INSTANT

    @field_validator("policy", "shapes", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [word for word in value.split(",") if word] if isinstance(value, str) else value
