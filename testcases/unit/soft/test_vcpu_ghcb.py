"""GHCB of a guest with encrypted state: both protocols, and what of it travels."""

from __future__ import annotations

import hashlib

import pytest

from harness.confidential.soft.channel import ghcb, mmio_device
from harness.confidential.soft.channel.ghcb import Exit, GhcbError
from harness.confidential.soft.channel.hypercalls import (
    HC_MAP_GPA_RANGE,
    MSR_GHCB,
    MSR_MIGRATION_CONTROL,
    MSR_SEV_STATUS,
    HypercallReply,
    Operation,
    ReplyFlag,
)
from harness.confidential.soft.flavour import SOFT_CSV, SOFT_CSV2
from harness.model.protection import FIRST_SIPI_RECEIVED, GHCB_PAGE_MAPPED
from harness.model.soft_fault import SoftFault

from .small_vm import GHCB, SmallVm, expect, gpa_of, launch, platform

PAGE = gpa_of(GHCB)
DEVICE = mmio_device.START


def booted(vcpus: int = 2) -> SmallVm:
    vm = launch(platform(SOFT_CSV2), vcpus=vcpus)
    for vcpu in range(vcpus):
        vm.register_ghcb(vcpu)
    return vm


def refused(reply: HypercallReply) -> GhcbError:
    assert reply.flags == ReplyFlag.ERROR
    return GhcbError(reply.value)


def read(gpa: int = DEVICE, size: int = 8, scratch: int = PAGE + ghcb.SHARED_BUFFER) -> dict[int, int]:
    return {
        ghcb.EXIT_CODE: Exit.MMIO_READ,
        ghcb.EXIT_INFO_1: gpa,
        ghcb.EXIT_INFO_2: size,
        ghcb.SCRATCH: scratch,
    }


def test_the_msr_protocol() -> None:
    vm = launch(platform(SOFT_CSV2))
    info = vm.write_msr(ghcb.SEV_INFO_REQUEST).value
    assert (info & 0xFFF, info >> 24 & 0xFF, info >> 32 & 0xFFFF, info >> 48) == (1, 58, 1, 2)
    assert vm.ask(Operation.RDMSR, rcx=MSR_GHCB).value == info
    assert vm.write_msr(PAGE | ghcb.REGISTER_REQUEST).value == PAGE | ghcb.REGISTERED
    nowhere = 1 << 40
    assert vm.write_msr(nowhere | ghcb.REGISTER_REQUEST).value == ghcb.REJECTED
    assert vm.write_msr(ghcb.AP_RESET_HOLD_REQUEST).value == ghcb.AP_RESET_HOLD
    assert vm.write_msr(ghcb.TERMINATE | 3 << 12).value == ghcb.TERMINATE | 3 << 12


def test_sev_status_says_what_is_encrypted() -> None:
    for flavour, status in ((SOFT_CSV, 1), (SOFT_CSV2, 3)):
        assert launch(platform(flavour)).ask(Operation.RDMSR, rcx=MSR_SEV_STATUS).value == status


def test_a_plain_guest_has_no_ghcb() -> None:
    vm = launch(platform(SOFT_CSV))
    assert vm.ask(Operation.WRMSR, rcx=MSR_GHCB, rax=PAGE).value == -1
    assert vm.protection.vcpu_records() == {}


def test_an_encrypted_guest_cannot_ask_without_its_ghcb() -> None:
    vm = booted()
    vmmcall = vm.ask(Operation.VMMCALL, rax=HC_MAP_GPA_RANGE, rbx=0, rcx=1, rdx=0)
    assert refused(vmmcall) is refused(vm.ready()) is GhcbError.INVALID_EVENT
    assert vm.protection.snapshot().conversions == ()


def test_calls_through_the_page() -> None:
    vm = booted()
    assert vm.tell(10, 2, private=False).value == 0
    assert vm.protection.snapshot().entries == ((10, 12),)
    ready = {ghcb.EXIT_CODE: Exit.MSR, ghcb.EXIT_INFO_1: 1, ghcb.RCX: MSR_MIGRATION_CONTROL, ghcb.RAX: 1, ghcb.RDX: 0}
    assert vm.exit(ready, vcpu=1) == HypercallReply()
    assert vm.protection.blocked_reasons == ()
    get = {ghcb.EXIT_CODE: Exit.MSR, ghcb.EXIT_INFO_1: 0, ghcb.RCX: MSR_MIGRATION_CONTROL}
    assert vm.exit(get).value == 1
    hold = {ghcb.EXIT_CODE: Exit.AP_RESET_HOLD}
    assert vm.exit(hold, vcpu=1) == HypercallReply()


def test_b15_registers_that_the_guest_did_not_mark_read_as_zero() -> None:
    vm = booted()
    reply = vm.exit({ghcb.EXIT_CODE: Exit.VMMCALL, ghcb.RAX: HC_MAP_GPA_RANGE})
    assert reply.value == -22
    (call,) = vm.protection.snapshot().conversions
    assert (call.gpa, call.pages, call.attributes) == (0, 0, 0)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_device_has_a_number_at_each_address(size: int) -> None:
    vm = booted()
    found = vm.exit(read(DEVICE + 8, size))
    assert found == HypercallReply(value=mmio_device.mix64(DEVICE + 8) & (1 << 8 * size) - 1)
    assert vm.exit(read(DEVICE + 8, size) | {ghcb.EXIT_CODE: Exit.MMIO_WRITE}) == HypercallReply()


def test_mix64_is_the_probes() -> None:
    assert mmio_device.mix64(1) == 0x5692161D100B05E5


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        (read(size=3), GhcbError.INVALID_INPUT),
        (read(DEVICE - 8), GhcbError.INVALID_INPUT),
        (read(mmio_device.END - 4), GhcbError.INVALID_INPUT),
        (read(scratch=PAGE + 0x7F8), GhcbError.INVALID_SCRATCH),
        (read(scratch=PAGE + 0xFF0), GhcbError.INVALID_SCRATCH),
        (read(scratch=0), GhcbError.INVALID_SCRATCH),
        ({ghcb.EXIT_CODE: 0x72}, GhcbError.INVALID_EVENT),
        ({ghcb.RAX: 12}, GhcbError.MISSING_INPUT),
        ({ghcb.EXIT_CODE: Exit.VMMCALL}, GhcbError.MISSING_INPUT),
        ({ghcb.EXIT_CODE: Exit.MSR, ghcb.EXIT_INFO_1: 1, ghcb.RCX: 5}, GhcbError.MISSING_INPUT),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[int, int], error: GhcbError) -> None:
    assert refused(booted().exit(fields)) is error


def test_a_page_that_was_not_registered() -> None:
    vm = booted()
    vm.ask(Operation.WRMSR, rcx=MSR_GHCB, rax=gpa_of(GHCB + 1))
    assert refused(vm.ask(Operation.VMGEXIT)) is GhcbError.NOT_REGISTERED
    vm.ask(Operation.WRMSR, rcx=MSR_GHCB, rax=0)
    assert refused(vm.ask(Operation.VMGEXIT)) is GhcbError.NOT_REGISTERED


def test_a_private_page_is_ciphertext_to_the_host() -> None:
    vm = booted()
    vm.memory.map(GHCB, GHCB + 1, private=True)
    assert refused(vm.exit(read())) is GhcbError.INVALID_USAGE
    vm.memory.map(GHCB, GHCB + 1, private=False)
    assert vm.exit(read()).flags == 0


@pytest.mark.parametrize("version", [0, 3])
def test_a_page_of_another_version(version: int) -> None:
    vm = booted()
    vm.write_ghcb(read(), version=version)
    assert refused(vm.ask(Operation.VMGEXIT)) is GhcbError.INVALID_USAGE


def test_what_travels() -> None:
    vm = booted(vcpus=4)
    vm.exit(read())
    vm.tell(10, 1, private=False, vcpu=1)
    vm.ask(Operation.WRMSR, vcpu=3, rcx=MSR_GHCB, rax=0)
    assert vm.protection.vcpu_records() == {
        0: PAGE | GHCB_PAGE_MAPPED,
        1: gpa_of(GHCB + 1) | GHCB_PAGE_MAPPED | FIRST_SIPI_RECEIVED,
        2: gpa_of(GHCB + 2) | FIRST_SIPI_RECEIVED,
    }


def arrived(*faults: SoftFault) -> tuple[SmallVm, SmallVm]:
    source, destination = booted(), expect(platform(SOFT_CSV2, *faults, name="destination"))
    source.exit(read())
    source.tell(10, 1, private=False, vcpu=1)
    for vcpu, value in source.protection.vcpu_records().items():
        destination.protection.take_vcpu_record(vcpu, value)
    return source, destination


def test_the_ghcb_arrives() -> None:
    source, destination = arrived()
    assert destination.protection.snapshot().vcpus == source.protection.snapshot().vcpus
    assert destination.protection.vcpu_records() == source.protection.vcpu_records()


def test_a_guest_goes_on_through_its_ghcb() -> None:
    _, destination = arrived()
    destination.memory.ram[:] = 0
    destination.write_ghcb(read())
    assert destination.ask(Operation.VMGEXIT).value == mmio_device.mix64(DEVICE)


def test_a_registration_on_its_way_arrives() -> None:
    source, destination = launch(platform(SOFT_CSV2)), expect(platform(SOFT_CSV2, name="destination"))
    value = source.write_msr(PAGE | ghcb.REGISTER_REQUEST).value
    assert source.protection.vcpu_records() == {0: value}
    destination.protection.take_vcpu_record(0, value)
    destination.ask(Operation.WRMSR, rcx=MSR_GHCB, rax=PAGE)
    destination.write_ghcb(read())
    assert destination.ask(Operation.VMGEXIT).flags == 0


def test_b28_the_value_or_a_flag_is_lost() -> None:
    source, destination = arrived(SoftFault.GHCB_LOST)
    assert destination.protection.vcpu_records() == {}
    assert refused(destination.ask(Operation.VMGEXIT)) is GhcbError.NOT_REGISTERED
    source, destination = arrived(SoftFault.SIPI_FLAG_LOST)
    sent, held = source.protection.snapshot().vcpus, destination.protection.snapshot().vcpus
    assert [vcpu.ghcb for vcpu in held] == [vcpu.ghcb for vcpu in sent]
    assert [vcpu.is_ghcb_mapped for vcpu in held] == [True, True]
    assert [vcpu.has_first_sipi for vcpu in sent] == [False, True]
    assert [vcpu.has_first_sipi for vcpu in held] == [False, False]


def test_a_value_of_zero_or_of_no_vcpu_is_not_taken() -> None:
    _, destination = arrived()
    before = destination.protection.vcpu_records()
    destination.protection.take_vcpu_record(0, 0)
    destination.protection.take_vcpu_record(7, 0x5000)
    assert destination.protection.vcpu_records() == before


def test_a_page_that_cannot_be_mapped_yet_is_mapped_at_the_next_exit() -> None:
    _, destination = arrived()
    nowhere = 1 << 40
    destination.protection.take_vcpu_record(0, nowhere | GHCB_PAGE_MAPPED)
    assert not destination.protection.snapshot().vcpus[0].is_ghcb_mapped


def test_a_reset_forgets() -> None:
    vm = booted()
    vm.protection.reset()
    assert vm.protection.vcpu_records() == {}


def test_registers_are_evidence() -> None:
    vm = booted()
    vm.protection.note_vcpu(1, aux={"cr0": 0x80000011}, vmsa=b"registers")
    found = vm.protection.snapshot().vcpus[1]
    assert found.aux == {"cr0": 0x80000011}
    assert found.vmsa_sha256 == hashlib.sha256(b"registers").hexdigest()
    assert vm.protection.restores_aux
    assert not launch(platform(SOFT_CSV2, SoftFault.AUX_NOT_RESTORED)).protection.restores_aux
