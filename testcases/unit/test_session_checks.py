"""The session's checks: silent over a clean trace, and each planted deviation is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checks.refusals import (
    Pace,
    check_pace,
    check_ready,
    verdict_of_blockers,
    verdict_of_capability,
    verdict_of_pace,
    verdict_of_refusal,
)
from harness.checks.session import check_session
from harness.checks.session_packets import check_packets
from harness.model.address_map import AddressMap, Window
from harness.model.page_set import PageSet
from harness.model.protection import AttemptEnd, HandshakeEvent, HandshakeKind, SessionCommand, SessionEvidence
from harness.model.verdict import Finding, Verdict, verdict_of

ADDRESSES = AddressMap(windows=(Window(0, 0, 64), Window(0x100000, 64, 64)), unmapped=PageSet.empty())
PAGES = 1000
VCPUS = 2


def done(name: str, count: int = 1, *, vcpu: int | None = None) -> SessionCommand:
    return SessionCommand(name=name, count=count, vcpu=vcpu)


def refused(name: str, status: int, **more: object) -> SessionCommand:
    return replace(SessionCommand(name=name, status=status, detail="the processor's reason"), **more)  # type: ignore[arg-type]  # fields by name


def side(verb: str, *, pages: int = PAGES, vcpus: int = VCPUS) -> tuple[SessionCommand, ...]:
    return (
        done(f"{verb}-start"),
        done(f"{verb}-update-data", pages),
        *(done(f"{verb}-update-vmsa", vcpu=vcpu) for vcpu in range(vcpus)),
        done(f"{verb}-finish"),
    )


CLEAN = SessionEvidence(
    end=AttemptEnd.COMPLETED,
    source=(*side("send"), refused("run", 2), done("deactivate"), done("decommission")),
    destination=side("receive"),
    source_state="sent",
    destination_state="running",
    es_vcpus=VCPUS,
)
CANCELLED = SessionEvidence(
    end=AttemptEnd.CANCELLED,
    source=(done("send-start"), done("send-update-data", 7), done("send-cancel")),
    destination=(done("receive-start"), done("receive-update-data", 5)),
    source_state="running",
)


def kinds(findings: Sequence[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def without(commands: Sequence[SessionCommand], name: str) -> tuple[SessionCommand, ...]:
    return tuple(command for command in commands if command.name != name)


@pytest.mark.parametrize("evidence", [CLEAN, CANCELLED, replace(CANCELLED, end=AttemptEnd.FAILED)], ids=lambda e: e.end)
def test_a_clean_session_is_no_finding(evidence: SessionEvidence) -> None:
    assert check_session(evidence) == ()
    assert check_packets(evidence, ADDRESSES) == ()


def test_an_attempt_that_ended_before_its_first_private_page_has_no_session() -> None:
    assert check_session(replace(CANCELLED, source=(), destination=())) == ()


def test_a_session_without_encrypted_vcpus_has_no_vmsa() -> None:
    plain = replace(CLEAN, source=side("send", vcpus=0), destination=side("receive", vcpus=0), es_vcpus=0)
    assert check_session(plain) == ()


PLANTED = {
    "no start": (replace(CLEAN, destination=without(CLEAN.destination, "receive-start")), ["start-count"]),
    "two starts": (replace(CLEAN, source=(done("send-start"), *CLEAN.source)), ["start-count"]),
    "no finish": (replace(CLEAN, destination=without(CLEAN.destination, "receive-finish")), ["finish-count"]),
    "source not finished": (
        replace(CLEAN, source=without(CLEAN.source, "send-finish")[:-3], source_state="supdate"),
        ["finish-count", "runs-after-sent"],
    ),
    "cancelled too": (replace(CLEAN, source=(*side("send"), done("send-cancel"))), ["cancelled", "runs-after-sent"]),
    "state": (replace(CLEAN, source_state="RUNNING"), ["runs-after-sent"]),
    "destination state": (replace(CLEAN, destination_state="rupdate"), ["state"]),
    "runs again": (replace(CLEAN, source=(*side("send"), done("run"))), ["runs-after-sent"]),
    "sent twice": (replace(CLEAN, source=(*side("send"), done("send-start"))), ["start-count", "runs-after-sent"]),
    "update outside": (
        replace(CLEAN, source=(done("send-update-data", 3), *CLEAN.source)),
        ["out-of-order"],
    ),
    "finish after failure": (
        replace(CANCELLED, source=(*CANCELLED.source[:2], done("send-finish")), source_state="sent"),
        ["finish-after-failure"],
    ),
    "left open": (replace(CANCELLED, source=CANCELLED.source[:2], source_state="supdate"), ["not-cancelled"]),
    "cancelled but not running": (replace(CANCELLED, source_state="supdate"), ["state"]),
    "two starts and a cancel": (replace(CANCELLED, source=(done("send-start"), *CANCELLED.source)), ["start-count"]),
    "against the policy": (replace(CLEAN, forbidden_by="NOSEND"), ["sent-against-policy"]),
}


@pytest.mark.parametrize(("evidence", "expected"), PLANTED.values(), ids=PLANTED)
def test_each_deviation_is_named(evidence: SessionEvidence, expected: list[str]) -> None:
    found = check_session(evidence)
    assert kinds(found) == expected
    assert verdict_of(found) is Verdict.FAIL
    assert {finding.check for finding in found} == {"session/commands"}


def test_b26_the_vcpu_whose_vmsa_is_missing_is_named_on_both_sides() -> None:
    lost = replace(CLEAN, source=side("send", vcpus=1), destination=side("receive", vcpus=1))
    found = check_session(lost)
    assert kinds(found) == ["vmsa-count", "vmsa-count"]
    assert found[0].detail == "send-update-vmsa was done for 1 of 2 vCPUs; none of vcpu 1"
    assert "B26" in found[0].remedy


def test_several_vmsa_packets_of_a_vcpu_are_no_finding() -> None:
    extra = tuple(done("send-update-vmsa", vcpu=vcpu) for vcpu in range(VCPUS))
    assert check_session(replace(CLEAN, source=(*CLEAN.source[:-4], *extra, *CLEAN.source[-4:]))) == ()


def test_vmsa_packets_of_nobody_are_counted() -> None:
    source = (*without(side("send"), "send-update-vmsa")[:2], done("send-update-vmsa", 1), done("send-finish"))
    assert "was done for 1 of 2 vCPUs" in check_session(replace(CLEAN, source=source))[0].detail


def test_a_vmsa_that_was_refused_does_not_count() -> None:
    again = (*side("receive", vcpus=1)[:-1], refused("receive-update-vmsa", 2, vcpu=1), done("receive-finish"))
    (found,) = check_session(replace(CLEAN, destination=again))
    assert found.detail.startswith("receive-update-vmsa was done for 1 of 2 vCPUs")


REFUSED_START = replace(CANCELLED, end=AttemptEnd.FAILED, destination=())


@pytest.mark.parametrize(
    ("status", "name", "bug"),
    [
        (6, "INVALID_CERTIFICATE (0x06)", "B48"),
        (7, "POLICY_FAILURE (0x07)", "B31"),
        (10, "BAD_SIGNATURE (0x0a)", "B31"),
    ],
)
def test_a_refused_start_carries_the_firmwares_word(status: int, name: str, bug: str) -> None:
    (found,) = check_session(replace(REFUSED_START, source=(refused("send-start", status),)))
    assert (found.kind, found.where, found.verdict) == ("refused", "source send-start", Verdict.FAIL)
    assert found.detail == f"send-start: {name}: the processor's reason"
    assert bug in found.remedy


@pytest.mark.parametrize("status", [6, 7, 10])
def test_what_the_policy_forbids_is_blocked_and_no_defect(status: int) -> None:
    evidence = replace(REFUSED_START, source=(refused("send-start", status),), forbidden_by="NOSEND")
    (found,) = check_session(evidence)
    assert found.verdict is Verdict.BLOCKED
    assert verdict_of(check_packets(evidence, ADDRESSES)) is Verdict.PASS


def test_a_destination_that_refuses_the_session_is_told() -> None:
    evidence = replace(CANCELLED, end=AttemptEnd.FAILED, destination=(refused("receive-start", 0x99),))
    (found,) = check_session(evidence)
    assert (found.where, found.remedy) == ("destination receive-start", "")
    assert "status 0x99" in found.detail


def refusing(status: int, **more: object) -> SessionEvidence:
    destination = (*CANCELLED.destination, refused("receive-update-data", status, **more))
    return replace(CANCELLED, end=AttemptEnd.FAILED, destination=destination)


@pytest.mark.parametrize(
    ("status", "word"), [(0xB, "changed on its way"), (0x18, "came twice"), (4, "cut short"), (0x11, "")]
)
def test_a_refused_packet_names_status_place_and_number(status: int, word: str) -> None:
    (found,) = check_packets(refusing(status, ram_page=65), ADDRESSES)
    assert (found.check, found.kind, found.where) == ("session/packets", "refused", "gpa 0x100001000-0x100001fff")
    assert "after 5 packets" in found.detail
    assert word in found.remedy
    assert check_session(refusing(status)) == ()


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({}, "destination receive-update-data"),
        ({"vcpu": 1}, "vcpu 1"),
        ({"ram_page": 128}, "RAM page 0x80, beyond 0x80 pages of main memory"),
        ({"ram_page": (1 << 40) + 3}, "page 0x3 of the firmware's block"),
    ],
)
def test_the_place_of_a_refused_packet(more: dict[str, object], where: str) -> None:
    (found,) = check_packets(refusing(0xB, **more), ADDRESSES)
    assert found.where == where


def test_refusals_are_bounded() -> None:
    many = replace(CANCELLED, destination=(refused("receive-update-data", 0xB),) * 100)
    assert len(check_packets(many, ADDRESSES)) == 8


@given(st.integers(0, PAGES), st.integers(0, VCPUS))
@settings(deadline=None, derandomize=True)
def test_a_packet_that_nobody_refused_is_missed_by_its_count(pages: int, vcpus: int) -> None:
    found = check_packets(replace(CLEAN, destination=side("receive", pages=pages, vcpus=vcpus)), ADDRESSES)
    assert kinds(found) == ["missing"] * ((pages != PAGES) + (vcpus != VCPUS))


def test_more_packets_than_were_made_are_told() -> None:
    (found,) = check_packets(replace(CLEAN, destination=side("receive", pages=PAGES + 1)), ADDRESSES)
    assert (found.kind, found.detail) == ("surplus", "the source made 1000 packets, the destination took 1001")


def test_verdicts_of_refusals() -> None:
    assert verdict_of_refusal(done("send-start"), forbidden_by="") is Verdict.PASS
    assert verdict_of_refusal(refused("send-start", 2), forbidden_by="NOSEND") is Verdict.FAIL
    assert verdict_of_capability(is_refused=True) is Verdict.BLOCKED
    assert verdict_of_capability(is_refused=False) is Verdict.FAIL
    assert verdict_of_blockers((), msr=1) is Verdict.PASS
    assert verdict_of_blockers(("wait",), msr=0) is Verdict.BLOCKED
    assert verdict_of_blockers(("wait",), msr=1) is Verdict.FAIL
    assert verdict_of_blockers((), msr=0) is Verdict.FAIL


def test_b34_a_slow_processor_is_too_slow_and_a_dead_one_is_a_defect() -> None:
    slow = Pace(private_pages_dirtied_per_s=9000, processor_pages_per_s=400, moved_pages=1200)
    (found,) = check_pace(slow)
    assert (found.verdict, found.kind) == (verdict_of_pace(slow), "too-slow") == (Verdict.TOO_SLOW, "too-slow")
    assert "400 pages a second" in found.detail
    (found,) = check_pace(replace(slow, moved_pages=0))
    assert (found.verdict, found.kind) == (Verdict.FAIL, "stalled")


def test_b17_a_guest_that_never_said_ready_is_blocked() -> None:
    asked = HandshakeEvent(kind=HandshakeKind.ASKED, msr=0, blocked_reasons=("the guest is not ready",))
    (found,) = check_ready((asked,))
    assert (found.verdict, found.kind) == (Verdict.BLOCKED, "not-ready")
    assert "B17" in found.remedy
    assert check_ready((replace(asked, msr=1, blocked_reasons=()),)) == ()
    assert check_ready(()) == ()
