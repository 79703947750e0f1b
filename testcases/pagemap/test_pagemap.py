"""Cases about the page map, under every flavour of the software platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vm

Migrate = Callable[..., Any]


@pytest.mark.parametrize("backend", ["soft-sev", "soft-csv", "soft-csv2"])
def test_precopy(migrate_case: Migrate, backend: str) -> None:
    migrate_case("pagemap/precopy", backend=backend)


@pytest.mark.parametrize("case", ["conversion-storm", "unaligned", "kexec", "reset"])
def test_other_ways(migrate_case: Migrate, case: str) -> None:
    migrate_case(f"pagemap/{case}")


def test_ping_pong(migrate_case: Migrate) -> None:
    migrate_case("pagemap/ping-pong", hops=3)
