"""A reset as KVM and QEMU of the series play it: PRE, the machine, POST, and what each bug leaves behind."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from harness.checks.reset_calls import check_reset_calls
from harness.checks.reset_vcpu import check_reset_registers, check_reset_vcpus
from harness.confidential.soft.flavour import SOFT_CSV, SOFT_CSV2, SOFT_SEV, Flavour
from harness.confidential.soft.options import HostOptions
from harness.model.memory import LINES_PER_PAGE, PAGE_SIZE
from harness.model.reboot import expected_reboot
from harness.model.reset import POST_SYSTEM_RESET, POWER_ON, PRE_SYSTEM_RESET, MachineEvent, ResetEvidence
from harness.model.soft_fault import SoftFault
from harness.vm.cpu_registers import parse_registers

from .small_vm import BELOW_PAGES, GHCB, TOTAL_PAGES, SmallVm, expect, launch, platform

CACHES = HostOptions(caches=True)
RENEWS = HostOptions(renews=True)
RINGS = range(100, 108)
"""RAM pages that the guest shares."""


def booted(flavour: Flavour, *faults: SoftFault, options: HostOptions | None = None) -> SmallVm:
    vm = launch(platform(flavour, *faults, options=options))
    if flavour.is_es:
        for vcpu in (0, 1):
            vm.register_ghcb(vcpu)
    return vm


def reset(vm: SmallVm) -> None:
    vm.protection.reset_begins()
    vm.protection.reset_ends()


@pytest.mark.parametrize(
    ("flavour", "calls"),
    [(SOFT_SEV, 0), (SOFT_CSV, 2), (SOFT_CSV2, 2)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_kernel_is_told_before_and_behind_where_the_series_does_so(flavour: Flavour, calls: int) -> None:
    vm, since_s = booted(flavour), time.time()
    vm.protection.reset_begins()
    event = MachineEvent(name="RESET", reason="guest-reset", by_guest=True, at_s=time.time())
    vm.protection.reset_ends()
    trace = vm.protection.reset_trace(since_s, time.time())
    assert [call.request for call in trace.calls] == [PRE_SYSTEM_RESET, POST_SYSTEM_RESET][:calls]
    expected = expected_reboot(flavour.name, has_arrived=False, qemu=(10, 0))
    assert check_reset_calls(ResetEvidence(events=(event,), trace=trace), expected=expected) == ()
    assert vm.protection.reset_trace(time.time(), time.time()).calls == ()


def test_one_reset_is_one_however_often_the_machine_is_reset() -> None:
    """Firmware resets a warm machine again; the guest's HELLO of the next boot adds none."""
    vm = booted(SOFT_CSV)
    for boot in (8, 9):
        for _ in range(3):
            reset(vm)
        vm.boot_id = boot
        vm.hello()
    kinds = [event.kind for event in vm.protection.snapshot().handshake]
    assert kinds.count("reset") == 6
    vm.boot_id = 10
    vm.hello()
    assert [event.kind for event in vm.protection.snapshot().handshake].count("reset") == 7


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (None, ""),
        (SoftFault.STATE_STAYS_PROTECTED, "registers-refused"),
        (SoftFault.STATE_UNPROTECTED, "unprotected"),
        (SoftFault.GHCB_KEPT, "ghcb-kept"),
        (SoftFault.SIPI_FLAG_KEPT, "sipi-flag-kept"),
    ],
)
def test_vcpus_behind_a_reset(fault: SoftFault | None, kind: str) -> None:
    vm = booted(SOFT_CSV2, *[fault] if fault else [])
    assert vm.protection.hides_registers
    reset(vm)
    found = check_reset_vcpus(vm.protection.vcpus_at_reset())
    assert {finding.kind for finding in found} == ({kind} if kind else set())
    assert vm.protection.hides_registers == (fault is not SoftFault.STATE_UNPROTECTED)
    if fault is SoftFault.SIPI_FLAG_KEPT:
        assert found[0].where == "vCPU 1"


def test_a_guest_without_encrypted_state_has_nothing_to_protect() -> None:
    vm = booted(SOFT_CSV)
    reset(vm)
    assert vm.protection.vcpus_at_reset() == ()
    assert not vm.protection.hides_registers


def write(vm: SmallVm, pages: range, word: int) -> None:
    for page in pages:
        vm.memory.fill(page, word + (page << 16))


def works(vm: SmallVm, word: int) -> None:
    """Everything is written through the private view, then the rings are shared and written through that."""
    write(vm, range(64, BELOW_PAGES), word)
    vm.convert(RINGS.start, len(RINGS), private=False)
    write(vm, RINGS, word + 1)


def boots_again(vm: SmallVm) -> None:
    vm.boot_id += 1
    vm.memory.map(0, TOTAL_PAGES, private=True)
    vm.hello()


@pytest.mark.parametrize("fault", [None, SoftFault.FLUSH_SKIPPED, SoftFault.FLUSH_ONE_CPU])
def test_old_lines_fall_over_the_next_boot_where_the_flush_is_bad(fault: SoftFault | None) -> None:
    vm = booted(SOFT_CSV, *[fault] if fault else [], options=CACHES)
    works(vm, 1 << 40)
    vm.protection.time_passes()
    reset(vm)
    boots_again(vm)
    write(vm, range(64, BELOW_PAGES), 2 << 40)
    wanted = vm.memory.ram.copy()
    for _ in range(8):
        vm.protection.time_passes()
    lines = np.flatnonzero((vm.memory.ram != wanted).reshape(-1, 64).any(axis=1))
    assert bool(len(lines)) == bool(vm.protection.hurt_lines) == bool(fault)
    assert vm.protection.lines_at_risk
    if not fault:
        return
    rings = set(range(RINGS.start * LINES_PER_PAGE, RINGS.stop * LINES_PER_PAGE))
    assert fault is SoftFault.FLUSH_SKIPPED or set(lines.tolist()) <= rings
    found = vm.memory.ram.reshape(-1, 64)[lines]
    told = vm.protection.line_origins(lines, found, private=True, known=lambda _, line: _word_of(line))
    assert {str(origin.written) for origin in told if int(origin.ram_addr // 64) in rings} == {"C=0"}


def _word_of(line: bytes) -> str:
    words = np.frombuffer(line, dtype=np.uint64)
    return "a pattern" if (np.diff(words) == 1).all() else ""


def test_without_caches_nothing_is_at_risk() -> None:
    vm = booted(SOFT_CSV, SoftFault.FLUSH_SKIPPED)
    works(vm, 1 << 40)
    vm.protection.time_passes()
    reset(vm)
    assert not vm.protection.lines_at_risk
    assert vm.protection.line_origins(np.array([1]), vm.memory.ram[:64].reshape(1, 64), private=True, known=str) == ()


@pytest.mark.parametrize("fault", [SoftFault.FLUSH_WRONG_VIEW, SoftFault.FLUSH_SKIPPED])
def test_a_kernel_that_calls_all_memory_private_converts_nothing_that_it_uses_as_shared(fault: SoftFault) -> None:
    """GHCBs and the like: its tables say shared before and after."""
    vm = booted(SOFT_CSV2, fault, options=CACHES)
    vm.tell(GHCB, 2, private=False)
    vm.memory.fill(GHCB + 1, 1)
    wanted = vm.memory.page(GHCB + 1)
    vm.tell(64, BELOW_PAGES - 64, private=True)
    vm.tell(GHCB, 2, private=True)
    vm.tell(GHCB, 2, private=False)
    for _ in range(8):
        vm.protection.time_passes()
    assert vm.memory.page(GHCB + 1) == wanted


def test_a_vm_that_came_in_has_the_views_that_its_list_says() -> None:
    source = booted(SOFT_CSV)
    source.convert(RINGS.start, len(RINGS), private=False)
    there = platform(SOFT_CSV, name="destination", options=CACHES)
    target = expect(there)
    host = target.protection
    host.receive_start(source.protection.send_start(there.certificates()))
    target.memory.ram[:] = source.memory.ram
    host.take_shared_list(source.protection.shared_list() or b"")
    whereabouts = source.protection.whereabouts
    assert whereabouts
    host.know(whereabouts)
    source.protection.send_finish()
    host.receive_finish()
    write(target, RINGS, 1 << 40)
    host.time_passes()
    reset(target)
    assert host.lines_at_risk
    assert host.lines_at_risk <= len(RINGS) * PAGE_SIZE // 64


REAL_MODE = """
CPU#0
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0
ES =0000 00000000 0000ffff 00009300
CS =f000 ffff0000 0000ffff 00009b00
SS =0000 00000000 0000ffff 00009300
DS =0000 00000000 0000ffff 00009300
FS =0000 00000000 0000ffff 00009300
GS =0000 00000000 0000ffff 00009300
CR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000
DR6=00000000ffff0ff0 DR7=0000000000000400
EFER=0000000000000000
"""
LONG_MODE = """
CPU#1
RAX=0000000000000001 RBX=0000000000000002 RCX=0000000000000003 RDX=0000000000000004
RSI=0000000000000000 RDI=0000000000000000 RBP=0000000000000000 RSP=0000000000289ff0
R8 =0000000000000008 R9 =0000000000000009 R10=000000000000000a R11=0000000000000000
R12=0000000000000000 R13=0000000000000000 R14=0000000000000000 R15=000000000000000f
RIP=00000000002095f6 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
ES =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CS =0008 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
SS =0010 0000000000000000 ffffffff 00cf9300 DPL=0 DS   [-WA]
CR0=80010033 CR2=0000000000000000 CR3=0000000000300000 CR4=00040620
EFER=0000000000000500
"""


def test_registers_as_the_monitor_prints_them() -> None:
    fresh, old = parse_registers(REAL_MODE + LONG_MODE.replace("\n", "\r\n"))
    assert {name: fresh[name] for name in POWER_ON} == dict(POWER_ON)
    assert (old["rip"], old["rflags"], old["r15"], old["r8"], old["cs"], old["cr3"]) == (
        0x2095F6,
        0x246,
        0xF,
        8,
        8,
        0x300000,
    )
    assert old["efer"] == 0x500
    assert check_reset_registers([fresh]) == ()
    (finding,) = check_reset_registers([fresh, old])
    assert (finding.kind, finding.where) == ("old-vmsa", "vCPU 1")
    assert "rip is 0x2095f6" in finding.detail
    (finding,) = check_reset_registers([{**fresh, "cr0": old["cr0"], "efer": old["efer"]}])
    assert finding.kind == "old-control-registers"


@pytest.mark.parametrize("flavour", [SOFT_SEV, SOFT_CSV, SOFT_CSV2], ids=lambda flavour: flavour.name)
def test_a_call_of_the_old_boot_that_is_read_behind_the_reset_touches_nothing(flavour: Flavour) -> None:
    vm = booted(flavour)
    vm.tell(RINGS.start, len(RINGS), private=False)
    reset(vm)
    clean, at_reset = vm.protection.snapshot(), vm.protection.vcpus_at_reset()
    vm.tell(RINGS.start, len(RINGS), private=False, vcpu=1)
    assert vm.protection.snapshot() == clean
    assert vm.protection.vcpus_at_reset() == at_reset
    assert check_reset_vcpus(at_reset) == ()


@pytest.mark.parametrize("flavour", [SOFT_SEV, SOFT_CSV, SOFT_CSV2], ids=lambda flavour: flavour.name)
def test_a_plain_reset_keeps_the_context(flavour: Flavour) -> None:
    vm = booted(flavour)
    before = vm.protection.identity
    reset(vm)
    assert before.handle
    assert before.measurement
    assert vm.protection.identity == before


@pytest.mark.parametrize("flavour", [SOFT_SEV, SOFT_CSV, SOFT_CSV2], ids=lambda flavour: flavour.name)
def test_a_host_that_renews_launches_the_guest_again(flavour: Flavour) -> None:
    vm = booted(flavour, options=RENEWS)
    seen, commands = {vm.protection.identity}, len(vm.protection.snapshot().commands)
    since_s = time.time()
    for _ in range(2):
        reset(vm)
        seen.add(vm.protection.identity)
        boots_again(vm)
    assert len({each.handle for each in seen}) == len({each.measurement for each in seen}) == 3
    assert vm.protection.may_run
    assert vm.protection.blocked_reasons
    names = [command.name for command in vm.protection.snapshot().commands[commands:]]
    assert names[:4] == ["deactivate", "decommission", "launch-start", "activate"]
    assert names[-2:] == ["launch-measure", "launch-finish"]
    assert vm.protection.reset_trace(since_s, time.time()).calls == ()


def test_under_a_new_key_what_was_private_is_garbage_and_what_was_shared_is_not() -> None:
    vm = booted(SOFT_CSV, options=RENEWS)
    vm.tell(RINGS.start, len(RINGS), private=False)
    vm.memory.map(RINGS.start, RINGS.stop, private=False)
    write(vm, range(64, BELOW_PAGES), 1 << 40)
    write(vm, RINGS, 1 << 40)
    before = vm.memory.ram.copy().reshape(-1, PAGE_SIZE)
    reset(vm)
    changed = np.flatnonzero((vm.memory.ram.reshape(-1, PAGE_SIZE) != before).any(axis=1))
    kept = {*RINGS, *range(0xC0, 0x100)}
    assert set(changed.tolist()) == set(range(TOTAL_PAGES)) - kept


@pytest.mark.parametrize("fault", [None, SoftFault.FLUSH_SKIPPED])
def test_lines_of_the_old_context_fall_where_they_were_not_flushed(fault: SoftFault | None) -> None:
    vm = booted(SOFT_CSV, *[fault] if fault else [], options=replace(RENEWS, caches=True))
    works(vm, 1 << 40)
    vm.protection.time_passes()
    reset(vm)
    vm.memory.build()
    boots_again(vm)
    write(vm, range(64, BELOW_PAGES), 2 << 40)
    wanted = vm.memory.ram.copy()
    for _ in range(8):
        vm.protection.time_passes()
    assert bool((vm.memory.ram != wanted).any()) == bool(vm.protection.hurt_lines) == bool(fault)
    assert vm.protection.lines_at_risk
