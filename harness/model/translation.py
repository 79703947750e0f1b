"""What an interrupt translation service makes of a device's events."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Translation:
    """One event of one device."""

    device: int
    event: int
    intid: int
    vcpu: int
    """Whose redistributor; of a virtual LPI the one that its vPE is mapped to."""
    is_virtual: bool = False
