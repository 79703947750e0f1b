"""Each bug that the guest can play, by what it does to guest or host; and refusals, retries, stale content."""

from __future__ import annotations

from typing import Any

import pytest

from harness.confidential.soft.channel.hypercalls import MSR_MIGRATION_CONTROL
from harness.model.cvm_guest import ConversionStatus, MigrationVariable, Phase
from harness.model.errors import GuestError
from harness.model.memory import PAGE_SIZE, GpaRange
from harness.model.soft_fault import SoftFault
from testcases.guest.protected import BOTH, Protected, protected

pytestmark = pytest.mark.vm
SEED = 0xFEED5EED12345678
MIB = 1 << 20


def words(kind: str, fault: SoftFault | None, *more: str) -> str:
    return " ".join((f"cvm={kind} cbit=58", *more, *((f"fault={fault}",) if fault else ())))


def with_and_without(fault: SoftFault) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", [None, fault])


async def disagreement(guest: Protected, lab: Any) -> set[int]:
    """gpas of which guest and host say different things."""
    own = await guest.cvm.shared_ranges(deadline=lab.deadline)
    return _pages(own) ^ _pages(guest.host.shared())


def _pages(ranges: tuple[GpaRange, ...]) -> set[int]:
    return {gpa for span in ranges for gpa in range(span.start, span.end, PAGE_SIZE)}


@with_and_without(SoftFault.UNALIGNED_UNDERCOUNT)
def test_an_unaligned_range_is_one_page_short(first_lab: Any, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("sev", fault)) as guest:
            gpa = (await guest.description(first_lab)).page_gpa(1000)
            await guest.cvm.convert(gpa + 0x800, 2 * PAGE_SIZE, private=False, deadline=first_lab.deadline)
            await guest.cvm.convert(gpa + 0x10800, 0x1000, private=False, deadline=first_lab.deadline)
            await guest.cvm.convert(gpa + 0x20800, 0x100, private=False, deadline=first_lab.deadline)
            await guest.cvm.convert(gpa + 0x30000, 2 * PAGE_SIZE, private=False, deadline=first_lab.deadline)
            missing = {gpa + 2 * PAGE_SIZE, gpa + 0x11000} if fault else set()
            assert await disagreement(guest, first_lab) == missing

    first_lab.play(story())


@with_and_without(SoftFault.SEC_GHCB_UNREPORTED)
def test_the_first_ghcb_is_not_reported(first_lab: Any, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("es", fault, "firmware=hold")) as guest:
            own = await guest.cvm.describe(deadline=first_lab.deadline)
            assert await disagreement(guest, first_lab) == ({own.firmware_ghcb_gpa} if fault else set())
            await guest.cvm.enter_kernel(deadline=first_lab.deadline)
            assert await disagreement(guest, first_lab) == set()

    first_lab.play(story())


@with_and_without(SoftFault.VC_DROPS_REGISTERS)
def test_the_handler_drops_the_registers_of_hypercalls(first_lab: Any, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("es", fault)) as guest:
            await guest.description(first_lab)
            dropped = [call.pages == call.gpa == 0 for call in guest.host.conversions]
            assert set(dropped) == {bool(fault)}
            assert bool(guest.host.shared()) == (not fault)

    first_lab.play(story())


@pytest.mark.parametrize(("fault", "features", "asserts"), [
    (None, 0, False),
    (SoftFault.ASSERT_WITHOUT_FEATURE, 0, True),
    (SoftFault.ASSERT_WITHOUT_FEATURE, BOTH, False),
])  # fmt: skip
def test_firmware_stops_at_an_assert(first_lab: Any, fault: SoftFault | None, features: int, asserts: bool) -> None:
    async def story() -> None:
        async with protected(first_lab, words("sev", fault), features=features) as guest:
            if asserts:
                with pytest.raises(GuestError, match="vector 3"):
                    await guest.description(first_lab)
                assert "ASSERT" in guest.vm.console.read_text()
            else:
                own = await guest.cvm.describe(deadline=first_lab.deadline)
                assert own.phase is Phase.KERNEL

    first_lab.play(story())


@with_and_without(SoftFault.VARIABLE_MISSING)
def test_without_the_variable_ready_is_never_written(first_lab: Any, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("sev", fault)) as guest:
            own = await guest.cvm.describe(deadline=first_lab.deadline)
            assert own.variable is (MigrationVariable.UNSET if fault else MigrationVariable.TRUE)
            assert len(guest.host.writes(MSR_MIGRATION_CONTROL)) == (0 if fault else 1)
            said = "EFI live migration variable not found" if fault else "live migration enabled in EFI"
            assert said in guest.vm.console.read_text()

    first_lab.play(story())


@with_and_without(SoftFault.FLASH0_SHARED)
def test_firmware_reports_its_flash_as_shared(first_lab: Any, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("sev", fault, "firmware=hold")) as guest:
            await guest.description(first_lab)
            flash = [call for call in guest.host.conversions if call.gpa >= 0xFFC00000]
            assert [(call.gpa, call.pages, call.is_private) for call in flash] == (
                [(0xFFC00000, 1024, False)] if fault else []
            )
            assert await disagreement(guest, first_lab) == set()

    first_lab.play(story())


@with_and_without(SoftFault.KEXEC_KEEPS_RANGES)
def test_a_new_kernel_keeps_the_ranges_of_the_old_one(first_lab: Any, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("sev", fault), "-no-reboot", vcpus=2) as guest:
            gpa = (await guest.description(first_lab)).page_gpa(1000)
            await guest.cvm.convert(gpa, 2 * PAGE_SIZE, private=False, deadline=first_lab.deadline)
            await guest.cvm.kexec(deadline=first_lab.deadline)
            left = {gpa, gpa + PAGE_SIZE} if fault else set()
            assert await disagreement(guest, first_lab) == left

    first_lab.play(story())


@with_and_without(SoftFault.RETRY_IGNORED)
@pytest.mark.parametrize("kind", ["sev", "es"])
def test_the_tail_of_a_large_range_is_forgotten(first_lab: Any, kind: str, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words(kind, fault), memory_mib=192, retries=True) as guest:
            described = await guest.description(first_lab)
            await guest.probe.fill(SEED, deadline=first_lab.deadline)
            span = max(described.managed, key=lambda span: span.pages)
            reply = await guest.cvm.convert(
                span.start, 130 * MIB, private=False, hypercall_first=True, deadline=first_lab.deadline
            )
            assert reply.status is ConversionStatus.DONE
            forgotten = set(range(span.start + 64 * MIB, span.start + 130 * MIB, PAGE_SIZE)) if fault else set()
            assert await disagreement(guest, first_lab) == forgotten
            assert (await guest.probe.verify(deadline=first_lab.deadline)).is_clean
            assert (await guest.cvm.describe(deadline=first_lab.deadline)).counters.retried >= 1

    first_lab.play(story())


@with_and_without(SoftFault.REUSES_UNCONVERTED)
@pytest.mark.parametrize("first", [False, True])
def test_refused_pages_are_leaked_and_not_used_again(first_lab: Any, first: bool, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("sev", fault)) as guest:
            described = await guest.description(first_lab)
            await guest.probe.fill(SEED, deadline=first_lab.deadline)
            gpa = described.page_gpa(1000)
            guest.host.refuses = lambda call: call.gpa == gpa
            reply = await guest.cvm.convert(
                gpa, 3 * PAGE_SIZE, private=False, hypercall_first=first, deadline=first_lab.deadline
            )
            assert (reply.status, reply.result) == (ConversionStatus.REFUSED, -22)
            own = await guest.cvm.describe(deadline=first_lab.deadline)
            assert own.counters.failed == 1
            refused = {gpa + page * PAGE_SIZE for page in range(3)}
            if fault:
                assert (own.leaks, await disagreement(guest, first_lab)) == (0, refused)
                return
            assert own.leaked == (GpaRange(gpa, gpa + 3 * PAGE_SIZE),)
            assert await disagreement(guest, first_lab) == set()
            again = await guest.cvm.convert(gpa + PAGE_SIZE, 1, private=True, deadline=first_lab.deadline)
            assert again.status is ConversionStatus.LEAKED
            assert (await guest.probe.verify(deadline=first_lab.deadline)).is_clean

    first_lab.play(story())


@with_and_without(SoftFault.VC_ENABLES_INTERRUPTS)
def test_the_handler_lets_interrupts_in_and_is_entered_again(first_lab: Any, fault: SoftFault | None) -> None:
    async def story() -> None:
        async with protected(first_lab, words("es", fault), vcpus=2) as guest:
            await guest.description(first_lab)
            errands = await guest.cvm.errands(reads=8, deadline=first_lab.deadline)
            counted = (await guest.cvm.describe(deadline=first_lab.deadline)).counters
            assert bool(counted.vc_nested) == bool(counted.vc_interrupts_on) == bool(fault)
            assert any(item.mmio_bad for item in errands) == bool(fault)
            assert all(item.ipi_ok for item in errands)

    first_lab.play(story())


@pytest.mark.parametrize("scramble", [0, 0x1234567])
def test_old_content_that_shows_through_is_counted(first_lab: Any, scramble: int) -> None:
    async def story() -> None:
        async with protected(first_lab, scramble=scramble) as guest:
            described = await guest.description(first_lab)
            await guest.probe.fill(SEED, deadline=first_lab.deadline)
            stale = await guest.cvm.stale(described.page_gpa(1000), 5, deadline=first_lab.deadline)
            assert stale == (0 if scramble else 10)
            assert await disagreement(guest, first_lab) == set()
            assert (await guest.probe.verify(deadline=first_lab.deadline)).is_clean

    first_lab.play(story())


def test_two_faults_at_once(first_lab: Any) -> None:
    async def story() -> None:
        both = f"cvm=sev cbit=58 fault={SoftFault.VARIABLE_MISSING}+{SoftFault.UNALIGNED_UNDERCOUNT}"
        async with protected(first_lab, both) as guest:
            gpa = (await guest.description(first_lab)).page_gpa(1000)
            await guest.cvm.convert(gpa + 0x800, PAGE_SIZE, private=False, deadline=first_lab.deadline)
            assert await disagreement(guest, first_lab) == {gpa + PAGE_SIZE}
            assert guest.host.writes(MSR_MIGRATION_CONTROL) == []

    first_lab.play(story())
