"""When a migration is let go, and when it counts as stalled or its QEMU as silent; played by a QEMU of words."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.migration import driver
from harness.migration.driver import Midway, listen, migrate
from harness.migration.hold import set_parameters
from harness.migration.settings import CancelAt, MigrationSettings
from harness.migration.watch import Watch
from harness.model.deadline import Deadline
from harness.model.errors import DeadlineError, HarnessError, ProtocolError
from harness.vm.vm import Vm

LOOKS_PER_PASS = 3


class WordsOfQemu:
    """Answers as a QEMU whose passes go by as it is looked at, and which is done once it is let go."""

    cursor = 0

    def __init__(self, status: str = "active", silent_for: int = 0, remaining_bytes: int = 0) -> None:
        self.remaining_bytes = remaining_bytes
        self.bandwidths: list[int] = []
        self.parameters: dict[str, Any] = {}
        self.looks = 0
        self.status = status
        self.let_go_at = 0
        self.silent_for = silent_for
        """That many questions get no answer before one does."""

    async def execute(self, command: str, arguments: Any = None, *, deadline: Deadline) -> Any:  # noqa: ARG002
        await asyncio.sleep(0)
        match command:
            case "query-migrate":
                self.looks += 1
                if self.looks <= self.silent_for:
                    raise DeadlineError("no reply to query-migrate before the deadline")
                passes = self.looks // LOOKS_PER_PASS
                ram = {"dirty-sync-count": passes, "remaining": self.remaining_bytes // max(passes, 1)}
                return {"status": "completed" if self.let_go_at else self.status, "ram": ram}
            case "migrate-set-parameters":
                self.parameters |= arguments
                self.bandwidths.append(self.parameters["max-bandwidth"])
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
    both = [cast(Vm, SimpleNamespace(qmp=qmp, role=role, limits={})) for role, qmp in (("src", source), ("dst", sink))]
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


async def is_over(qmp: WordsOfQemu, passed_on: Callable[[], int]) -> bool:
    """Whether a source counts as over that has moved nothing for ages when the watch begins."""
    source = Watch(cast(Vm, SimpleNamespace(qmp=qmp, role="src", limits={})), passed_on=passed_on)
    source.last_progress_s = -math.inf
    async with source:
        await source.until(lambda w: w.status == "active", deadline=Deadline.after(30), what="word")
        return source.is_over


def test_one_that_is_silent_while_nothing_moves_is_gone() -> None:
    assert asyncio.run(is_over(WordsOfQemu(silent_for=5), lambda: 0))


def test_one_that_is_silent_while_its_bytes_are_passed_on_is_asked_again() -> None:
    count = itertools.count(1)
    assert not asyncio.run(is_over(WordsOfQemu(silent_for=5), lambda: next(count)))


def test_who_passes_bytes_on_shows_that_a_migration_moves() -> None:
    async def stalled_s(passed_on: Callable[[], int]) -> float:
        source = Watch(cast(Vm, SimpleNamespace(qmp=WordsOfQemu(), role="src", limits={})), passed_on=passed_on)
        source.last_progress_s = -math.inf
        async with source:
            await source.until(lambda w: w.status == "active", deadline=Deadline.after(30), what="word")
            return source.stalled_s

    assert asyncio.run(stalled_s(lambda: 0)) == math.inf
    assert asyncio.run(stalled_s(lambda: 1)) < math.inf


def test_a_pass_that_has_little_to_send_is_made_to_last() -> None:
    qmp = WordsOfQemu(remaining_bytes=30 << 20)
    source = cast(Vm, SimpleNamespace(qmp=qmp, role="src", limits={}))
    sink = cast(Vm, SimpleNamespace(qmp=WordsOfQemu(status="completed"), role="dst"))
    settings = MigrationSettings(hold_passes=4, hold_bandwidth_mib_s=400)
    asyncio.run(migrate(source, sink, "unix:nowhere", settings, deadline=Deadline.after(30)))
    # Once behind the second reading of the bitmap, once behind the third; the fourth lets it go.
    assert qmp.bandwidths == [(15 << 20) * 10 // 3, (10 << 20) * 10 // 3, 0]


@pytest.mark.parametrize("phase", [CancelAt.FIRST_PASS, CancelAt.LATER_PASS])
def test_who_is_called_in_a_later_pass_has_time(phase: CancelAt) -> None:
    qmp = WordsOfQemu(remaining_bytes=30 << 20)
    source = cast(Vm, SimpleNamespace(qmp=qmp, role="src", limits={}))
    sink = cast(Vm, SimpleNamespace(qmp=WordsOfQemu(status="completed"), role="dst"))
    seen: list[list[int]] = []

    async def work() -> None:
        seen.append(list(qmp.bandwidths))

    settings = MigrationSettings(hold_passes=2, hold_bandwidth_mib_s=400)
    midways = [Midway(phase, work)]
    asyncio.run(migrate(source, sink, "unix:nowhere", settings, deadline=Deadline.after(30), midways=midways))
    is_late = phase is CancelAt.LATER_PASS
    # A fifth of a second for what is left of the first pass, and in the second it crawls.
    assert seen == [[150 << 20, 1 << 20] if is_late else []]
    assert qmp.bandwidths[len(seen[0]) :] == [400 << 20, 0]


def test_a_qemu_that_does_not_tell_where_it_listens_is_told_in_one_line() -> None:
    vm = cast(Vm, SimpleNamespace(qmp=WordsOfQemu(), role="dst", listens_at=""))
    with pytest.raises(ProtocolError, match=r"^dst: query-migrate does not tell where QEMU listens$"):
        asyncio.run(listen(vm, "tcp:127.0.0.1:0", deadline=Deadline.after(5)))
    assert not vm.listens_at
    asyncio.run(listen(vm, "unix:/in", deadline=Deadline.after(5)))
    assert vm.listens_at == "unix:/in"


def test_what_qemu_is_known_to_have_is_not_set_again() -> None:
    qmp = WordsOfQemu()
    vm = cast(Vm, SimpleNamespace(qmp=qmp, role="src", limits={}))

    async def twice() -> None:
        for bandwidth in (5, 5, 6):
            await set_parameters(vm, {"max-bandwidth": bandwidth}, Deadline.after(5))

    asyncio.run(twice())
    assert qmp.bandwidths == [5, 6]


def test_a_value_that_does_not_stick_is_told_and_not_remembered() -> None:
    class Stubborn(WordsOfQemu):
        async def execute(self, command: str, arguments: Any = None, *, deadline: Deadline) -> Any:
            await super().execute(command, arguments, deadline=deadline)
            return {"max-bandwidth": 7}

    vm = cast(Vm, SimpleNamespace(qmp=Stubborn(), role="src", limits={"max-bandwidth": 7}))
    with pytest.raises(HarnessError, match="max-bandwidth was set to 5, QEMU says 7"):
        asyncio.run(set_parameters(vm, {"max-bandwidth": 5}, Deadline.after(5)))
    assert vm.limits == {}
