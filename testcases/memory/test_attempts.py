"""More than one attempt: cancelled and tried again, there and back again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.migration.settings import CancelAt

pytestmark = pytest.mark.vm

Migrate = Callable[..., Any]


@pytest.mark.parametrize("phase", list(CancelAt))
def test_a_cancelled_attempt_harms_nothing(migrate_case: Migrate, phase: CancelAt) -> None:
    result = migrate_case("memory/precopy-cancel-retry", cancel_at=[phase.value], memory_mib=64)
    assert {"migration/cancel", "migration/source-alive", "memory/host", "memory/guest"} <= set(result.checks)


def test_an_attempt_cancelled_in_every_phase(migrate_case: Migrate) -> None:
    migrate_case("memory/precopy-cancel-retry", vcpus=2)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_there_and_back(migrate_case: Migrate, transport: str) -> None:
    result = migrate_case("memory/ping-pong", hops=4, memory_mib=64, transport=transport)
    assert result.timings["hops_per_s"] > 0


def test_idle_there_and_back_many_times(migrate_case: Migrate) -> None:
    result = migrate_case("memory/ping-pong", hops=10, workload="idle", passes=1, memory_mib=64)
    assert len(result.timelines) == 10


def test_readers_go_on_while_the_guest_hops(migrate_case: Migrate) -> None:
    result = migrate_case("memory/ping-pong", hops=3, workload="read-mostly", memory_mib=64)
    assert "memory/running-reads" in result.checks
