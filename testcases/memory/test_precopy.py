"""Guest memory survives a live migration, whatever the guest does and however it is carried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.model.guest import Workload

pytestmark = pytest.mark.vm

Migrate = Callable[..., Any]

WRITERS = tuple(workload for workload in Workload if workload is not Workload.IDLE)


@pytest.mark.parametrize("workload", WRITERS)
def test_memory_survives_under_each_workload(migrate_case: Migrate, workload: Workload) -> None:
    result = migrate_case("memory/precopy", workload=workload.value, memory_mib=64)
    assert {"memory/host", "memory/guest", "precondition"} <= set(result.checks)


def test_an_idle_guest_arrives_whole(migrate_case: Migrate) -> None:
    migrate_case("memory/precopy", workload="idle", passes=1, memory_mib=64)


def test_the_usual_case(migrate_case: Migrate) -> None:
    migrate_case("memory/precopy")


@pytest.mark.parametrize("vcpus", [2, 4])
def test_each_vcpu_dirties_its_share(migrate_case: Migrate, vcpus: int) -> None:
    migrate_case("memory/precopy", vcpus=vcpus, memory_mib=64)


@pytest.mark.parametrize("vcpus", [2, 4])
def test_vcpus_share_pages_under_locks(migrate_case: Migrate, vcpus: int) -> None:
    migrate_case("memory/multi-vcpu", vcpus=vcpus, memory_mib=64)


@pytest.mark.parametrize("relay", [True, False], ids=["relay", "direct"])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_any_transport(migrate_case: Migrate, transport: str, relay: bool) -> None:
    migrate_case("memory/precopy", transport=transport, relay=relay, memory_mib=64)


@pytest.mark.parametrize("workload", [Workload.HOT_SET, Workload.RANDOM])
def test_deltas_between_page_versions(migrate_case: Migrate, workload: Workload) -> None:
    migrate_case("memory/precopy", workload=workload.value, passes=4, memory_mib=64, capabilities={"xbzrle": True})


def test_many_passes(migrate_case: Migrate) -> None:
    migrate_case("memory/precopy", passes=6, memory_mib=64, workload="random")


def test_a_working_set_smaller_than_memory(migrate_case: Migrate) -> None:
    migrate_case("memory/precopy", memory_mib=128, working_set_mib=16)


def test_memory_on_both_sides_of_the_hole_below_4_gib(migrate_case: Migrate) -> None:
    migrate_case("memory/precopy", memory_mib=128, below_4g_mib=64, vcpus=2)


@pytest.mark.nightly
def test_so_much_memory_that_it_does_not_fit_below_the_hole(migrate_case: Migrate) -> None:
    """3 GiB on q35 ends above 4 GiB. Filled it is not sparse, so the working set is all that is kept small."""
    migrate_case("memory/precopy", memory_mib=3072, working_set_mib=64, vcpus=2, deadline_s=240)


@pytest.mark.nightly
@pytest.mark.large
def test_more_than_4_gib(migrate_case: Migrate) -> None:
    migrate_case("memory/large")
