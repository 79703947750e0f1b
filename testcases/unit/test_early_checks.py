"""What is said of a boot: the memory that the one before left, its count, its interrupts, QEMU's own word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.checks.early import (
    check_boots,
    check_early_memory,
    check_events,
    check_interrupts,
    check_pended,
    check_phase,
)
from harness.guest.lines import SHARED_SEED, page_bytes
from harness.model.early import (
    ROUTER,
    EarlyEvidence,
    EarlyInterrupt,
    EarlyReport,
    EarlyState,
    InterruptState,
    ResetPhase,
)
from harness.model.machine import Arch
from harness.model.memory import LINE_SIZE, Damage, PageDamage
from harness.model.reboot_way import WAYS, RebootWay, devices_of, ways_of
from harness.model.reset import MachineEvent, ResetEvidence
from harness.model.verdict import Finding, Verdict

PAGES = 100
SEED = 0x1234
PENDING, ACTIVE, ENABLED = InterruptState


def report(**more: Any) -> EarlyReport:
    whole = {
        "state": EarlyState.LOOKED,
        "is_kexec": False,
        "boot_id": 7,
        "boot_count": 1,
        "pages_checked": PAGES - 3,
        "pages_locked": 1,
        "pages_spared": 2,
        "pages_bad": 0,
        "ticks": 1,
        "by_kind": {},
        "damages": (),
        "interrupts": (),
        "interrupt_count": 0,
    }
    return EarlyReport(**{**whole, **more})


def evidence(*, of: EarlyReport | None = None, **more: Any) -> EarlyEvidence:
    whole = {
        "report": of or report(),
        "boot_id_before": 7,
        "boot_count_before": 1,
        "boot_id": 8,
        "boot_count": 2,
        "is_reset": True,
        "way": "cf9",
    }
    return EarlyEvidence(**{**whole, **more})


def damage(gpa: int, lines: int, *, found_seed: int = SEED) -> PageDamage:
    return PageDamage(
        gpa=gpa,
        kind=Damage.STALE,
        lines=lines,
        first_bad_gpa=gpa,
        expected=page_bytes(gpa, 2, SEED)[:LINE_SIZE],
        found=page_bytes(gpa, 1, found_seed)[:LINE_SIZE],
    )


def said(findings: tuple[Finding, ...]) -> list[tuple[str, Verdict]]:
    return [(finding.kind, finding.verdict) for finding in findings]


def memory(of: EarlyReport) -> tuple[Finding, ...]:
    return check_early_memory(evidence(of=of), managed_pages=PAGES)


def test_a_boot_that_finds_all_as_it_was_is_right() -> None:
    assert memory(report()) == ()
    assert check_boots(evidence()) == ()
    assert check_interrupts(evidence()) == ()


@pytest.mark.parametrize(
    ("lines", "found_seed", "kind"),
    [(1, SEED, "line"), (63, SEED, "line"), (64, SEED, "page"), (64, SEED ^ SHARED_SEED, "view"), (64, 99, "page")],
)
def test_damage_is_told_by_its_size(lines: int, found_seed: int, kind: str) -> None:
    (finding,) = memory(report(pages_bad=1, damages=(damage(0x5000, lines, found_seed=found_seed),)))
    assert (finding.kind, finding.where, finding.verdict) == (kind, "gpa 0x5000", Verdict.FAIL)
    assert f"{lines} lines of 64 bytes wrong in 1 pages" in finding.detail


def test_sizes_are_told_apart_and_what_is_not_listed_is_counted() -> None:
    damages = (damage(0x5000, 1), damage(0x6000, 64), damage(0x7000, 2))
    line, page = memory(report(pages_bad=40, damages=damages))
    assert (line.kind, page.kind) == ("line", "page")
    assert "3 lines of 64 bytes wrong in 2 pages" in line.detail
    assert "37 damaged pages that are not listed" in page.detail


@pytest.mark.parametrize(
    ("told", "kind", "verdict"),
    [
        ({"state": EarlyState.SPOILED, "pages_checked": 0}, "kept-lost", Verdict.FAIL),
        ({"state": EarlyState.NOTHING, "pages_checked": 0}, "nothing-kept", Verdict.ERROR),
        ({"pages_checked": PAGES - 4}, "not-covered", Verdict.ERROR),
        ({"pages_checked": 0, "pages_locked": PAGES - 2}, "not-covered", Verdict.ERROR),
    ],
)
def test_a_look_that_saw_nothing_is_no_pass(told: dict[str, Any], kind: str, verdict: Verdict) -> None:
    assert said(memory(report(**told))) == [(kind, verdict)]


@pytest.mark.parametrize(
    ("state", "kinds"), [(EarlyState.SPOILED, []), (EarlyState.NOTHING, []), (EarlyState.LOOKED, ["old-key"])]
)
def test_a_new_key_reads_nothing_of_the_boot_before(state: EarlyState, kinds: list[str]) -> None:
    found = check_early_memory(evidence(of=report(state=state), is_renewed=True), managed_pages=PAGES)
    assert [finding.kind for finding in found] == kinds


@pytest.mark.parametrize(
    ("told", "kinds"),
    [
        ({"boot_id": 7, "boot_count": 1}, ["same-boot", "miscounted"]),
        ({"boot_count": 1}, ["miscounted"]),
        ({"boot_count": 3}, ["miscounted"]),
        ({"is_reset": False}, ["not-kexec"]),
        ({"is_reset": False, "boot_id": 7, "boot_count": 1}, ["not-kexec"]),
        ({"is_reset": False, "boot_id": 7, "boot_count": 1, "of": report(is_kexec=True)}, []),
        ({"is_renewed": True, "boot_count": 1}, []),
        ({"is_renewed": True, "boot_count": 2}, ["miscounted"]),
        ({"is_renewed": True, "boot_id": 7, "boot_count": 1}, ["same-boot"]),
    ],
)
def test_a_reset_is_one_boot_more(told: dict[str, Any], kinds: list[str]) -> None:
    assert [finding.kind for finding in check_boots(evidence(**told))] == kinds


def test_no_interrupt_survives() -> None:
    pending = EarlyInterrupt(PENDING, 0, 0x50)
    pin = EarlyInterrupt(ENABLED, ROUTER, 3)
    found = check_interrupts(
        evidence(of=report(interrupts=(pending, EarlyInterrupt(ACTIVE, 0, 0x61), pin)), pended=(pending,))
    )
    assert [finding.kind for finding in found] == ["survived", "let-through"]
    assert "0x50 pending at vCPU 0, 0x61 active at vCPU 0; 1 of them were pending before it" in found[0].detail
    assert found[1].where == "0x3 enabled at router"


def test_a_kernel_that_starts_another_leaves_it_its_interrupts() -> None:
    left = report(is_kexec=True, interrupts=(EarlyInterrupt(ENABLED, ROUTER, 3),))
    assert check_interrupts(evidence(of=left, is_reset=False)) == ()


def test_without_pending_interrupts_nothing_was_tried() -> None:
    two = (EarlyInterrupt(PENDING, 0, 0x50), EarlyInterrupt(PENDING, 0, 0x51), EarlyInterrupt(ENABLED, ROUTER, 3))
    assert check_pended(evidence(pended=two), at_least=2) == ()
    assert said(check_pended(evidence(pended=two), at_least=3)) == [("not-pending", Verdict.ERROR)]


def events(*words: str) -> ResetEvidence:
    told = (word.partition(":") for word in words)
    return ResetEvidence(
        events=tuple(
            MachineEvent(name=name, reason=reason, by_guest="guest" in reason, at_s=at_s)
            for at_s, (name, _, reason) in enumerate(told)
        )
    )


@pytest.mark.parametrize(
    ("way", "told", "kinds"),
    [
        (RebootWay.RESET_PORT, ["RESET:guest-reset"], []),
        (RebootWay.RESET_PORT, ["RESET:guest-reset", "RESET:guest-reset"], []),
        (RebootWay.RESET_PORT, ["RESET:"], []),
        (RebootWay.RESET_PORT, ["SHUTDOWN:guest-reset", "RESET:host-qmp-system-reset"], []),
        (RebootWay.RESET_PORT, ["RESET:host-qmp-system-reset"], ["other-reason"]),
        (RebootWay.RESET_PORT, ["SHUTDOWN:guest-reset"], ["no-reset"]),
        (RebootWay.HOST, ["RESET:host-qmp-system-reset", "RESET:guest-reset"], []),
        (RebootWay.HOST, [], ["no-reset"]),
        (RebootWay.KEXEC, [], []),
        (RebootWay.KEXEC, ["RESET:guest-reset"], ["reset-instead"]),
    ],
)
def test_qemu_says_that_it_reset_the_machine_and_why(way: RebootWay, told: list[str], kinds: list[str]) -> None:
    assert [finding.kind for finding in check_events(events(*told), way=way)] == kinds


def test_a_reboot_belongs_to_its_phase() -> None:
    phase = ResetPhase(at="first-pass", statuses=("active", "active"))
    assert check_phase(phase, expected={"active"}) == ()
    late = replace(phase, statuses=("active", "completed"))
    assert said(check_phase(late, expected={"active"})) == [("not-in-phase", Verdict.ERROR)]


def test_ways_have_numbers_of_their_own() -> None:
    assert set(WAYS) == set(RebootWay)
    assert sorted(row.code for row in WAYS.values()) == list(range(len(WAYS)))


@pytest.mark.parametrize("arch", Arch)
def test_nobody_reboots_bare_of_its_own_accord(arch: Arch) -> None:
    ways = ways_of(arch)
    assert RebootWay.BARE not in ways
    assert {RebootWay.HOST, RebootWay.WATCHDOG, RebootWay.PANIC} <= set(ways)
    assert [device.partition(",")[0] for device in devices_of(ways)] == ["i6300esb", "pvpanic-pci"]
    assert devices_of((RebootWay.HOST,)) == ()
