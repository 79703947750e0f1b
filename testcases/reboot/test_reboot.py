"""Cases that reboot their guest: on every backend, both architectures and both QEMUs; short ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.migration import driver
from harness.migration.hold import let_go
from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from testcases.conftest import NEWER_ARM_QEMU, NEWER_QEMU, Player

pytestmark = pytest.mark.vm

Migrate = Callable[..., CaseResult]
SOFT = ["soft-sev", "soft-csv", "soft-csv2"]
MOVING = ["then-migrate", "migrate-then-reboot", "round-trip"]
WAYS_OF_A_PC = 8
EARLY = {"reset/end", "reboot/events", "reboot/memory", "reboot/boots", "reboot/interrupts"}


@pytest.fixture(params=["usual", "newer"])
def newest(request: pytest.FixtureRequest) -> Callable[[str], Path | None]:
    """The QEMU on PATH, and 10.0, for an architecture."""

    def qemu(arch: str) -> Path | None:
        path = NEWER_ARM_QEMU if arch == "aarch64" else NEWER_QEMU
        if request.param == "newer" and not path.exists():
            pytest.skip("needs QEMU 10.0 beside the checkout: run ci/setup")
        return path if request.param == "newer" else None

    return qemu


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_every_way_of_a_machine_keeps_its_memory(
    migrate_case: Migrate, newest: Callable[[str], Path | None], arch: str
) -> None:
    result = migrate_case("reboot/loop", arch=arch, qemu=newest(arch), times=WAYS_OF_A_PC)
    assert set(result.checks) >= EARLY
    assert [mark.number for mark in result.reboots] == list(range(1, WAYS_OF_A_PC + 1))
    assert all(mark.came_back and mark.duration_s > 0 and not mark.findings for mark in result.reboots)
    assert "<h2>Reboots</h2>" in Path(result.run_dir, "report.html").read_text()


@pytest.mark.parametrize("backend", SOFT)
def test_every_way_keeps_protected_memory(migrate_case: Migrate, backend: str) -> None:
    result = migrate_case("reboot/loop", backend=backend, times=WAYS_OF_A_PC)
    assert set(result.checks) >= {*EARLY, "page-map/reset"}


@pytest.mark.parametrize("case", ["storm", "irq-pending"])
@pytest.mark.parametrize("words", [{}, {"backend": "soft-csv2"}, {"arch": "aarch64"}], ids=str)
def test_all_at_once_and_with_interrupts_pending(migrate_case: Migrate, case: str, words: dict[str, Any]) -> None:
    migrate_case(f"reboot/{case}", times=3, **words)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_all_at_once_by_devices_on_pci(migrate_case: Migrate, arch: str) -> None:
    # Their BARs are placed for the reboot: by vCPUs that did it together they came to lie anywhere.
    migrate_case("reboot/storm", arch=arch, ways=["watchdog", "panic"], times=12)


@pytest.mark.parametrize("case", MOVING)
@pytest.mark.parametrize("words", [{}, {"backend": "soft-csv"}, {"backend": "soft-csv2"}, {"arch": "aarch64"}], ids=str)
def test_around_a_migration(migrate_case: Migrate, case: str, words: dict[str, Any]) -> None:
    migrate_case(f"reboot/{case}", times=1, **words)


@pytest.mark.parametrize("words", [{}, {"backend": "soft-csv2"}, {"arch": "aarch64"}], ids=str)
def test_after_cancelled_attempts(migrate_case: Migrate, words: dict[str, Any]) -> None:
    migrate_case("reboot/cancel-retry", **words)


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_in_every_phase(migrate_case: Migrate, newest: Callable[[str], Path | None], arch: str) -> None:
    migrate_case("reboot/during-precopy", arch=arch, qemu=newest(arch))


def test_in_every_phase_of_a_protected_guest(migrate_case: Migrate) -> None:
    migrate_case("reboot/during-precopy", backend="soft-csv2")


@pytest.mark.parametrize("way", ["cf9", "host", "panic"])
def test_a_host_that_does_not_reset_who_came_in_is_unsupported(play: Player, way: str) -> None:
    result = play(
        "reboot/migrate-then-reboot",
        backend="soft-csv2",
        times=1,
        ways=[way],
        protection={"resets_arrived": False},
    )
    assert result.verdict is Verdict.UNSUPPORTED, result.reason
    assert {(finding.check, finding.kind) for finding in result.findings} == {("reset/end", "not-resettable")}


def test_the_same_host_resets_who_never_moved(play: Player) -> None:
    result = play("reboot/loop", backend="soft-csv2", times=2, protection={"resets_arrived": False})
    assert result.verdict is Verdict.PASS, result.reason


@pytest.mark.parametrize("comes", ["never", "too late"])
def test_a_phase_that_is_missed_is_an_error_and_no_pass(
    play: Player, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    async def reach(watch: Any, at: Any, settings: Any, deadline: Any) -> bool:  # noqa: ARG001
        await let_go(watch.vm, settings, deadline)
        await watch.until(lambda w: w.is_over, deadline=deadline, what="end")
        return comes == "too late"

    monkeypatch.setattr(driver, "reach", reach)
    result = play("reboot/during-precopy", reset_at=["first-pass"])
    assert result.verdict is Verdict.ERROR, result.reason
    assert ("precondition", "not-in-phase") in {(finding.check, finding.kind) for finding in result.findings}
    assert {finding.check for finding in result.findings} == {"precondition"}


@pytest.mark.parametrize("at", ["pre-switchover", "destination-loaded", "source-done"])
def test_a_source_that_runs_after_a_reset_is_found(play: Player, at: str) -> None:
    result = play("reboot/during-precopy", "host-run-source", reset_at=[at])
    assert result.verdict is Verdict.FAIL, result.reason
    assert {(finding.check, finding.kind) for finding in result.findings} == {
        ("migration/one-side-runs", "source-runs")
    }


def test_a_way_that_the_machine_has_not_is_an_error(play: Player) -> None:
    result = play("reboot/loop", times=1, ways=["psci"])
    assert result.verdict is Verdict.ERROR
    assert "has none of the ways psci" in result.reason


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("words", [{}, *({"backend": name} for name in SOFT), {"arch": "aarch64"}], ids=str)
def test_fifty_reboots_leave_no_finding(play: Player, words: dict[str, Any], seed: int) -> None:
    result = play("reboot/loop", seed=0x2EB007 + seed, **words)
    assert result.verdict is Verdict.PASS, result.reason
    assert result.findings == ()
