"""The one device of the platform that a guest reaches through its GHCB only. It keeps no state, so none can be lost."""

from __future__ import annotations

from harness.model.seed import SEED_MASK

START, END = 0xFED40000, 0xFED41000
SIZES = (1, 2, 4, 8)


def answers(gpa: int, size_bytes: int) -> bool:
    """Whether an access is the device's."""
    return size_bytes in SIZES and START <= gpa <= END - size_bytes


def read(gpa: int, size_bytes: int) -> int:
    """What stands at *gpa*: a number that only this address gives."""
    return mix64(gpa) & ((1 << 8 * size_bytes) - 1)


def mix64(value: int) -> int:
    """The finaliser of SplitMix64, as in images/probe/PROTOCOL.md."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & SEED_MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & SEED_MASK
    return value ^ value >> 31
