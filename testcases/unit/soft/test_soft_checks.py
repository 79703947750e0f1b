"""The checks over what the software platform shows of a guest without QEMU: silent when clean, each fault named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from harness.checks.handshake import check_handshake
from harness.checks.host_pins import check_pins
from harness.checks.refusals import check_ready
from harness.checks.session import check_session
from harness.checks.session_packets import check_packets
from harness.checks.vcpu_protection import check_ghcb, check_ghcb_is_shared
from harness.confidential.soft.channel import ghcb
from harness.confidential.soft.channel.hypercalls import MSR_MIGRATION_CONTROL
from harness.confidential.soft.flavour import FLAVOURS, SOFT_CSV, SOFT_CSV2, Flavour
from harness.confidential.soft.processor.packets import Packet
from harness.confidential.soft.processor.status import CommandRefusedError
from harness.model.memory import PAGE_SIZE
from harness.model.protection import AttemptEnd, SessionEvidence
from harness.model.soft_fault import SoftFault
from harness.model.verdict import Finding, Verdict, verdict_of

from .small_vm import ADDRESSES, GHCB, TOTAL_PAGES, SmallVm, expect, launch, platform, span

VCPUS = 2
REGISTERS = bytes(range(256)) * 16


@dataclass
class Story:
    """A guest that boots, says READY, and is moved or not."""

    source: SmallVm
    destination: SmallVm
    end: AttemptEnd

    def evidence(self) -> SessionEvidence:
        out, there = self.source.protection.snapshot(), self.destination.protection.snapshot()
        return SessionEvidence(
            end=self.end,
            source=out.commands,
            destination=there.commands,
            source_state=out.state,
            destination_state=there.state,
            es_vcpus=VCPUS if self.source.protection.flavour.is_es else 0,
            forbidden_by=self.source.protection.forbidden_by,
        )

    def findings(self) -> tuple[Finding, ...]:
        out, there = self.source.protection.snapshot(), self.destination.protection.snapshot()
        evidence = self.evidence()
        found = [
            *check_session(evidence),
            *check_packets(evidence, ADDRESSES),
            *check_handshake(out.handshake),
            *check_pins(out, role="src"),
            *check_pins(there, role="dst"),
        ]
        if evidence.es_vcpus and self.end is AttemptEnd.COMPLETED:
            found += check_ghcb(out.vcpus, there.vcpus)
            found += check_ghcb_is_shared(there.vcpus, there.page_map, ADDRESSES)
        return tuple(found)


def spoil(packets: Iterable[Packet]) -> list[Packet]:
    first, *rest = packets
    return [Packet(header=first.header, data=bytes([first.data[0] ^ 1]) + bytes(first.data[1:])), *rest]


def booted(flavour: Flavour, *faults: SoftFault, policy: tuple[str, ...] = ()) -> SmallVm:
    vm = launch(platform(flavour, *faults), policy=policy)
    if flavour.is_es:
        for vcpu in range(VCPUS):
            vm.register_ghcb(vcpu)
            vm.tell(GHCB + vcpu, 1, private=False, vcpu=vcpu)
    vm.convert(100, 8, private=False)
    vm.protection.ask_to_migrate()
    say_ready(vm)
    vm.protection.ask_to_migrate()
    return vm


def say_ready(vm: SmallVm) -> None:
    """By the GHCB where nothing else reaches the host."""
    if not vm.protection.flavour.is_es:
        vm.ready()
        return
    registers = {ghcb.RAX: 1, ghcb.RCX: MSR_MIGRATION_CONTROL, ghcb.RDX: 0}
    vm.exit({ghcb.EXIT_CODE: ghcb.Exit.MSR, ghcb.EXIT_INFO_1: 1, **registers})


def play(
    flavour: Flavour, *faults: SoftFault, policy: tuple[str, ...] = (), cancelled: bool = False, tampered: bool = False
) -> Story:
    source, there = booted(flavour, *faults, policy=policy), platform(flavour, *faults, name="destination")
    destination = expect(there)
    out, arriving = source.protection, destination.protection
    story = Story(source, destination, AttemptEnd.CANCELLED if cancelled else AttemptEnd.COMPLETED)
    try:
        arriving.receive_start(out.send_start(there.certificates()))
        private = span(0, TOTAL_PAGES)[out.is_private(span(0, TOTAL_PAGES))][:1500]
        packets = list(out.seal(private, source.memory.ram.reshape(-1, PAGE_SIZE)[private.astype(int)]))
        arriving.open(private, spoil(packets) if tampered else packets)
        if cancelled:
            out.send_cancel()
            return story
        arriving.take_shared_list(out.shared_list() or b"\0\0\0\2")
        for vcpu in range(VCPUS if flavour.is_es else 0):
            arriving.open_vmsa(vcpu, out.seal_vmsa(vcpu, REGISTERS))
        for vcpu, value in out.vcpu_records().items():
            arriving.take_vcpu_record(vcpu, value)
        out.send_finish()
        arriving.receive_finish()
    except CommandRefusedError:
        out.send_cancel()
        story.end = AttemptEnd.FAILED
    return story


def told(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    return {(finding.check, finding.kind) for finding in findings}


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)
@pytest.mark.parametrize("cancelled", [False, True], ids=["moved", "cancelled"])
def test_a_clean_move_is_no_finding(flavour: Flavour, cancelled: bool) -> None:
    story = play(flavour, cancelled=cancelled)
    assert story.findings() == ()
    assert check_ready(story.source.protection.snapshot().handshake) == ()


FAULTS = {
    SoftFault.SENT_RUNS_AGAIN: {("session/commands", "runs-after-sent")},
    SoftFault.CERTIFICATE_AS_FILE_NAME: {("session/commands", "refused")},
    SoftFault.WRONG_CERTIFICATE: {("session/commands", "refused")},
    SoftFault.BLOCKER_TWICE: {("handshake/blocker", "blocker-twice")},
    SoftFault.BLOCKER_LATE: {("handshake/blocker", "blocker-late")},
    SoftFault.GHCB_LOST: {("vcpu/ghcb", "lost"), ("vcpu/ghcb", "mapped-flag"), ("vcpu/ghcb", "first-sipi-flag")},
    SoftFault.SIPI_FLAG_LOST: {("vcpu/ghcb", "first-sipi-flag")},
}


@pytest.mark.parametrize(("fault", "expected"), FAULTS.items(), ids=FAULTS)
def test_each_fault_is_named(fault: SoftFault, expected: set[tuple[str, str]]) -> None:
    assert told(play(SOFT_CSV2, fault).findings()) == expected


CANCELLED = {
    SoftFault.FINISH_ON_FAILURE: {("session/commands", "finish-after-failure")},
    SoftFault.PINS_LEAKED: {("host/pins", "leaked")},
}


@pytest.mark.parametrize(("fault", "expected"), CANCELLED.items(), ids=CANCELLED)
def test_each_fault_of_a_cancelled_attempt_is_named(fault: SoftFault, expected: set[tuple[str, str]]) -> None:
    assert told(play(SOFT_CSV, fault, cancelled=True).findings()) == expected


def test_a_policy_that_forbids_sending_is_blocked() -> None:
    findings = play(SOFT_CSV, policy=("nosend",)).findings()
    assert told(findings) == {("session/commands", "refused")}
    assert verdict_of(findings) is Verdict.BLOCKED
    assert "POLICY_FAILURE" in findings[0].detail


def test_a_processor_that_ignores_the_policy_is_a_defect() -> None:
    findings = play(SOFT_CSV, SoftFault.IGNORES_NOSEND, policy=("nosend",)).findings()
    assert told(findings) == {("session/commands", "sent-against-policy")}
    assert verdict_of(findings) is Verdict.FAIL


def test_a_tampered_packet_is_named_with_its_page() -> None:
    (found,) = play(SOFT_CSV, tampered=True).findings()
    assert (found.check, found.kind, found.where) == ("session/packets", "refused", "gpa 0x0-0xfff")
    assert "BAD_MEASUREMENT" in found.detail


@pytest.mark.parametrize("event", ["reset", "offline"])
def test_ready_that_outlives_its_kernel_is_named(event: str) -> None:
    def life(*faults: SoftFault) -> set[tuple[str, str]]:
        vm = booted(SOFT_CSV, *faults)
        if event == "reset":
            vm.protection.reset()
        else:
            vm.ready(0)
        vm.protection.ask_to_migrate()
        handshake = vm.protection.snapshot().handshake
        return told((*check_handshake(handshake), *check_ready(handshake)))

    assert life() == {("migration/refusal", "not-ready")}
    assert life(SoftFault.READY_KEPT) == {("handshake/blocker", "ready-kept")}


def test_a_guest_that_moved_may_move_on() -> None:
    arrived = play(SOFT_CSV).destination.protection
    arrived.ask_to_migrate()
    assert check_handshake(arrived.snapshot().handshake, is_ready=True) == ()


def test_a_guest_that_was_sent_is_refused_to_run_and_that_is_right() -> None:
    story = play(SOFT_CSV)
    with pytest.raises(CommandRefusedError):
        story.source.protection.run()
    story.destination.protection.run()
    assert story.findings() == ()
    wrong = play(SOFT_CSV, SoftFault.SENT_RUNS_AGAIN)
    wrong.source.protection.run()
    places = [finding.where for finding in wrong.findings()]
    assert places == ["source", "source run"]
