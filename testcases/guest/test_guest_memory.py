"""Pattern, ledger, workloads and both diagnoses, in a real guest whose memory the test can damage."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from harness.guest.pattern import damage_of_memory, page_bytes, read_ledger
from harness.model.errors import ProtocolError
from harness.model.guest import GuestDescription, GuestMemory, PatternCheck, RamLayout, Workload
from harness.model.machine import Arch
from harness.model.memory import LINE_SIZE, PAGE_SIZE, Damage

pytestmark = pytest.mark.vm
ARCHES = tuple(Arch)
SEED = 0xFEED5EED12345678
RANDOM = random.Random(3)


def stale(page: bytes, gpa: int) -> bytes:
    del page
    return page_bytes(gpa, 0, SEED)


def newer(page: bytes, gpa: int) -> bytes:
    del page
    return page_bytes(gpa, 9, SEED)


def swapped(page: bytes, gpa: int) -> bytes:
    del page
    return page_bytes(gpa ^ 0x4000, 1, SEED)


def shifted(page: bytes, gpa: int) -> bytes:
    del gpa
    return page[LINE_SIZE * 3 :] + page[: LINE_SIZE * 3]


def torn(page: bytes, gpa: int) -> bytes:
    return page[:1024] + page_bytes(gpa, 2, SEED)[1024:]


def torn_at_the_end(page: bytes, gpa: int) -> bytes:
    return page[:-192] + page_bytes(gpa, 2, SEED)[-192:]


def zeroed(page: bytes, gpa: int) -> bytes:
    del page, gpa
    return bytes(PAGE_SIZE)


def line(page: bytes, gpa: int) -> bytes:
    return page[:640] + page_bytes(gpa, 3, SEED)[640:704] + page[704:]


def bit(page: bytes, gpa: int) -> bytes:
    del gpa
    return page[:1000] + bytes([page[1000] ^ 16]) + page[1001:]


def two_bits(page: bytes, gpa: int) -> bytes:
    return bit(page[:1001] + bytes([page[1001] ^ 1]) + page[1002:], gpa)


def ciphertext(page: bytes, gpa: int) -> bytes:
    del page, gpa
    return RANDOM.randbytes(PAGE_SIZE)


def ciphertext_in_half(page: bytes, gpa: int) -> bytes:
    del gpa
    return page[: PAGE_SIZE // 2] + RANDOM.randbytes(PAGE_SIZE // 2)


def foreign(page: bytes, gpa: int) -> bytes:
    del page
    return page_bytes(gpa, 1, SEED ^ 1)


DAMAGES: dict[Callable[[bytes, int], bytes], Damage] = {
    stale: Damage.STALE,
    newer: Damage.NEWER,
    swapped: Damage.SWAPPED,
    shifted: Damage.SHIFTED,
    torn: Damage.TORN,
    torn_at_the_end: Damage.TORN,
    zeroed: Damage.ZEROED,
    line: Damage.LINE,
    bit: Damage.BIT,
    two_bits: Damage.LINE,
    ciphertext: Damage.RANDOM,
    ciphertext_in_half: Damage.RANDOM,
    foreign: Damage.FOREIGN,
}


def damage_all(ram: memoryview, layout: RamLayout, guest: GuestDescription) -> list[int]:
    """Each damage once, far apart, the last page of all among them."""
    step = guest.managed_pages // len(DAMAGES)
    gpas = [guest.page_gpa(guest.managed_pages - 1 - n * step) for n in range(len(DAMAGES))]
    for gpa, spoil in zip(gpas, DAMAGES, strict=True):
        at = layout.gpa_to_ram(gpa)
        ram[at : at + PAGE_SIZE] = spoil(bytes(ram[at : at + PAGE_SIZE]), gpa)
    return gpas


def host_view(vm: Any, guest: GuestDescription, limit: int = 32) -> PatternCheck:
    ledger = read_ledger(vm.ram, vm.layout, guest)
    return damage_of_memory(vm.ram, vm.layout, guest.managed, ledger, SEED, max_damages=limit)


@pytest.mark.parametrize("vcpus", [1, 4])
def test_guest_and_host_agree_on_every_damage(lab: Any, vcpus: int) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=vcpus, memory_mib=64) as (vm, probe, guest):
            await probe.fill(SEED, deadline=lab.deadline)
            gpas = damage_all(vm.ram, vm.layout, guest)
            own: GuestMemory = await probe.verify(max_damages=32, deadline=lab.deadline)
            host = host_view(vm, guest)
            assert {damage.gpa: damage.kind for damage in own.damages} == dict(zip(gpas, DAMAGES.values(), strict=True))
            assert own.damages == host.damages
            assert (own.pages_checked, own.pages_bad) == (guest.managed_pages, len(DAMAGES))
            assert (host.pages_checked, host.pages_bad) == (guest.managed_pages, len(DAMAGES))
            assert own.by_kind == host.by_kind

    lab.play(story())


def test_the_list_of_damages_is_bounded_and_begins_with_the_lowest(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=2, memory_mib=64) as (vm, probe, guest):
            await probe.fill(SEED, deadline=first_lab.deadline)
            gpas = sorted(damage_all(vm.ram, vm.layout, guest))
            report = await probe.verify(max_damages=3, deadline=first_lab.deadline)
            assert [damage.gpa for damage in report.damages] == gpas[:3]
            assert report.pages_bad == len(gpas)

    first_lab.play(story())


def test_damage_through_the_command_channel_is_seen_and_undone(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=64) as (_, probe, guest):
            await probe.fill(SEED, deadline=first_lab.deadline)
            gpa = guest.page_gpa(500) + 100
            old = await probe.read(gpa, 1024, deadline=first_lab.deadline)
            assert old == page_bytes(gpa & ~0xFFF, 1, SEED)[100:1124]
            await probe.write(gpa, bytes([old[0] ^ 0x80]), deadline=first_lab.deadline)
            assert (await probe.verify(deadline=first_lab.deadline)).by_kind == {Damage.BIT: 1}
            await probe.write(gpa, old, deadline=first_lab.deadline)
            assert (await probe.verify(deadline=first_lab.deadline)).is_clean

    first_lab.play(story())


@pytest.mark.parametrize("workload", [load for load in Workload if load is not Workload.IDLE])
def test_each_workload_writes_and_leaves_clean_memory(first_lab: Any, workload: Workload) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=4, memory_mib=64) as (vm, probe, guest):
            await probe.fill(SEED, deadline=first_lab.deadline)
            await probe.start(workload, seed=7, pages=2000, deadline=first_lab.deadline)
            beat = await probe.heartbeat(deadline=first_lab.deadline)
            while min(vcpu.pages_written for vcpu in beat.vcpus) < guest.managed_pages // 4 + 200:
                assert not first_lab.deadline.has_passed
                beat = await probe.heartbeat(deadline=first_lab.deadline)
            work = await probe.stop(deadline=first_lab.deadline)
            report = await probe.verify(deadline=first_lab.deadline)
            assert report.is_clean
            assert report.written_sum == guest.managed_pages + work.pages_written
            assert work.damages_seen == 0
            host = host_view(vm, guest)
            assert (host.pages_bad, host.pages_in_flight, host.ledger_sum) == (0, 0, report.ledger_sum)

    first_lab.play(story())


def test_a_stopped_machine_is_clean_for_the_host_in_the_midst_of_writes(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(vcpus=4, memory_mib=64) as (vm, probe, guest):
            await probe.fill(SEED, deadline=lab.deadline)
            await probe.start(Workload.FULL, deadline=lab.deadline)
            for _ in range(10):
                await vm.monitor.execute("stop")
                host = host_view(vm, guest)
                assert (host.pages_bad, host.by_kind) == (0, {})
                assert host.pages_in_flight <= 4
                await vm.monitor.execute("cont")
            await probe.stop(deadline=lab.deadline)
            assert (await probe.verify(deadline=lab.deadline)).is_clean

    lab.play(story())


def test_a_reading_workload_reports_damage_while_it_runs(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=2, memory_mib=64) as (vm, probe, guest):
            await probe.fill(SEED, deadline=first_lab.deadline)
            for index in range(200):
                at = vm.layout.gpa_to_ram(guest.page_gpa(index))
                vm.ram[at : at + 64] = bytes(64)
            await probe.start(Workload.READ_MOSTLY, pages=200, deadline=first_lab.deadline)
            beat = await probe.heartbeat(deadline=first_lab.deadline)
            while beat.pages_written < guest.managed_pages + 50:
                beat = await probe.heartbeat(deadline=first_lab.deadline)
            work = await probe.stop(deadline=first_lab.deadline)
            assert work.damages_seen > 0
            assert work.first_damage is not None
            assert work.first_damage.kind is Damage.LINE

    first_lab.play(story())


def test_a_ledger_that_goes_back_in_time_does_not_match_the_writers(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=64) as (vm, probe, guest):
            await probe.fill(SEED, deadline=first_lab.deadline)
            await probe.start(Workload.SEQUENTIAL, pages=100, deadline=first_lab.deadline)
            await probe.stop(deadline=first_lab.deadline)
            clean = await probe.verify(deadline=first_lab.deadline)
            assert clean.is_clean
            gpa = guest.page_gpa(50)
            at = vm.layout.gpa_to_ram(guest.ledger_gpa) + 4 * 50
            generation = int.from_bytes(vm.ram[at : at + 4], "little")
            vm.ram[at : at + 4] = (generation - 1).to_bytes(4, "little")
            page = vm.layout.gpa_to_ram(gpa)
            vm.ram[page : page + PAGE_SIZE] = page_bytes(gpa, generation - 1, SEED)
            report = await probe.verify(deadline=first_lab.deadline)
            assert report.pages_bad == 0
            assert not report.is_clean
            assert report.ledger_sum == report.written_sum - 1

    first_lab.play(story())


def test_the_same_seed_draws_the_same_pages(first_lab: Any) -> None:
    async def ledger_after(writes: int) -> bytes:
        async with first_lab.guest(memory_mib=64) as (vm, probe, guest):
            await probe.fill(SEED, deadline=first_lab.deadline)
            await probe.start(Workload.RANDOM, seed=11, pages_per_tick=1, deadline=first_lab.deadline)
            written = 0
            while written < writes:
                written = (await probe.heartbeat(deadline=first_lab.deadline)).pages_written - guest.managed_pages
            await probe.stop(deadline=first_lab.deadline)
            return read_ledger(vm.ram, vm.layout, guest).tobytes()

    async def story() -> None:
        first, second = await ledger_after(10), await ledger_after(30)
        pages = [{at for at in range(0, len(ledger), 4) if ledger[at] > 1} for ledger in (first, second)]
        assert pages[0]
        assert pages[0] <= pages[1]

    first_lab.play(story())


def test_what_makes_no_sense_is_refused(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(memory_mib=64) as (_, probe, _):
            deadline = first_lab.deadline
            with pytest.raises(ProtocolError, match="not been filled"):
                await probe.verify(deadline=deadline)
            with pytest.raises(ProtocolError, match="not been filled"):
                await probe.start(Workload.FULL, deadline=deadline)
            with pytest.raises(ProtocolError, match="not RAM"):
                await probe.read(64 << 20, 8, deadline=deadline)
            with pytest.raises(ProtocolError, match="not RAM"):
                await probe.write((64 << 20) - 4, bytes(8), deadline=deadline)
            await probe.fill(SEED, deadline=deadline)
            await probe.start(Workload.FULL, deadline=deadline)
            with pytest.raises(ProtocolError, match="workload is running"):
                await probe.verify(deadline=deadline)

    first_lab.play(story())


@pytest.mark.nightly
@pytest.mark.large
def test_five_gib_are_filled_and_verified(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=2, memory_mib=5120) as (_, probe, guest):
            assert (await probe.fill(SEED, deadline=first_lab.deadline)).pages == guest.managed_pages
            assert (await probe.verify(deadline=first_lab.deadline)).is_clean

    first_lab.play(story())
