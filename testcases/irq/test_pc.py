"""Every interrupt of a PC that is under way while it moves arrives once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testcases.conftest import Player

pytestmark = pytest.mark.vm

CASES = ("msi-pending", "msix-mask", "hlt-wake", "ipi-pending", "timer", "ioapic", "legacy", "storm")
CHECKS = {"irq/pending", "irq/exactly-once", "irq/delivery", "irq/handler-order", "precondition"}


@pytest.mark.parametrize("vcpus", [1, 4])
@pytest.mark.parametrize("name", CASES)
def test_each_arrives_once(migrate_case: Callable[..., Any], name: str, vcpus: int) -> None:
    result = migrate_case(f"irq/{name}", vcpus=vcpus)
    assert set(result.checks) >= CHECKS


@pytest.mark.parametrize("name", [*CASES, "x2apic"])
def test_with_a_newer_qemu(play: Player, newer_qemu: Path, name: str) -> None:
    result = play(f"irq/{name}", qemu=newer_qemu)
    assert result.verdict == "pass", result.reason
    assert set(result.checks) >= CHECKS


@pytest.mark.parametrize("name", ["msi-pending", "msix-mask", "ioapic"])
def test_between_two_versions(play: Player, usual_qemu: Path, newer_qemu: Path, name: str) -> None:
    result = play(f"irq/{name}", qemu=usual_qemu, qemu_dst=newer_qemu)
    assert result.verdict == "pass", result.reason


@pytest.mark.parametrize(("name", "lacks"), [("x2apic", "x2APIC"), ("timer-deadline", "TSC-deadline")])
def test_what_the_processor_lacks_is_said(play: Player, name: str, lacks: str) -> None:
    result = play(f"irq/{name}")
    assert result.verdict == "unsupported"
    assert lacks in result.reason


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_many_seeds(play: Player, name: str) -> None:
    for seed in range(50):
        result = play(f"irq/{name}", seed=seed)
        assert result.verdict == "pass", f"seed {seed}: {result.reason}"
