"""Memory survives between QEMU versions, in both directions, with a machine type that both know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vm

SIDES = ("usual", "newer")


@pytest.mark.parametrize("case", ["memory/precopy", "cpu/state", "state/round-trip"])
@pytest.mark.parametrize(("source", "destination"), [("usual", "newer"), ("newer", "usual"), ("newer", "newer")])
def test_between_versions(
    migrate_case: Callable[..., Any], usual_qemu: Path, newer_qemu: Path, case: str, source: str, destination: str
) -> None:
    qemus = dict(zip(SIDES, (usual_qemu, newer_qemu), strict=True))
    result = migrate_case(case, qemu=qemus[source], qemu_dst=qemus[destination], memory_mib=64)
    assert result.versions["machine"] == "pc-q35-7.2"


def test_there_and_back_between_versions(migrate_case: Callable[..., Any], usual_qemu: Path, newer_qemu: Path) -> None:
    migrate_case("memory/ping-pong", qemu=usual_qemu, qemu_dst=newer_qemu, hops=3, memory_mib=64)
