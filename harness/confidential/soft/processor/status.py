"""Answers of the secure processor, by name and value (AMD SEV API; sev-tool src/sevapi.h)."""

from __future__ import annotations

from enum import IntEnum


class FirmwareStatus(IntEnum):
    """The status byte of a command; KVM puts it into ``kvm_sev_cmd.error`` and returns EIO."""

    SUCCESS = 0x00
    INVALID_PLATFORM_STATE = 0x01
    INVALID_GUEST_STATE = 0x02
    INVALID_CONFIG = 0x03
    INVALID_LENGTH = 0x04
    ALREADY_OWNED = 0x05
    INVALID_CERTIFICATE = 0x06
    POLICY_FAILURE = 0x07
    INACTIVE = 0x08
    INVALID_ADDRESS = 0x09
    BAD_SIGNATURE = 0x0A
    BAD_MEASUREMENT = 0x0B
    ASID_OWNED = 0x0C
    INVALID_ASID = 0x0D
    WBINVD_REQUIRED = 0x0E
    DF_FLUSH_REQUIRED = 0x0F
    INVALID_GUEST = 0x10
    INVALID_COMMAND = 0x11
    ACTIVE = 0x12
    HWERROR_PLATFORM = 0x13
    HWERROR_UNSAFE = 0x14
    UNSUPPORTED = 0x15
    INVALID_PARAM = 0x16
    RESOURCE_LIMIT = 0x17
    SECURE_DATA_INVALID = 0x18
    RING_BUFFER_EXIT = 0x1F
    """Hygon only: a batch ended early."""


def status_words(status: int) -> str:
    """*status* for people: ``POLICY_FAILURE (0x07)``; a value that has no name stays a number."""
    try:
        return f"{FirmwareStatus(status).name} ({status:#04x})"
    except ValueError:
        return f"status {status:#04x}"


class CommandRefusedError(Exception):
    """The secure processor refused a command. Not our own trouble: whoever issued it decides what it means."""

    def __init__(self, status: FirmwareStatus, reason: str) -> None:
        super().__init__(f"{status.name} ({status.value:#04x}): {reason}")
        self.status = status
        self.reason = reason
