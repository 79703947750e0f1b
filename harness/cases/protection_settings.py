"""Settings of the software platform: ``--set protection.NAME=VALUE``."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

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
    """The 350-450 pages a second that the AMD series reports; more where the backend sends many with each command."""


class ProtectionSettings(BaseModel):
    """How host and guest protect memory. Only for backends that do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: tuple[PolicyWord, ...] = ()
    minimum_api: str = Field(default="0.0", pattern=r"^\d{1,3}\.\d{1,3}$")
    """Oldest firmware that the policy lets the guest run on."""
    target_owner: Literal["same", "other"] = "same"
    """Whether the destination's platform belongs to the owner of the source's: asked for by the policy domain."""
    target_vendor: Literal["same", "other"] = "same"
    """Whether both were made by the same vendor: asked for by the policy sev."""
    target_api: str = Field(default="", pattern=r"^(\d{1,3}\.\d{1,3})?$")
    """Firmware of the destination; empty is that of the source."""
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
    resets_arrived: bool = True
    """False is a host that does not reset a guest with encrypted vCPU state that came in (Hygon's QEMU)."""
    renews: bool = False
    """A reset gives the guest a new context: another key, handle and measurement, and what was private is gone, as
    with QEMU 11's confidential guest reset. Only in cases that reboot."""
    pace: ProcessorPace = ProcessorPace.INSTANT
    caches: bool | None = None
    """Caches that are not coherent between views of memory are played: a missing flush hurts. None: where the case
    is about them."""

    @property
    def forbidden_by(self) -> str:
        """What in the policy forbids this destination; empty when nothing does."""
        if PolicyWord.NOSEND in self.policy:
            return "NOSEND"
        if PolicyWord.DOMAIN in self.policy and self.target_owner == "other":
            return "DOMAIN: the destination belongs to another owner"
        if PolicyWord.SEV in self.policy and self.target_vendor == "other":
            return "SEV: the destination is of another vendor"
        if self.target_api and _version(self.target_api) < _version(self.minimum_api):
            return f"firmware {self.minimum_api} or newer"
        return ""

    @field_validator("policy", "shapes", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [word for word in value.split(",") if word] if isinstance(value, str) else value


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
