"""What else happens to a protected guest around its move, and which of that a fault needs before it can show itself.

A bug of resets shows only where there is a reset. So a fault brings what it needs along: the same case without the
fault, and with the same circumstances, is its clean sibling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from pydantic import Field, field_validator

from harness.cases.protection_settings import ProtectionSettings
from harness.cases.settings import CancelSettings
from harness.migration.settings import CancelAt
from harness.model.soft_fault import SoftFault


class Circumstance(StrEnum):
    """One of them; they happen in this order."""

    FIRMWARE = "firmware"
    """The guest is moved while it is still in its firmware, and goes on to its kernel elsewhere."""
    RESET = "reset"
    KEXEC = "kexec"
    OFFLINE = "offline"
    """The last vCPU goes offline, is moved, and comes back."""
    NEIGHBOURS = "neighbours"
    """Ranges that touch are shared one after the other, and one is taken back from before another."""
    LARGE = "large-conversion"
    """One conversion of more than 64 MiB, which a host may answer with RETRY."""
    CANCEL = "cancel"
    """An attempt is cancelled after pages were sent again, then the guest moves for good."""


class ProtectedCaseSettings(CancelSettings):
    """A case about protection."""

    circumstances: tuple[Circumstance, ...] = ()
    cancel_at: tuple[CancelAt, ...] = (CancelAt.LATER_PASS,)
    """Phases in which attempts are cancelled, where an attempt is to be."""
    hops: int = Field(default=1, ge=1, le=1000)
    """How often the guest moves; the map has to be right after each."""

    @field_validator("circumstances", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [word for word in value.split(",") if word] if isinstance(value, str) else value

    @property
    def holds_firmware(self) -> bool:
        """As the circumstance firmware asks."""
        return Circumstance.FIRMWARE in self.circumstances

    @property
    def reboots(self) -> bool:
        """As the circumstance reset asks."""
        return Circumstance.RESET in self.circumstances

    def has(self, circumstance: Circumstance) -> bool:
        """Whether it is to happen."""
        return circumstance in self.circumstances


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a fault needs."""

    circumstances: frozenset[Circumstance] = frozenset()
    settings: Mapping[str, Any] = field(default_factory=dict)
    protection: Mapping[str, Any] = field(default_factory=dict)


def _needs(*circumstances: Circumstance, settings: Mapping[str, Any] | None = None, **protection: Any) -> Needs:
    return Needs(circumstances=frozenset(circumstances), settings=settings or {}, protection=protection)


NEEDS: Mapping[SoftFault, Needs] = MappingProxyType(
    {
        SoftFault.ASSERT_WITHOUT_FEATURE: _needs(offers_migration=False),
        SoftFault.SEC_GHCB_UNREPORTED: _needs(Circumstance.FIRMWARE, heeds_blocker=False),
        SoftFault.KEXEC_KEEPS_RANGES: _needs(Circumstance.KEXEC),
        SoftFault.RETRY_IGNORED: _needs(Circumstance.LARGE, answers_retry=True, window_mib=32),
        # A large conversion would soon put right what the refused one left behind.
        SoftFault.REUSES_UNCONVERTED: _needs(refuses_conversion=3, shapes=("4k", "odd")),
        SoftFault.LIST_KEPT_OVER_RESET: _needs(Circumstance.RESET),
        SoftFault.READY_KEPT: _needs(Circumstance.RESET),
        SoftFault.LIST_APPENDED: _needs(settings={"hops": 2}, conversions_per_tick=20),
        SoftFault.LIST_NOT_MERGED: _needs(Circumstance.NEIGHBOURS, shapes=("4k", "odd")),
        SoftFault.LIST_LOSES_NEIGHBOUR: _needs(Circumstance.NEIGHBOURS, shapes=("4k", "odd")),
        SoftFault.FINISH_ON_FAILURE: _needs(Circumstance.CANCEL),
        SoftFault.DIRTY_FORGOTTEN: _needs(Circumstance.CANCEL),
        SoftFault.PINS_LEAKED: _needs(Circumstance.CANCEL),
        SoftFault.IGNORES_NOSEND: _needs(policy=("nosend",)),
        SoftFault.SLOW: _needs(settings={"deadline_s": 15.0}),
    }
)
"""Faults that are not here show themselves in any move of a protected guest."""


def with_needs(settings: ProtectedCaseSettings, faults: Iterable[SoftFault]) -> ProtectedCaseSettings:
    """*settings* with what *faults* need."""
    for fault in faults:
        needs = NEEDS.get(fault, Needs())
        happening = frozenset(settings.circumstances) | needs.circumstances
        settings = settings.model_copy(
            update={
                **needs.settings,
                "circumstances": tuple(each for each in Circumstance if each in happening),
                "protection": ProtectionSettings.model_validate(
                    {**settings.protection.model_dump(), **needs.protection}
                ),
            }
        )
    return settings
