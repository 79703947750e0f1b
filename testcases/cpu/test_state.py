"""What the vCPUs held before the move they hold after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("vcpus", [1, 2, 4])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_registers_and_clocks_survive(migrate_case: Callable[..., Any], vcpus: int, transport: str) -> None:
    result = migrate_case("cpu/state", vcpus=vcpus, transport=transport, memory_mib=64)
    assert {"cpu/registers", "cpu/clock"} <= set(result.checks)
