"""Phases of a migration in which a machine can be reset."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import field_validator

from harness.cases.reboot_settings import RebootSettings


class ResetAt(StrEnum):
    """Of the machine that the guest is in then; the first four are called as where an attempt is cancelled."""

    SETUP = "setup"
    FIRST_PASS = "first-pass"
    LATER_PASS = "later-pass"
    PRE_SWITCHOVER = "pre-switchover"
    """The source stands still and everything but the rest is sent: what is loaded is a machine that was just reset."""
    DESTINATION_LOADED = "destination-loaded"
    """The destination is reset before it runs for the first time."""
    SOURCE_DONE = "source-done"
    """The source is reset after its guest has left."""

    @property
    def is_live(self) -> bool:
        """The guest runs, so it can reboot itself."""
        return self in {ResetAt.SETUP, ResetAt.FIRST_PASS, ResetAt.LATER_PASS}

    @property
    def is_played(self) -> bool:
        """Around a protected guest too. Of one that stands still for its switch-over no source says what is right."""
        return self.is_live or self is ResetAt.SOURCE_DONE

    @property
    def statuses(self) -> frozenset[str]:
        """Of the source's migration meanwhile."""
        return frozenset({"setup", "active"} if self is ResetAt.SETUP else {"active"})


class ResetInMigrationSettings(RebootSettings):
    """One move for each phase."""

    reset_at: tuple[ResetAt, ...] = tuple(ResetAt)

    @property
    def may_renew(self) -> bool:
        """No: a migration under way would lose its session, and a QEMU that renews forbids it from the start."""
        return False

    @field_validator("reset_at", mode="before")
    @classmethod
    def _phases(cls, value: Any) -> Any:
        return [word for word in value.split(",") if word] if isinstance(value, str) else value
