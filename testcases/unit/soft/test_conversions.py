"""KVM_HC_MAP_GPA_RANGE and resets, as the host answers them."""

from __future__ import annotations

import pytest

from harness.confidential.soft.channel.hypercalls import HypercallReply, Operation, ReplyFlag
from harness.confidential.soft.flavour import SOFT_CSV
from harness.confidential.soft.host.platform import SoftPlatform
from harness.confidential.soft.memory.conversions import KVM_EFAULT, KVM_EINVAL, RETRY_PAGES
from harness.confidential.soft.options import HostOptions
from harness.model.address_map import AddressMap, Window
from harness.model.memory import GpaRange
from harness.model.page_map import PageMap
from harness.model.page_set import PageSet
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault

from .small_vm import TOTAL_PAGES, Memory, SmallVm, gpa_of, launch, platform


def errors(vm: SmallVm) -> list[int]:
    return [conversion.result for conversion in vm.protection.snapshot().conversions]


def test_the_log_holds_registers_and_results() -> None:
    vm = launch(platform())
    vm.tell(10, 4, private=False, size=1)
    vm.tell(10, 0, private=False)
    vm.tell(12, 1, private=True)
    log = vm.protection.snapshot().conversions
    assert [(item.gpa, item.pages, item.attributes, item.result) for item in log] == [
        (10 << 12, 4, 1, 0),
        (10 << 12, 0, 0, -KVM_EINVAL),
        (12 << 12, 1, 16, 0),
    ]
    assert vm.protection.snapshot().entries == ((10, 12), (13, 14))


def test_other_hypercalls_are_not_there() -> None:
    vm = launch(platform())
    assert vm.ask(Operation.VMMCALL, rax=5).value == -1000
    assert vm.protection.snapshot().conversions == ()


def test_a_key_for_what_dram_looks_like_through_the_other_view() -> None:
    vm, other = launch(platform()), launch(platform(name="other"))
    keys = {vm.tell(10, 1, private=False).extra, vm.tell(10, 1, private=True).extra}
    assert len(keys) == 1
    assert keys != {0}
    assert other.tell(10, 1, private=False).extra not in keys
    assert launch(platform()).tell(10, 1, private=False).extra in keys, "a case can be repeated"
    assert vm.tell(10, 0, private=False).extra == 0
    assert launch(platform(SOFT_CSV, SoftFault.STALE_BACKING)).tell(10, 1, private=False) == HypercallReply()


def test_b51_the_nth_conversion_is_refused() -> None:
    vm = launch(platform())
    vm.protection.refuse_conversion(2)
    for _ in range(3):
        vm.tell(10, 1, private=False)
    assert errors(vm) == [0, -KVM_EFAULT, 0]


def test_b51_counting_begins_with_ready() -> None:
    vm = launch(platform(options=HostOptions(refuses_conversion=2)))
    vm.tell(10, 1, private=True)
    vm.tell(10, 1, private=True)
    vm.ready()
    vm.tell(20, 1, private=False)
    vm.tell(21, 1, private=False)
    vm.ready()
    vm.tell(22, 1, private=False)
    assert errors(vm) == [0, 0, 0, -KVM_EFAULT, 0]
    assert vm.protection.snapshot().entries == ((20, 21), (22, 23))


def test_b51_a_range_is_refused() -> None:
    vm = launch(platform(options=HostOptions(refused_range=GpaRange(0x10000, 0x12000))))
    for ram_page, count in ((14, 2), (14, 3), (17, 1), (18, 1)):
        vm.tell(ram_page, count, private=False)
    assert errors(vm) == [0, -KVM_EFAULT, -KVM_EFAULT, 0]


def test_b20_a_large_conversion_is_done_in_part() -> None:
    total = RETRY_PAGES * 2 + 300
    host = SoftPlatform(SOFT_CSV, seed=Seed(1), options=HostOptions(answers_retry=True))
    addresses = AddressMap(windows=(Window(0, 0, total),), unmapped=PageSet.empty())
    memory = Memory()
    protection = host.launch(memory.ram, addresses, policy=SOFT_CSV.policy(), vcpus=1)
    vm = SmallVm(memory, protection)
    at, replies = 0, []
    while at < total:
        replies.append(vm.ask(Operation.VMMCALL, rax=12, rbx=at << 12, rcx=total - at, rdx=16))
        at = replies[-1].value >> 12 if replies[-1].flags & ReplyFlag.RETRY else total
    assert [reply.value >> 12 for reply in replies] == [RETRY_PAGES, 2 * RETRY_PAGES, 0]
    assert [item.pages for item in protection.snapshot().conversions] == [RETRY_PAGES, RETRY_PAGES, 300]


def test_a_host_without_retry_does_all_at_once() -> None:
    vm = launch(platform())
    assert vm.ask(Operation.VMMCALL, rax=12, rbx=0, rcx=RETRY_PAGES + 1, rdx=16).flags == 0


@pytest.mark.parametrize("order", ["hello-first", "reset-first", "hello-only", "reset-only"])
def test_a_reset_is_one_reset_whoever_tells_of_it(order: str) -> None:
    vm = launch(platform())
    for boot in range(1, 4):
        vm.convert(10, 4, private=False)
        vm.ready()
        if order in {"reset-first", "reset-only"}:
            vm.protection.reset()
        if order != "reset-only":
            vm.boot_id += boot
        vm.hello()
        vm.tell(20, 1, private=False)
        if order == "hello-first":
            vm.protection.reset()
        found = vm.protection.snapshot()
        assert found.entries == ((20, 21),)
        assert found.initial == PageMap.all_private(TOTAL_PAGES)
        assert [item.gpa for item in found.conversions] == [gpa_of(20)]
        assert [event.kind for event in found.handshake].count("reset") == boot
        vm.tell(20, 1, private=True)


def test_a_new_kernel_is_no_reset() -> None:
    vm = launch(platform())
    vm.convert(10, 4, private=False)
    vm.hello()
    assert vm.protection.snapshot().entries == ((10, 14),)


def test_b3_the_list_outlives_a_reset() -> None:
    vm = launch(platform(SOFT_CSV, SoftFault.LIST_KEPT_OVER_RESET))
    vm.convert(10, 4, private=False)
    vm.protection.reset()
    found = vm.protection.snapshot()
    assert found.entries == ((10, 14),)
    assert found.initial.shared == PageSet.of((10, 14))
    assert found.conversions == ()


def test_a_vcpu_that_is_not_there_is_told_so() -> None:
    vm = launch(platform(), vcpus=2)
    assert vm.ask(Operation.VMMCALL, vcpu=2, rax=12, rbx=0, rcx=1).flags == ReplyFlag.ERROR
    assert vm.protection.snapshot().conversions == ()
