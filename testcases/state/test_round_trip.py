"""What was sent of each device is what the destination holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("vcpus", [1, 2, 4])
def test_devices_survive(migrate_case: Callable[..., Any], vcpus: int) -> None:
    result = migrate_case("state/round-trip", vcpus=vcpus, memory_mib=64)
    assert "state/devices" in result.checks


def test_devices_survive_over_tcp(migrate_case: Callable[..., Any]) -> None:
    migrate_case("state/round-trip", transport="tcp", memory_mib=64)
