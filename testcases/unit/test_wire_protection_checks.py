"""Checks of sealed records on the wire, and the preconditions of cases about protected memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks.protection_preconditions import (
    check_around_hole,
    check_both_kinds,
    check_converted,
    check_full_window,
    check_lines_at_risk,
    check_session_was_open,
    check_waiting_vcpu,
)
from harness.checks.wire_records import WINDOW_PAGES, check_broken_off, check_coverage, check_records
from harness.checks.wire_secrecy import check_secrecy
from harness.model.address_map import AddressMap, Window
from harness.model.memory import GpaRange
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet
from harness.model.protection import ConversionsInMove, SealedRecords, VcpuProtection
from harness.model.verdict import Finding, Verdict

ADDRESSES = AddressMap(windows=(Window(0, 0, 64), Window(0x100000, 64, 64)), unmapped=PageSet.empty())
FINAL = PageMap(total_pages=128, shared=PageSet.of((10, 12), (70, 71)))
CLEAN = SealedRecords(
    starts=1,
    pages=130,
    plain_pages=5,
    batches=(WINDOW_PAGES, 1),
    lists=1,
    vcpu_packets=(0, 1),
    order=("plain", "start", "page", "plain", "page", "list", "cpu", "end"),
    packet_pages=FINAL.private,
)


def kinds(findings: Sequence[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def test_clean_records_are_no_finding() -> None:
    assert check_records(CLEAN, sealed_pages=130) == ()
    assert check_secrecy(CLEAN) == ()
    assert check_coverage(CLEAN, FINAL, ADDRESSES) == ()


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (replace(CLEAN, unknown_flags=(0x800, 0x800, 0x40)), ["unknown-flag", "unknown-flag"]),
        (replace(CLEAN, lists=0, order=("start", "page", "cpu", "end")), ["list-count"]),
        (replace(CLEAN, lists=2), ["list-count"]),
        (replace(CLEAN, starts=0), ["session-count"]),
        (replace(CLEAN, starts=2), ["session-count"]),
        (replace(CLEAN, order=("start", "page", "list", "page", "cpu", "end")), ["order"]),
        (replace(CLEAN, order=("start", "page", "cpu", "list", "end")), ["order"]),
        (replace(CLEAN, order=("page", "start", "page", "list", "cpu", "end")), ["order"]),
        (replace(CLEAN, order=("start", "page", "list", "cpu")), ["order"]),
        (replace(CLEAN, batches=(WINDOW_PAGES + 1,)), ["window"]),
        (replace(CLEAN, batches=(0,)), ["window"]),
        (replace(CLEAN, batches=(WINDOW_PAGES - 1,), unended_batches=1), ["window-edge"]),
        (replace(CLEAN, pages=129, batches=(WINDOW_PAGES - 1,)), ["lost"]),
        (replace(CLEAN, pages=131), ["surplus"]),
    ],
)
def test_each_deviation_of_the_records_is_named(wrong: SealedRecords, expected: list[str]) -> None:
    found = check_records(wrong, sealed_pages=130)
    assert kinds(found) == expected
    assert {finding.check for finding in found} == {"wire/records"}


def test_b32_a_flag_of_another_tree_is_told_with_its_name() -> None:
    (found,) = check_records(replace(CLEAN, unknown_flags=(0x800, 0x800)), sealed_pages=130)
    assert found.detail == "2 records with RAM flag 0x800: CGS_EPOCH of the later TDX tree"
    assert check_broken_off(SealedRecords(unknown_flags=(0x800, 0x800))) == (found,)
    assert check_broken_off(SealedRecords()) == ()


def test_b33_a_full_window_is_suspected_where_packets_are_lost() -> None:
    (found,) = check_records(replace(CLEAN, pages=129), sealed_pages=130)
    assert "B33: 1 windows were full" in found.remedy
    (found,) = check_records(replace(CLEAN, pages=129, batches=(WINDOW_PAGES - 1, WINDOW_PAGES - 2)), sealed_pages=130)
    assert "B33: 1 windows were full" in found.remedy
    (found,) = check_records(replace(CLEAN, pages=129, batches=()), sealed_pages=130)
    assert found.remedy == ""


@given(st.sets(st.integers(0, 127), max_size=20))
@settings(deadline=None, derandomize=True)
def test_every_private_page_without_a_packet_is_counted(lost: set[int]) -> None:
    gone = PageSet.from_ranges((page, page + 1) for page in lost)
    found = check_coverage(replace(CLEAN, packet_pages=FINAL.private - gone), FINAL, ADDRESSES)
    missing = (gone & FINAL.private).pages
    assert len(found) == bool(missing)
    assert not found or found[0].detail.startswith(f"{missing} of 125 private pages")


def test_pages_without_a_gpa_need_no_packet_and_no_packets_prove_nothing() -> None:
    hidden = ADDRESSES.unplug(PageSet.of((20, 30)))
    assert check_coverage(replace(CLEAN, packet_pages=FINAL.private - PageSet.of((20, 30))), FINAL, hidden) == ()
    behind = replace(CLEAN, packet_pages=FINAL.private - PageSet.of((20, 30)))
    assert check_coverage(behind, FINAL, ADDRESSES, in_flight=PageSet.of((20, 30))) == ()
    (found,) = check_coverage(replace(CLEAN, packet_pages=PageSet.empty()), FINAL, ADDRESSES)
    assert (found.check, found.verdict) == ("precondition", Verdict.ERROR)


def test_private_content_in_the_clear_is_told_with_its_place() -> None:
    ranges = tuple(GpaRange(page << 12, (page + 1) << 12) for page in range(0, 12, 2))
    (found,) = check_secrecy(replace(CLEAN, clear_private_pages=6, clear_private_ranges=ranges))
    assert (found.check, found.kind) == ("wire/secrecy", "clear-page")
    assert found.where.startswith("gpa 0x0-0xfff, 0x2000-0x2fff")
    assert found.where.endswith("and 2 ranges more")
    (found,) = check_secrecy(replace(CLEAN, clear_private_pages=4, clear_private_ranges=ranges[:4]))
    assert found.where.endswith("0x6000-0x6fff")
    (found,) = check_secrecy(replace(CLEAN, clear_private_pages=1))
    assert found.where == "main memory"


def test_a_readable_register_is_told() -> None:
    (found,) = check_secrecy(replace(CLEAN, clear_registers=tuple(f"cpu/0 env.regs[{n}]" for n in range(6))))
    assert (found.kind, found.verdict) == ("clear-register", Verdict.FAIL)
    assert found.where.endswith("env.regs[3] and 2 more")
    (found,) = check_secrecy(replace(CLEAN, clear_registers=tuple(f"cpu/0 env.regs[{n}]" for n in range(4))))
    assert found.where.endswith("env.regs[3]")


def test_a_case_that_converted_nothing_proves_nothing() -> None:
    assert check_converted(ConversionsInMove(to_shared=3, to_private=2, of_sent_pages=1)) == ()
    assert check_converted(ConversionsInMove(to_shared=2, to_private=2, of_sent_pages=1), at_least=2) == ()
    assert len(check_converted(ConversionsInMove(to_shared=3, to_private=0, of_sent_pages=1))) == 1
    assert len(check_converted(ConversionsInMove(to_shared=3, to_private=2, of_sent_pages=9), at_least=3)) == 1
    found = check_converted(ConversionsInMove(to_shared=0, to_private=0, of_sent_pages=0))
    assert [finding.verdict for finding in found] == [Verdict.ERROR] * 2


def test_both_kinds_of_record_are_needed() -> None:
    assert check_both_kinds(CLEAN, packets=130, plain_pages=5) == ()
    assert kinds(check_both_kinds(CLEAN, packets=131)) == ["one-kind"]
    assert kinds(check_both_kinds(SealedRecords())) == ["one-kind", "one-kind"]


def test_the_hole_needs_shared_pages_on_both_sides() -> None:
    assert check_around_hole(FINAL, ADDRESSES) == ()
    (found,) = check_around_hole(FINAL.with_pages(PageSet.of((64, 128)), private=True), ADDRESSES)
    assert found.where == "gpa 0x100000000-0x10003ffff"
    flat = AddressMap(windows=(Window(0, 0, 128),), unmapped=PageSet.empty())
    assert kinds(check_around_hole(FINAL, flat)) == ["no-hole"]


def test_other_preconditions() -> None:
    assert check_full_window(CLEAN) == ()
    assert kinds(check_full_window(replace(CLEAN, batches=(7,)))) == ["no-full-window"]
    assert kinds(check_full_window(replace(CLEAN, batches=()))) == ["no-full-window"]


@pytest.mark.parametrize(
    ("lines", "resets", "told"), [(0, 1, ["nothing-at-risk"]), (0, 50, ["nothing-at-risk"]), (1, 50, []), (0, 0, [])]
)
def test_a_reset_with_nothing_dirty_is_no_test_of_its_flush(lines: int, resets: int, told: list[str]) -> None:
    found = check_lines_at_risk(lines, resets=resets)
    assert kinds(found) == told
    assert all((finding.check, finding.verdict) == ("precondition", Verdict.ERROR) for finding in found)
    started = VcpuProtection(vcpu=1, ghcb=0x1000, has_first_sipi=True)
    boot = VcpuProtection(vcpu=0, ghcb=0x2000)
    assert check_waiting_vcpu((boot, VcpuProtection(vcpu=1, ghcb=0))) == ()
    assert kinds(check_waiting_vcpu((boot, started))) == ["nobody-waits"]
    assert kinds(check_waiting_vcpu((boot,))) == ["nobody-waits"]
    assert check_session_was_open(1) == ()
    assert kinds(check_session_was_open(0)) == ["no-session"]
