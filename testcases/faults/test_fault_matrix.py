"""Every fault is caught by the check that has to catch it, with the right diagnosis; without faults all is silent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.cases.faults import FAULTS
from harness.model.result import CaseResult
from harness.model.soft_fault import SOFT_FAULTS
from harness.model.verdict import Verdict
from testcases.conftest import Player
from testcases.faults.test_reboot_faults import TABLE as OF_PROTECTED_REBOOTS

pytestmark = pytest.mark.vm

CASES: dict[str, dict[str, Any]] = {
    # Pages behind the working set are sent once and never written again, so the guest itself must find them damaged.
    "cold": {"case": "memory/precopy", "memory_mib": 64, "working_set_mib": 16},
    # Faults of pages that are sent again need pages that are written again; in random order and throttled, so that what
    # the guest still writes at its destination before it hears that it shall stop cannot cover all of them.
    "hot": {"case": "memory/precopy", "memory_mib": 64, "workload": "random", "pages_per_tick": 400, "passes": 3},
    # Long enough for a busy machine to boot.
    "brief": {"case": "memory/precopy", "memory_mib": 64, "deadline_s": 12},
    # And to be sure that nothing moves: a stall is one after five seconds, and five of the deadline are for its end.
    "stalled": {"case": "memory/precopy", "memory_mib": 64, "deadline_s": 20},
    "plain": {"case": "memory/precopy", "memory_mib": 64},
    "cpu": {"case": "cpu/state", "memory_mib": 64},
    "state": {"case": "state/round-trip", "memory_mib": 64},
    "hops": {"case": "memory/ping-pong", "memory_mib": 64, "workload": "read-mostly", "hops": 3},
    "cancel": {"case": "memory/precopy-cancel-retry", "memory_mib": 64, "cancel_at": ["first-pass"]},
    "reboot": {"case": "reboot/irq-pending", "times": 2, "ways": ["cf9"]},
    # Nobody comes back, so its deadline is what ends it.
    "hanging": {"case": "reboot/irq-pending", "times": 1, "ways": ["cf9"], "boot_s": 4},
    # A host that does not reset such a guest: without a fault the reboot is unsupported.
    "arrived": {
        "case": "reboot/migrate-then-reboot",
        "backend": "soft-csv2",
        "times": 1,
        "ways": ["cf9"],
        "protection": {"resets_arrived": False},
    },
}
SILENT = [name for name in CASES if name not in {"brief", "stalled", "hanging", "arrived"}]
"""They pass without a fault."""


@dataclass(frozen=True, kw_only=True)
class Caught:
    """One fault as it is asked for, and what has to be said about it."""

    fault: str
    on: str
    verdict: Verdict = Verdict.FAIL
    finds: frozenset[tuple[str, str]] = frozenset()
    """(check, kind) pairs that must be among the findings."""
    only: bool = True
    """Nothing else may be found."""
    where: str = ""
    """Must be in the place of one of these findings."""
    says: tuple[str, ...] = field(default=())
    """Must be in the reason: QEMU's or the guest's own words."""

    @property
    def name(self) -> str:
        return self.fault.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.on}-{self.fault}"


def memory(fault: str, kind: str, *, on: str) -> Caught:
    """Damage that both witnesses must see."""
    return Caught(fault=fault, on=on, finds=frozenset({("memory/host", kind), ("memory/guest", kind)}))


def finds(fault: str, *pairs: tuple[str, str], on: str = "plain", **more: Any) -> Caught:
    return Caught(fault=fault, on=on, finds=frozenset(pairs), **more)


ENDS = ("migration/ends", "not-loaded")
DEVICES = ("state/devices", "changed")
TABLE = (
    memory("wire-drop-page:count=64", "stale", on="hot"),
    memory("wire-stale-page:count=64", "stale", on="hot"),
    memory("wire-duplicate-page:count=64", "stale", on="hot"),
    memory("wire-tear-page:count=64", "torn", on="hot"),
    memory("wire-swap-pages:count=4", "swapped", on="cold"),
    memory("wire-flip-bit:count=4", "bit", on="cold"),
    memory("wire-zero-page:count=4", "zeroed", on="cold"),
    memory("wire-lost-line:count=4", "line", on="cold"),
    memory("wire-shift-page:count=4", "shifted", on="cold"),
    memory("wire-random-page:count=4", "random", on="cold"),
    finds("wire-flip-bit:block=pc.bios", ("memory/host", "changed"), where="pc.bios"),
    finds(
        "wire-random-page:count=16",
        ("memory/running-reads", "random"),
        ("memory/host", "random"),
        on="hops",
        only=False,
    ),
    finds("wire-truncate", ENDS, says=("qemu-system-x86_64:", "error while loading state")),
    finds("wire-cut", ENDS, says=("qemu-system-x86_64:", "error while loading state")),
    finds("wire-stall", ("migration/ends", "stalled"), on="stalled", says=("no byte was transferred",)),
    finds("wire-slow:bytes_per_s=1000000", on="brief", verdict=Verdict.TOO_SLOW, says=("no convergence",)),
    finds("wire-corrupt-header", ENDS, says=("Not a migration stream",)),
    finds("wire-corrupt-device", DEVICES, on="state", only=False, where="cpu/0 env.regs["),
    finds(
        # A register that only the canaries use: a vCPU that stops within its timer handler has its own in the others.
        "wire-corrupt-device:device=cpu/1,field=env.dr[[]1[]]",
        DEVICES,
        ("cpu/registers", "changed"),
        on="cpu",
        where="vcpu 1 dr1",
    ),
    finds(
        "wire-corrupt-device:device=cpu/1,field=env.xmm_regs*",
        DEVICES,
        ("cpu/registers", "changed"),
        on="cpu",
        where="vcpu 1 ymm",
    ),
    finds("wire-corrupt-device:device=i8259/*,field=special_mask", DEVICES, on="state", where="i8259/"),
    finds("host-run-source", ("migration/one-side-runs", "source-runs")),
    finds("host-reset-destination", ("guest/same-boot", "other-boot")),
    finds(
        "host-keep-destination-paused",
        ("migration/one-side-runs", "vcpu-stopped"),
        ("migration/one-side-runs", "destination-stopped"),
    ),
    finds("host-other-machine", ENDS, says=("Machine type received is 'pc-q35-7.2'",)),
    finds("host-kill-source", ("migration/ends", "process-lost"), verdict=Verdict.LOST, says=("SIGKILL", "src")),
    finds("host-kill-destination", ("migration/ends", "process-lost"), verdict=Verdict.LOST, says=("SIGKILL", "dst")),
    finds("host-stop-source", ("migration/source-alive", "source-stopped"), on="cancel"),
    finds(
        "host-ignore-cancel",
        ("migration/cancel", "not-cancelled"),
        ("migration/source-alive", "source-stopped"),
        on="cancel",
    ),
    finds("host-line-falls-back", ("reboot/memory", "line"), on="reboot"),
    finds("host-page-falls-back", ("reboot/memory", "page"), on="reboot"),
    finds("host-boot-page-lost", ("reboot/memory", "kept-lost"), ("reboot/boots", "miscounted"), on="reboot"),
    finds(
        "host-resets-nothing",
        ("reboot/events", "no-reset"),
        ("reboot/interrupts", "survived"),
        ("reboot/interrupts", "let-through"),
        on="reboot",
    ),
    finds("host-resets-first", ("reboot/events", "other-reason"), on="reboot"),
    finds("host-stays-paused", ("reset/end", "hangs"), on="hanging"),
    finds("host-resets-anyway", ("reset/end", "came-back"), on="arrived"),
    finds("guest-crash", says=("the guest crashed: vector 6",)),
    finds("guest-hang", on="brief", says=("until the deadline", "QEMU is running")),
)


def played(play: Player, on: str, *faults: str) -> CaseResult:
    settings = dict(CASES[on])
    return play(settings.pop("case"), *faults, **settings)


@pytest.mark.parametrize("caught", TABLE, ids=str)
def test_each_fault_is_caught_with_the_right_diagnosis(play: Player, caught: Caught) -> None:
    result = played(play, caught.on, caught.fault)
    assert result.verdict is caught.verdict, result.reason
    found = {(finding.check, finding.kind) for finding in result.findings}
    assert caught.finds <= found
    if caught.only:
        assert found - {(check, "more") for check, _ in caught.finds} == caught.finds
    places = [finding.where for finding in result.findings if (finding.check, finding.kind) in caught.finds]
    assert not caught.where or any(caught.where in place for place in places), places
    for words in caught.says:
        assert words in result.reason


def test_a_reboot_that_never_ends_stands_in_the_report(play: Player) -> None:
    (mark,) = played(play, "hanging", "host-stays-paused").reboots
    assert (mark.way, mark.came_back, mark.findings) == ("cf9", False, 1)


@pytest.mark.parametrize("on", SILENT)
def test_the_same_case_without_a_fault_is_silent(play: Player, on: str) -> None:
    result = played(play, on)
    assert result.verdict is Verdict.PASS, result.reason
    assert result.findings == ()


TICKS = "wire-corrupt-device:device=timer/0,field=cpu_ticks_offset"
"""Which bit is flipped is the seed's choice: a high one makes the TSC jump, one that is set makes it run backwards."""


def test_a_wrong_clock_is_found(play: Player) -> None:
    result = play("cpu/state", TICKS, memory_mib=64, seed=0x5EED)
    found = {(finding.check, finding.kind) for finding in result.findings}
    assert result.verdict is Verdict.FAIL, result.reason
    assert found == {DEVICES, ("cpu/clock", "jumped")}


def test_the_table_covers_the_catalogue() -> None:
    # Those of interrupts have a table of their own, test_interrupt_faults.py, and those of protected guests two.
    others = {name for name in FAULTS if name.startswith("irq-")} | {row.fault for row in OF_PROTECTED_REBOOTS}
    assert {caught.name for caught in TABLE} == set(FAULTS) - set(SOFT_FAULTS) - others


def test_every_check_of_every_case_is_proven_to_speak(play: Player) -> None:
    """Checks that judged in clean runs, against those that the faults above make speak."""
    judged = {check for on in SILENT for check in played(play, on).checks}
    spoken = {check for caught in TABLE for check, _ in caught.finds} | {"cpu/clock"}
    # The precondition speaks where a fault finds no place: see below.
    assert judged - {"precondition"} == spoken


@pytest.mark.parametrize(
    ("on", "fault"),
    [("plain", "host-ignore-cancel"), ("cpu", "guest-crash"), ("plain", "wire-corrupt-device:device=none/*")],
)
def test_a_fault_that_finds_no_place_is_an_error_and_no_pass(play: Player, on: str, fault: str) -> None:
    result = played(play, on, fault)
    assert result.verdict is Verdict.ERROR
    assert [(finding.check, finding.kind) for finding in result.findings] == [("precondition", "fault-not-applied")]


def _struck(result: CaseResult) -> set[str]:
    return {finding.where for finding in result.findings if finding.check == "memory/host"}


def _pattern_seeds(result: CaseResult) -> set[str]:
    """The third word of each line of the pattern is the seed that the guest was filled with."""
    details = (finding.detail for finding in result.findings if finding.check == "memory/host")
    return {match[1] for detail in details if (match := re.search(r"expected \w{16} \w{16} (\w{16})", detail))}


def test_the_seed_decides_what_is_struck_and_what_memory_holds(play: Player) -> None:
    settings = dict(CASES["cold"])
    case = settings.pop("case")
    first, second, other = (
        play(case, "wire-zero-page:count=4", seed=seed, **settings) for seed in (0xA11CE, 0xA11CE, 0xB0B)
    )
    assert _struck(first) == _struck(second) != set()
    assert _pattern_seeds(first) == _pattern_seeds(second) != set()
    assert not _struck(first) & _struck(other)
    assert not _pattern_seeds(first) & _pattern_seeds(other)
