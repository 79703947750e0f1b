"""Phases of a protected guest: firmware, kernel, another kernel, vCPUs that go and come."""

from __future__ import annotations

from typing import Any

import pytest

from harness.confidential.soft.channel.hypercalls import MSR_MIGRATION_CONTROL
from harness.guest.cvm_page import read_cvm_page
from harness.guest.frames import Frame, FrameReader, Kind
from harness.guest.protocol import Command, Event
from harness.model.cvm_guest import MigrationVariable, Phase
from harness.model.errors import ProtocolError
from harness.model.guest import HaltMode, Workload
from harness.model.machine import X86_64_CPU
from harness.model.memory import PAGE_SIZE, GpaRange
from testcases.guest.protected import protected

pytestmark = pytest.mark.vm
NEWER_QEMU_IS_NIGHTLY = True
SEED = 0xFEED5EED12345678
KINDS = pytest.mark.parametrize("kind", ["sev", "es"])


@KINDS
def test_firmware_holds_until_it_is_told_to_enter_the_kernel(lab: Any, kind: str) -> None:
    async def story() -> None:
        async with protected(lab, f"cvm={kind} cbit=58 firmware=hold", vcpus=3) as guest:
            described = await guest.description(lab)
            assert described.vcpus == 1
            own = await guest.cvm.describe(deadline=lab.deadline)
            assert (own.phase, own.kernel, own.variable, own.ready) == (Phase.FIRMWARE, 0, MigrationVariable.TRUE, 0)
            assert bool(own.firmware_ghcb_gpa) == (kind == "es")
            assert await guest.cvm.shared_ranges(deadline=lab.deadline) == guest.host.shared()
            if kind == "es":
                page = GpaRange(own.firmware_ghcb_gpa, own.firmware_ghcb_gpa + PAGE_SIZE)
                assert any(span.start <= page.start < page.end <= span.end for span in guest.host.shared())
            await guest.probe.fill(SEED, deadline=lab.deadline)
            await guest.cvm.convert(described.page_gpa(2000), 40 * PAGE_SIZE, private=False, deadline=lab.deadline)

            assert await guest.cvm.enter_kernel(deadline=lab.deadline) == 3
            own = await guest.cvm.describe(deadline=lab.deadline)
            assert (own.phase, own.kernel, own.ready, own.online_mask) == (Phase.KERNEL, 1, 1, 0b111)
            shared = await guest.cvm.shared_ranges(deadline=lab.deadline)
            assert shared == (own.decrypted,) == guest.host.shared()
            assert (await guest.probe.verify(deadline=lab.deadline)).is_clean
            with pytest.raises(ProtocolError, match="phase of the boot"):
                await guest.cvm.enter_kernel(deadline=lab.deadline)

    lab.play(story())


def test_the_kernel_says_what_it_found_in_efi(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab) as guest:
            await guest.description(first_lab)
            assert "setup_efi_kvm_sev_migration: live migration enabled in EFI" in guest.vm.console.read_text()

    first_lab.play(story())


def test_a_host_without_the_features_is_told_nothing(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab, features=0) as guest:
            described = await guest.description(first_lab)
            await guest.probe.fill(SEED, deadline=first_lab.deadline)
            gpa = described.page_gpa(1000)
            await guest.cvm.convert(gpa, PAGE_SIZE, private=False, deadline=first_lab.deadline)
            own = await guest.cvm.describe(deadline=first_lab.deadline)
            assert (own.features, own.variable, own.ready) == (0, MigrationVariable.UNSET, 0)
            assert (guest.host.conversions, guest.host.msrs) == ([], {})
            assert GpaRange(gpa, gpa + PAGE_SIZE) in await guest.cvm.shared_ranges(deadline=first_lab.deadline)
            assert (await guest.probe.verify(deadline=first_lab.deadline)).is_clean

    first_lab.play(story())


@pytest.mark.parametrize(("kind", "cpu"), [("sev", "max"), ("sev", X86_64_CPU), ("es", X86_64_CPU)])
def test_a_new_kernel_enters_without_a_reset(lab: Any, kind: str, cpu: str) -> None:
    async def story() -> None:
        # A kernel that does not get through resets the machine, and must not be taken for a new one.
        async with protected(lab, f"cvm={kind} cbit=58", "-no-reboot", "-cpu", cpu, vcpus=3) as guest:
            before = await guest.description(lab)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            await guest.cvm.convert(before.page_gpa(2000), 40 * PAGE_SIZE, private=False, deadline=lab.deadline)
            await guest.probe.start(Workload.RANDOM, deadline=lab.deadline)
            await guest.cvm.start_conversions(deadline=lab.deadline)
            for kernel in (2, 3):
                ready = await guest.cvm.kexec(deadline=lab.deadline)
                after = await guest.description(lab)
                assert (ready.boot_id, ready.boot_count, ready.vcpus) == (before.boot_id, 1, 3)
                assert (after.heartbeat_gpa, after.ledger_gpa, after.managed) == (
                    before.heartbeat_gpa,
                    before.ledger_gpa,
                    before.managed,
                )
                own = await guest.cvm.describe(deadline=lab.deadline)
                assert (own.phase, own.kernel, own.ready, own.online_mask) == (Phase.KERNEL, kernel, 1, 0b111)
                assert own.variable is MigrationVariable.TRUE
                shared = await guest.cvm.shared_ranges(deadline=lab.deadline)
                assert shared == (own.decrypted,) == guest.host.shared()
                with pytest.raises(ProtocolError, match="filled"):
                    await guest.probe.verify(deadline=lab.deadline)
                await guest.probe.fill(SEED, deadline=lab.deadline)
                assert (await guest.probe.verify(deadline=lab.deadline)).is_clean
            written = [r.rax for r in guest.host.writes(MSR_MIGRATION_CONTROL)]
            assert written == [1, 0, 0, 0, 1, 0, 0, 0, 1]

    lab.play(story())


def test_a_reset_begins_again_in_firmware(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab, "cvm=es cbit=58", vcpus=2) as guest:
            before = await guest.description(first_lab)
            await guest.cvm.kexec(deadline=first_lab.deadline)
            await guest.probe.halt(HaltMode.RESET, deadline=first_lab.deadline)
            ready = await guest.probe.ready(deadline=first_lab.deadline)
            assert (ready.boot_count, ready.vcpus) == (2, 2)
            assert ready.boot_id != before.boot_id
            assert (await guest.cvm.describe(deadline=first_lab.deadline)).kernel == 1

    first_lab.play(story())


@KINDS
def test_vcpus_go_offline_and_come_back(lab: Any, kind: str) -> None:
    async def story() -> None:
        async with protected(lab, f"cvm={kind} cbit=58", vcpus=4) as guest:
            await guest.description(lab)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            await guest.probe.start(Workload.RANDOM, deadline=lab.deadline)
            assert await guest.cvm.offline(0b1101, deadline=lab.deadline) == 0b0011
            own = await guest.cvm.describe(deadline=lab.deadline)
            assert (own.online_mask, own.ready) == (0b0011, 0)
            assert sorted(request.vcpu for request in guest.host.writes(MSR_MIGRATION_CONTROL)[1:]) == [2, 3]
            assert guest.host.exits.count(0x80000004) == (2 if kind == "es" else 0)
            await guest.probe.stop(deadline=lab.deadline)
            assert (await guest.probe.verify(deadline=lab.deadline)).is_clean
            assert len(await guest.cvm.errands(deadline=lab.deadline)) == 2
            before = await guest.probe.heartbeat(deadline=lab.deadline)

            assert await guest.cvm.online(0b0100, deadline=lab.deadline) == 0b0111
            assert await guest.cvm.online(0xFF, deadline=lab.deadline) == 0b1111
            errands = await guest.cvm.errands(deadline=lab.deadline)
            assert [item.ipi_ok for item in errands] == [True] * 4
            assert {item.mmio_bad for item in errands} == {0}
            after = before
            while after.vcpus[3].beats == before.vcpus[3].beats:
                assert not lab.deadline.has_passed
                after = await guest.probe.heartbeat(deadline=lab.deadline)

    lab.play(story())


def test_a_repeat_of_kexec_is_answered_and_not_done_again(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab, "cvm=sev cbit=58", "-no-reboot") as guest:
            await guest.description(first_lab)
            await guest.probe.close()
            wire = Frame(kind=Kind.REQUEST, code=Command.KEXEC, seq=500).encode()
            reader, writer = guest.vm.channel
            frames = FrameReader()
            seen: list[tuple[Kind, int]] = []
            writer.write(wire)
            while (Kind.EVENT, Event.READY) not in seen:
                seen += [(frame.kind, frame.code) for frame in frames.feed(await reader.read(4096))]
            writer.write(wire + Frame(kind=Kind.REQUEST, code=Command.CVM, seq=501).encode())
            while (Kind.REPLY, Command.CVM) not in seen:
                seen += [(frame.kind, frame.code) for frame in frames.feed(await reader.read(4096))]
            assert seen.count((Kind.REPLY, Command.KEXEC)) == 2
            own = read_cvm_page(guest.vm.ram, guest.vm.layout, guest.host.hello_gpa)
            assert own.kernel == 2

    first_lab.play(story())
