"""Cases about vCPU state, sessions, policy and firmware; and every memory case with encrypted memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cases.ask import Words
from harness.cases.replay_request import request_of
from harness.migration.sealed.tap import clear_lines
from harness.model.errors import UsageError
from harness.model.seed import Seed
from harness.model.verdict import Verdict
from testcases.conftest import NEWER_QEMU, SEED, Player

pytestmark = pytest.mark.vm

Migrate = Callable[..., Any]


@pytest.mark.parametrize(
    "case", ["vmsa-ghcb", "ring-buffer", "cancel-retry", "migrate-during-firmware", "nested-vc", "policy"]
)
def test_case(migrate_case: Migrate, case: str) -> None:
    migrate_case(f"cvm/{case}")


@pytest.mark.parametrize("backend", ["soft-sev", "soft-csv", "soft-csv2"])
@pytest.mark.parametrize("case", ["precopy", "multi-vcpu", "ping-pong"])
def test_memory(migrate_case: Migrate, case: str, backend: str) -> None:
    migrate_case(f"memory/{case}", backend=backend, memory_mib=64)


def test_cancelled_attempts_leave_a_guest_that_can_be_sent(migrate_case: Migrate) -> None:
    migrate_case("memory/precopy-cancel-retry", backend="soft-csv2", memory_mib=64)


@pytest.mark.parametrize("transport", ["tcp"])
def test_over_tcp(migrate_case: Migrate, transport: str) -> None:
    migrate_case("pagemap/precopy", transport=transport)


@pytest.mark.skipif(not NEWER_QEMU.exists(), reason="needs QEMU 10.0: ci/setup unpacks it")
def test_from_an_old_qemu_to_a_new_one(migrate_case: Migrate) -> None:
    migrate_case("pagemap/precopy", qemu_dst=NEWER_QEMU)


def test_no_line_of_a_private_page_is_on_the_wire(play: Player) -> None:
    result = play("pagemap/precopy", record=True, keep="always")
    assert result.verdict is Verdict.PASS, result.reason
    capture = Path(result.run_dir) / "stream.bin"
    assert capture.stat().st_size > 100 << 20
    assert next(iter(clear_lines(capture, Seed(SEED).sub("pattern"))), None) is None


def test_the_scan_finds_a_line_that_is_there(play: Player) -> None:
    result = play("pagemap/precopy", "qemu-private-in-clear", record=True, keep="always")
    found = clear_lines(Path(result.run_dir) / "stream.bin", Seed(SEED).sub("pattern"), limit=256)
    assert next(iter(found), None) is not None


def test_the_stream_of_a_protected_guest_is_not_replayed(play: Player) -> None:
    result = play("pagemap/precopy", "qemu-list-not-sent", keep="always")
    with pytest.raises(UsageError, match="protected guest"):
        request_of(Path(result.run_dir) / "stream.bin", Words())


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("host-kill-source", Verdict.LOST),
        ("host-kill-destination", Verdict.LOST),
        ("wire-cut", Verdict.FAIL),
        ("wire-truncate", Verdict.FAIL),
        ("guest-crash", Verdict.FAIL),
        ("host-run-source", Verdict.FAIL),
        ("wire-corrupt-device", Verdict.FAIL),
        ("wire-flip-bit:count=4", Verdict.FAIL),
    ],
)
def test_what_breaks_a_plain_move_breaks_a_protected_one(play: Player, fault: str, verdict: Verdict) -> None:
    result = play("memory/precopy", fault, backend="soft-csv2", memory_mib=64, working_set_mib=16)
    assert result.verdict is verdict, result.reason
    assert not [finding for finding in result.findings if finding.check == "precondition"]


@pytest.mark.parametrize(
    "words",
    [
        {"protection.policy": "nosend"},
        {"protection.policy": "domain", "protection.target_owner": "other"},
        {"protection.offers_migration": False},
    ],
    ids=str,
)
def test_what_is_forbidden_is_blocked_and_no_failure(play: Player, words: dict[str, Any]) -> None:
    result = play("memory/precopy", backend="soft-csv2", memory_mib=64, **words)
    assert result.verdict is Verdict.BLOCKED, result.reason
    assert result.findings == ()


def test_a_processor_that_is_too_slow_is_no_failure(play: Player) -> None:
    words = {"protection.pace": "amd"}
    result = play("memory/precopy", backend="soft-sev", memory_mib=64, deadline_s=12, **words)
    assert result.verdict is Verdict.TOO_SLOW, result.reason
