"""What a user can say of reboots, and what ``cvmig plan`` answers: the table of outcomes, in words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from harness.cases.ask import Words, requests_of
from harness.cases.binaries import locate_qemu
from harness.cases.plan import plan_lines
from harness.cases.protection_settings import ProtectionSettings
from harness.cases.reboot_outcome import outcome_of
from harness.cases.reboot_settings import RebootSettings
from harness.cases.reset_phase import ResetAt, ResetInMigrationSettings
from harness.cases.stage import Binaries, fitted, machine_of
from harness.model.errors import HarnessError, UsageError
from harness.model.machine import CHANGE_VMFD, TCG_TRIM_KIB, Accel, Arch
from harness.model.reboot import REBOOTS, RebootOutcome
from harness.model.reboot_way import RebootWay
from harness.model.reset import RebootEnd
from harness.vm.commandline import command_line
from harness.vm.features import Features

QEMU_10 = (10, 0)
O = RebootOutcome  # noqa: E741 - as the table calls it


def settings(case: str = "reboot/loop", *sets: str, **words: Any) -> RebootSettings:
    (request,) = requests_of([case], Words(sets=sets, **words))
    assert isinstance(request.settings, RebootSettings)
    return request.settings


def test_ways_are_named() -> None:
    asked = settings("reboot/loop", "ways=cf9,kexec", "times=3")
    assert (asked.ways, asked.times) == ((RebootWay.RESET_PORT, RebootWay.KEXEC), 3)
    assert asked.ways_on(Arch.X86_64) == (RebootWay.RESET_PORT, RebootWay.KEXEC)
    assert asked.ways_on(Arch.AARCH64) == ()
    with pytest.raises(UsageError, match=r"ways.0: Input should be 'host', 'cf9'"):
        settings("reboot/loop", "ways=reboot-please")


def test_phases_are_named_where_a_case_has_them() -> None:
    asked = settings("reboot/during-precopy", "reset_at=setup,source-done")
    assert isinstance(asked, ResetInMigrationSettings)
    assert asked.reset_at == (ResetAt.SETUP, ResetAt.SOURCE_DONE)
    with pytest.raises(UsageError, match="reset_at: unknown name"):
        settings("reboot/loop", "reset_at=setup")


@pytest.mark.parametrize(("backend", "converts"), [("none", 0), ("soft-sev", 4), ("soft-csv2", 4)])
def test_a_protected_guest_converts_pages_meanwhile(backend: str, converts: int) -> None:
    assert settings(backend=backend).protection.conversions_per_tick == converts


@pytest.mark.parametrize(
    ("backend", "arch", "reboots"),
    [("none", "x86_64", True), ("none", "aarch64", True), ("soft-csv2", "x86_64", False)],
)
def test_qemu_resets_a_plain_guest_itself_and_pauses_a_protected_one(backend: str, arch: str, reboots: bool) -> None:
    (request,) = requests_of(["reboot/loop"], Words(backend=backend, arch=arch))
    spec = machine_of(request, binaries(Accel.TCG))
    assert spec.reboots is reboots
    assert [device.partition(",")[0] for device in spec.devices] == ["i6300esb", "pvpanic-pci"]


def test_a_case_that_reboots_nobody_has_no_devices_for_it() -> None:
    (request,) = requests_of(["memory/precopy"], Words())
    spec = machine_of(request, binaries(Accel.TCG))
    assert (spec.reboots, spec.devices) == (False, ())


@pytest.mark.parametrize(
    ("technology", "resets_arrived", "fresh", "arrived"),
    [
        ("none", True, O.PASSES, O.PASSES),
        ("soft-sev", True, O.PASSES, O.PASSES),
        ("soft-csv", False, O.PASSES_WITH_CALLS, O.PASSES_WITH_CALLS),
        ("soft-csv2", True, O.PASSES_WITH_CALLS, O.PASSES_WITH_CALLS),
        ("soft-csv2", False, O.PASSES_WITH_CALLS, O.NOT_RESETTABLE),
        ("csv2", True, O.PASSES_WITH_CALLS, O.NOT_RESETTABLE),
        ("csv3", True, O.NOT_RESETTABLE, O.NOT_RESETTABLE),
        ("sev-es", True, O.NOT_RESETTABLE, O.NOT_APPLICABLE),
    ],
)
def test_the_host_decides_what_the_table_leaves_open(
    technology: str, resets_arrived: bool, fresh: RebootOutcome, arrived: RebootOutcome
) -> None:
    protection = ProtectionSettings(resets_arrived=resets_arrived)
    told = [outcome_of(technology, protection, has_arrived=has, qemu=QEMU_10) for has in (False, True)]
    assert told == [fresh, arrived]


@pytest.mark.parametrize(
    ("technology", "resets_arrived", "fresh", "arrived"),
    [
        ("soft-sev", True, O.NEW_CONTEXT, O.NEW_CONTEXT),
        ("soft-csv2", True, O.NEW_CONTEXT, O.NEW_CONTEXT),
        ("soft-csv2", False, O.NEW_CONTEXT, O.NOT_RESETTABLE),
        ("none", True, O.PASSES, O.PASSES),
        ("csv", True, O.PASSES_WITH_CALLS, O.PASSES_WITH_CALLS),
    ],
)
def test_a_platform_that_renews_gives_a_new_context(
    technology: str, resets_arrived: bool, fresh: RebootOutcome, arrived: RebootOutcome
) -> None:
    protection = ProtectionSettings(renews=True, resets_arrived=resets_arrived)
    told = [outcome_of(technology, protection, has_arrived=has, qemu=QEMU_10) for has in (False, True)]
    assert told == [fresh, arrived]


def test_nothing_is_left_open() -> None:
    outcomes = {
        outcome_of(name, ProtectionSettings(resets_arrived=resets), has_arrived=has, qemu=QEMU_10)
        for name in REBOOTS
        for resets in (True, False)
        for has in (True, False)
    }
    assert O.EITHER not in outcomes


def plan(*sets: str, backend: str) -> list[str]:
    try:
        locate_qemu(None)
    except HarnessError as missing:
        pytest.skip(str(missing))
    requests = requests_of(["reboot/loop"], Words(sets=sets, backend=backend))
    lines = asyncio.run(plan_lines(requests))
    return [line.partition("expected")[2].strip() for line in lines if "  expected  " in line]


@pytest.mark.vm
@pytest.mark.parametrize(
    ("backend", "sets", "fresh", "arrived"),
    [
        ("none", (), "passes", "passes"),
        ("soft-csv", (), "passes, with PRE and POST seen", "passes, with PRE and POST seen"),
        ("soft-csv2", (), "passes, with PRE and POST seen", "passes, with PRE and POST seen"),
        (
            "soft-csv2",
            ("protection.resets_arrived=false",),
            "passes, with PRE and POST seen",
            "ends, not resettable",
        ),
    ],
)
def test_a_plan_tells_how_a_reboot_must_end(backend: str, sets: tuple[str, ...], fresh: str, arrived: str) -> None:
    never, came = plan(*sets, backend=backend)
    assert never.startswith("a reboot of a guest that was never migrated under QEMU ")
    assert came.startswith("a reboot of a guest that came in under QEMU ")
    assert (never.partition(": ")[2], came.partition(": ")[2]) == (fresh, arrived)


def binary(*properties: str, version: str = "11.0.0") -> Features:
    nothing: frozenset[str] = frozenset()
    return Features(
        path=Path("qemu"),
        version=version,
        package="",
        target="x86_64",
        machines=nothing,
        accelerators=nothing,
        cpu_models=nothing,
        commands={},
        events=nothing,
        migration_capabilities=nothing,
        migration_parameters=nothing,
        options=nothing,
        machine_properties=frozenset(properties),
    )


def binaries(accel: Accel, source: str = "11.0.0", destination: str = "11.0.0") -> Binaries:
    sides = (binary(version=version) for version in (source, destination))
    return Binaries(source=next(sides), destination=next(sides), accel=accel, accel_reason="for the test")


@pytest.mark.parametrize(
    ("accel", "source", "destination", "sets", "short_kib"),
    [
        (Accel.TCG, "9.0.0", "10.0.2", (), 0),
        (Accel.TCG, "8.2.7", "8.2.7", (), TCG_TRIM_KIB),
        (Accel.TCG, "10.0.2", "7.2.22", (), TCG_TRIM_KIB),
        (Accel.TCG, "7.2.22", "7.2.22", ("trim_kib=0",), 0),
        (Accel.TCG, "10.0.2", "10.0.2", ("trim_kib=128",), 128),
        (Accel.KVM, "7.2.22", "7.2.22", (), 0),
    ],
)
def test_memory_is_short_of_a_round_size_where_qemu_loses_dirty_pages(
    accel: Accel, source: str, destination: str, sets: tuple[str, ...], short_kib: int
) -> None:
    (request,) = requests_of(["memory/precopy"], Words(sets=sets))
    spec = machine_of(request, binaries(accel, source, destination))
    assert spec.memory_bytes == (128 << 20) - (short_kib << 10)


@pytest.mark.parametrize(
    ("case", "accel", "properties", "sets", "changes"),
    [
        ("reboot/loop", Accel.KVM, [CHANGE_VMFD], (), True),
        ("reboot/loop", Accel.KVM, [CHANGE_VMFD], ("new_vmfd=false",), False),
        ("reboot/loop", Accel.KVM, ["memory-backend"], (), False),
        ("reboot/loop", Accel.TCG, [CHANGE_VMFD], (), False),
        ("memory/precopy", Accel.KVM, [CHANGE_VMFD], (), False),
    ],
)
def test_a_reset_changes_the_descriptor_where_the_binary_can(
    case: str, accel: Accel, properties: list[str], sets: tuple[str, ...], changes: bool
) -> None:
    (request,) = requests_of([case], Words(sets=sets))
    spec = fitted(machine_of(request, binaries(accel)), binary(*properties), request)
    words = command_line(spec, binary(), name="cvmig-x", incoming=False)
    assert any(f"{CHANGE_VMFD}=on" in word for word in words) is changes


def test_an_end_is_clean_when_qemu_says_why() -> None:
    assert not RebootEnd(came_back=False).ended_cleanly
