"""Where a real KVM is underneath, the guest calls it; where none is, it calls nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness.guest.accelerator import usable_kvm
from harness.guest.confidential import ConfidentialProbe
from harness.hosts.capability import Capability
from harness.model.cvm_guest import ConversionStatus, MigrationVariable, Phase
from harness.model.deadline import Deadline
from harness.model.guest import KVM_ENOSYS, KvmCall
from harness.model.machine import Arch
from harness.model.memory import PAGE_SIZE
from harness.vm.features import probe_binary
from harness.vm.keeper import Keeper

pytestmark = pytest.mark.vm
VAPIC_POLL_IRQ, MAP_GPA_RANGE, NO_SUCH_CALL = 1, 12, 9999
FEATURE_MAP_GPA_RANGE, FEATURE_MIGRATION_CONTROL = 1 << 16, 1 << 17
BOTH = FEATURE_MAP_GPA_RANGE | FEATURE_MIGRATION_CONTROL


@pytest.mark.parametrize("first_lab", Arch, indirect=True)
def test_without_kvm_nothing_is_called(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=64) as (_, probe, guest):
            answer = await probe.hypercall(NO_SUCH_CALL, 1, 2, 3, deadline=first_lab.deadline)
            assert (answer.call, answer.features, answer.result) == (KvmCall.NONE, 0, 0)
            # Under TCG the instruction is an invalid opcode: a guest that had tried it would have crashed.
            assert (await probe.describe(deadline=first_lab.deadline)).boot_id == guest.boot_id

    first_lab.play(story())


def test_a_protected_guest_that_nobody_hosts_tells_nobody(lab: Any) -> None:
    async def story() -> None:
        options = ("-append", "cvm=sev cbit=58")
        async with lab.guest(*options, memory_mib=64, has_platform=False) as (_, probe, guest):
            cvm = ConfidentialProbe(probe)
            own = await cvm.describe(deadline=lab.deadline)
            assert (own.phase, own.features, own.ready, own.variable) == (Phase.KERNEL, 0, 0, MigrationVariable.UNSET)
            gpa = guest.managed[0].start
            reply = await cvm.convert(gpa, PAGE_SIZE, private=False, deadline=lab.deadline)
            assert (reply.status, reply.result) == (ConversionStatus.DONE, 0)
            assert any(gpa in range(*span) for span in map(bounds, await cvm.shared_ranges(deadline=lab.deadline)))
            assert [vcpu.hypercalls for vcpu in (await cvm.describe(deadline=lab.deadline)).vcpus] == [0]

    lab.play(story())


def test_kvm_itself_answers_a_hypercall(lab: Any) -> None:
    require_kvm(lab)

    async def story() -> None:
        async with lab.guest("-cpu", "host", memory_mib=64, accel="kvm") as (_, probe, _guest):
            unknown = await probe.hypercall(NO_SUCH_CALL, deadline=lab.deadline)
            assert unknown.call is not KvmCall.NONE
            assert unknown.result == -KVM_ENOSYS
            assert (await probe.hypercall(VAPIC_POLL_IRQ, deadline=lab.deadline)).result == 0
            asked = await probe.hypercall(MAP_GPA_RANGE, 0, 1, 0, deadline=lab.deadline)
            # KVM leaves this call to userspace, if userspace wants it; QEMU does for a guest that is really protected.
            assert asked.result == (0 if asked.features & FEATURE_MAP_GPA_RANGE else -KVM_ENOSYS)

    lab.play(story())


def test_a_protected_guest_goes_by_what_kvm_offers(lab: Any) -> None:
    require_kvm(lab)

    async def story() -> None:
        options = ("-cpu", "host", "-append", "cvm=sev cbit=58")
        async with lab.guest(*options, memory_mib=64, accel="kvm", has_platform=False) as (_, probe, guest):
            offered = (await probe.hypercall(NO_SUCH_CALL, deadline=lab.deadline)).features & BOTH
            cvm = ConfidentialProbe(probe)
            own = await cvm.describe(deadline=lab.deadline)
            assert own.features == offered
            assert own.ready == int(offered == BOTH)
            gpa = guest.managed[0].start
            reply = await cvm.convert(gpa, PAGE_SIZE, private=False, deadline=lab.deadline)
            assert (reply.status, reply.result) == (ConversionStatus.DONE, 0)
            (vcpu,) = (await cvm.describe(deadline=lab.deadline)).vcpus
            assert (vcpu.hypercalls > 0) == bool(offered & FEATURE_MAP_GPA_RANGE)

    lab.play(story())


def bounds(span: Any) -> tuple[int, int]:
    return span.start, span.end


def require_kvm(lab: Any) -> None:
    async def judge() -> Capability:
        with Keeper() as keeper:
            deadline = Deadline.after(60)
            features = await probe_binary(lab.qemu, deadline=deadline)
            return await usable_kvm(features, keeper=keeper, deadline=deadline)

    kvm = asyncio.run(judge())
    if not kvm.present:
        pytest.skip(f"no KVM to call: {kvm.found}")
