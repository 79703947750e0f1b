"""MSR_KVM_MIGRATION_CONTROL, the blocker, and what the host says of itself."""

from __future__ import annotations

import pytest

from harness.confidential.soft.channel.hypercalls import (
    FEATURE_HC_MAP_GPA_RANGE,
    FEATURE_MIGRATION_CONTROL,
    MSR_MIGRATION_CONTROL,
    Operation,
    ReplyFlag,
)
from harness.confidential.soft.flavour import SOFT_CSV
from harness.confidential.soft.host.handshake import REASON
from harness.confidential.soft.options import HostOptions
from harness.model.protection import HandshakeKind as Kind
from harness.model.soft_fault import SoftFault

from .small_vm import SmallVm, launch, platform

BLOCKED = (REASON,)


def booted(*faults: SoftFault) -> SmallVm:
    return launch(platform(SOFT_CSV, *faults))


def told(vm: SmallVm) -> list[tuple[Kind, int, tuple[str, ...]]]:
    return [(event.kind, event.msr, event.blocked_reasons) for event in vm.protection.snapshot().handshake]


def test_blocked_from_launch_until_ready() -> None:
    vm = booted()
    vm.ready()
    assert vm.protection.ask_to_migrate() == ()
    assert told(vm) == [
        (Kind.LAUNCHED, 0, BLOCKED),
        (Kind.FIRST_RUN, 0, BLOCKED),
        (Kind.READY_WRITTEN, 1, ()),
        (Kind.ASKED, 1, ()),
    ]


def test_ready_can_be_taken_back() -> None:
    vm = booted()
    vm.ready()
    vm.ready(0)
    assert vm.protection.blocked_reasons == BLOCKED
    vm.ready()
    assert vm.protection.blocked_reasons == ()
    assert [event[0] for event in told(vm)[2:]] == [Kind.READY_WRITTEN, Kind.READY_REVOKED, Kind.READY_WRITTEN]


def test_a_reset_takes_ready_back() -> None:
    vm = booted()
    vm.ready()
    vm.protection.reset()
    assert told(vm)[-1] == (Kind.RESET, 0, BLOCKED)


def test_b18_ready_is_kept() -> None:
    vm = booted(SoftFault.READY_KEPT)
    vm.ready()
    vm.ready(0)
    assert told(vm)[-1] == (Kind.READY_REVOKED, 1, ())
    vm.protection.reset()
    assert told(vm)[-1] == (Kind.RESET, 1, ())


def test_b44_the_blocker_is_there_twice_or_late() -> None:
    twice = booted(SoftFault.BLOCKER_TWICE)
    assert twice.protection.blocked_reasons == BLOCKED * 2
    twice.ready()
    assert twice.protection.blocked_reasons == ()
    late = booted(SoftFault.BLOCKER_LATE)
    assert told(late) == [(Kind.LAUNCHED, 0, ()), (Kind.FIRST_RUN, 0, BLOCKED)]


def test_a_first_run_is_one_event() -> None:
    vm = launch(platform(), hello=False)
    vm.protection.run()
    vm.protection.run()
    vm.hello()
    assert [event[0] for event in told(vm)] == [Kind.LAUNCHED, Kind.FIRST_RUN]


def test_what_the_host_offers() -> None:
    both = FEATURE_HC_MAP_GPA_RANGE | FEATURE_MIGRATION_CONTROL
    assert launch(platform(), hello=False).hello().value == both
    bare = launch(platform(options=HostOptions(offers_migration=False)), hello=False)
    assert bare.hello().value == 0
    assert bare.ready().value == -1
    assert bare.tell(5, 1, private=False).value == -1000
    assert bare.ask(Operation.RDMSR, rcx=MSR_MIGRATION_CONTROL).flags == ReplyFlag.ERROR
    assert bare.protection.blocked_reasons == BLOCKED


@pytest.mark.parametrize("value", [2, 3, 1 << 40])
def test_reserved_bits_are_refused(value: int) -> None:
    vm = booted()
    assert vm.ready(value).value == -1
    assert vm.protection.blocked_reasons == BLOCKED
    assert len(told(vm)) == 2


def test_the_msr_can_be_read() -> None:
    vm = booted()
    for value in (0, 1):
        vm.ready(value)
        assert vm.ask(Operation.RDMSR, rcx=MSR_MIGRATION_CONTROL).value == value
