"""A guest with encrypted vCPU state: everything goes through #VC and the GHCB."""

from __future__ import annotations

from typing import Any

import pytest

from harness.confidential.soft.channel.hypercalls import MSR_GHCB, MSR_MIGRATION_CONTROL, Operation
from harness.model.cvm_guest import ConversionStatus
from harness.model.memory import PAGE_SIZE
from harness.model.protection import VcpuErrands
from testcases.guest.protected import protected

pytestmark = pytest.mark.vm
NEWER_QEMU_IS_NIGHTLY = True
SEED = 0xFEED5EED12345678
ES = "cvm=es cbit=58"


@pytest.mark.parametrize("vcpus", [1, 4])
def test_every_vcpu_registers_a_ghcb_that_is_shared(lab: Any, vcpus: int) -> None:
    async def story() -> None:
        async with protected(lab, ES, vcpus=vcpus) as guest:
            own = await guest.cvm.describe(deadline=lab.deadline)
            ghcbs = [vcpu.ghcb_gpa for vcpu in own.vcpus]
            assert len(set(ghcbs)) == len(ghcbs) == vcpus
            assert [guest.host.msrs[vcpu, MSR_GHCB] for vcpu in range(vcpus)] == ghcbs
            assert all(own.decrypted.start <= gpa < own.decrypted.end for gpa in ghcbs)
            shared = await guest.cvm.shared_ranges(deadline=lab.deadline)
            assert shared == (own.decrypted,) == guest.host.shared()
            asked = {request.operation for request in guest.host.requests}
            assert asked == {Operation.HELLO, Operation.WRMSR, Operation.VMGEXIT}
            assert guest.host.msrs[0, MSR_MIGRATION_CONTROL] == 1
            assert (own.counters.vc_nested, own.counters.vc_interrupts_on, own.counters.ghcb_errors) == (0, 0, 0)

    lab.play(story())


def test_conversions_go_through_the_ghcb(lab: Any) -> None:
    async def story() -> None:
        async with protected(lab, ES, vcpus=2) as guest:
            described = await guest.description(lab)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            gpa = described.page_gpa(3000)
            reply = await guest.cvm.convert(gpa + 100, 3 * PAGE_SIZE, private=False, deadline=lab.deadline)
            assert reply.status is ConversionStatus.DONE
            last = guest.host.conversions[-1]
            assert (last.gpa, last.pages, last.is_private) == (gpa, 4, False)
            assert await guest.cvm.shared_ranges(deadline=lab.deadline) == guest.host.shared()
            assert (await guest.probe.verify(deadline=lab.deadline)).is_clean

    lab.play(story())


@pytest.mark.parametrize("vcpus", [1, 4])
def test_errands_read_mmio_and_ask_the_neighbour(lab: Any, vcpus: int) -> None:
    async def story() -> None:
        async with protected(lab, ES, vcpus=vcpus) as guest:
            errands = await guest.cvm.errands(reads=9, deadline=lab.deadline)
            assert errands == tuple(VcpuErrands(vcpu=vcpu, mmio_ok=9, mmio_bad=0, ipi_ok=True) for vcpu in range(vcpus))
            counted = (await guest.cvm.describe(deadline=lab.deadline)).counters
            assert (counted.mmio_ok, counted.mmio_bad) == (9 * vcpus, 0)
            assert (counted.ipis_sent, counted.ipis_got) == (vcpus, vcpus)
            assert (counted.vc_nested, counted.vc_interrupts_on) == (0, 0)

    lab.play(story())


def test_without_encrypted_state_there_is_no_mmio_errand(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab, vcpus=2) as guest:
            errands = await guest.cvm.errands(deadline=first_lab.deadline)
            assert [(item.mmio_ok, item.mmio_bad, item.ipi_ok) for item in errands] == [(0, 0, True)] * 2
            assert (await guest.cvm.describe(deadline=first_lab.deadline)).counters.vc_entries == 0

    first_lab.play(story())


def test_a_device_that_answers_wrongly_is_noticed(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab, ES) as guest:
            guest.host.mmio_xor = 4
            (errand,) = await guest.cvm.errands(reads=5, deadline=first_lab.deadline)
            assert (errand.mmio_ok, errand.mmio_bad) == (0, 5)

    first_lab.play(story())


def test_a_ghcb_that_the_host_does_not_take_is_an_error_and_leaks_the_range(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab, ES) as guest:
            described = await guest.description(first_lab)
            guest.host.takes_ghcb = False
            gpa = described.page_gpa(1000)
            reply = await guest.cvm.convert(gpa, PAGE_SIZE, private=False, deadline=first_lab.deadline)
            assert reply.status is ConversionStatus.REFUSED
            own = await guest.cvm.describe(deadline=first_lab.deadline)
            assert (own.counters.ghcb_errors, own.counters.failed, own.leaks) == (1, 1, 1)

    first_lab.play(story())
