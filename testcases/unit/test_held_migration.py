"""A held migration is let go when its passes are over and what has to be seen was seen; played by a QEMU of words."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.migration import driver
from harness.migration.driver import migrate
from harness.migration.settings import MigrationSettings
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError
from harness.vm.vm import Vm

LOOKS_PER_PASS = 3


class WordsOfQemu:
    """Answers as a QEMU whose passes go by as it is looked at, and which is done once it is let go."""

    cursor = 0

    def __init__(self, status: str = "active") -> None:
        self.parameters: dict[str, Any] = {}
        self.looks = 0
        self.status = status
        self.let_go_at = 0

    async def execute(self, command: str, arguments: Any = None, *, deadline: Deadline) -> Any:  # noqa: ARG002
        await asyncio.sleep(0)
        match command:
            case "query-migrate":
                self.looks += 1
                passes = self.looks // LOOKS_PER_PASS
                return {"status": "completed" if self.let_go_at else self.status, "ram": {"dirty-sync-count": passes}}
            case "migrate-set-parameters":
                self.parameters |= arguments
                if arguments.get("downtime-limit", 0) > 1:
                    self.let_go_at = self.looks
            case "query-migrate-parameters":
                return self.parameters
            case "query-status":
                return {"status": "postmigrate"}
        return {}

    async def wait_event(self, *_: Any, **__: Any) -> None:
        await asyncio.sleep(0)
        raise DeadlineError("no event")


def let_go_at(is_witnessed: Any) -> int:
    """After how many looks at the source the migration is let go."""
    source, sink = WordsOfQemu(), WordsOfQemu(status="completed")
    both = [cast(Vm, SimpleNamespace(qmp=qmp, role=role)) for role, qmp in (("src", source), ("dst", sink))]
    settings = MigrationSettings(hold_passes=2, hold_bandwidth_mib_s=8)
    moved = asyncio.run(
        migrate(*both, "unix:nowhere", settings, deadline=Deadline.after(30), is_witnessed=is_witnessed)
    )
    assert moved.completed
    return source.let_go_at


def test_it_is_let_go_when_its_passes_are_over() -> None:
    assert let_go_at(lambda: True) >= 2 * LOOKS_PER_PASS


def test_and_not_before_the_guest_was_seen_to_work() -> None:
    asked = iter(range(1000))
    # The passes are over at the first question already, and the next come with the looks.
    assert let_go_at(lambda: next(asked) >= 20) >= 2 * LOOKS_PER_PASS + 20 - 1


def test_who_is_never_seen_does_not_hold_it_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_WITNESSED_S", 0.05)
    assert let_go_at(lambda: False) > 2 * LOOKS_PER_PASS
