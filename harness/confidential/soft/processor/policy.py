"""Guest policy of SEV and CSV1/2: 32 bits that say what a guest allows (linux include/linux/psp-sev.h)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag


class PolicyFlag(IntFlag):
    """Bits 0-5, the same for AMD and Hygon."""

    NODBG = 1 << 0
    """No DBG_DECRYPT, no DBG_ENCRYPT."""
    NOKS = 1 << 1
    """The key may not be shared with another guest."""
    ES = 1 << 2
    """vCPU state is encrypted (CSV2 on Hygon)."""
    NOSEND = 1 << 3
    """The guest may not be sent anywhere."""
    DOMAIN = 1 << 4
    """Only to a platform of the same owner (OCA)."""
    SEV = 1 << 5
    """Only to a platform whose vendor chain proves that it is one."""


@dataclass(frozen=True, slots=True, order=True)
class ApiVersion:
    """Version of the firmware's interface."""

    major: int
    minor: int


ANY_VERSION = ApiVersion(0, 0)
NO_FLAGS = PolicyFlag(0)


@dataclass(frozen=True, slots=True)
class Policy:
    """The raw word; Hygon's further bits (6-11) travel in it unread."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << 32:
            raise ValueError(f"a policy has 32 bits, got {self.value:#x}")

    @classmethod
    def of(cls, flags: PolicyFlag = NO_FLAGS, *, minimum: ApiVersion = ANY_VERSION) -> Policy:
        """A policy with *flags* that asks for firmware *minimum* or newer."""
        return cls(int(flags) | minimum.major << 16 | minimum.minor << 24)

    @property
    def flags(self) -> PolicyFlag:
        """The bits that are known here."""
        return PolicyFlag(self.value & 0x3F)

    @property
    def minimum(self) -> ApiVersion:
        """Oldest firmware that may run the guest: bits 16-23 and 24-31."""
        return ApiVersion(self.value >> 16 & 0xFF, self.value >> 24 & 0xFF)

    @property
    def packed(self) -> bytes:
        """As it enters a MAC."""
        return self.value.to_bytes(4, "little")
