"""A protected guest: private at first, converted range by range, and its host knows what it was told."""

from __future__ import annotations

import random
from typing import Any

import pytest

from harness.guest.confidential import ConfidentialProbe
from harness.guest.cvm_page import read_cvm_page
from harness.model.cvm_guest import ConversionStatus, MigrationVariable, Phase
from harness.model.errors import ProtocolError
from harness.model.memory import PAGE_SIZE, GpaRange
from testcases.guest.protected import protected

pytestmark = pytest.mark.vm
NEWER_QEMU_IS_NIGHTLY = True
SEED = 0xFEED5EED12345678


@pytest.mark.parametrize("below_4g_mib", [0, 32])
def test_memory_starts_private_and_the_kernel_shares_what_the_host_reads(lab: Any, below_4g_mib: int) -> None:
    async def story() -> None:
        async with protected(lab, vcpus=2, below_4g_mib=below_4g_mib) as guest:
            described = await guest.description(lab)
            own = await guest.cvm.describe(deadline=lab.deadline)
            assert (own.phase, own.kernel, own.variable, own.ready) == (Phase.KERNEL, 1, MigrationVariable.TRUE, 1)
            assert own.decrypted == GpaRange(described.heartbeat_gpa, own.gpa + PAGE_SIZE)
            shared = await guest.cvm.shared_ranges(deadline=lab.deadline)
            assert shared == (own.decrypted,) == guest.host.shared()
            assert read_cvm_page(guest.vm.ram, guest.vm.layout, own.gpa).decrypted == own.decrypted

    lab.play(story())


def conversions(managed: tuple[GpaRange, ...], count: int) -> list[tuple[int, int, bool, bool]]:
    """gpa, bytes, private, hypercall first: pages, 2 MiB, and what is aligned to nothing."""
    draw = random.Random(7)
    drawn = []
    for number in range(count):
        span = draw.choice(managed)
        size = draw.choice([PAGE_SIZE, 2 << 20, draw.randrange(1, 100_000), draw.randrange(1, 5000)])
        size = min(size, span.size_bytes)
        gpa = draw.randrange(span.start, span.end - size + 1)
        gpa = gpa if draw.random() < 0.5 else max(span.start, gpa & -(2 << 20))
        drawn.append((gpa, size, draw.random() < 0.4, number % 2 == 0))
    return drawn


@pytest.mark.parametrize(("below_4g_mib", "cpu"), [(0, "max"), (32, "max"), (32, "max,-pdpe1gb")])
def test_host_and_guest_agree_after_any_conversions(lab: Any, below_4g_mib: int, cpu: str) -> None:
    async def story() -> None:
        async with protected(lab, "cvm=sev cbit=58", "-cpu", cpu, vcpus=2, below_4g_mib=below_4g_mib) as guest:
            described = await guest.description(lab)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            for gpa, size, private, first in conversions(described.managed, 120):
                reply = await guest.cvm.convert(
                    gpa, size, private=private, hypercall_first=first, deadline=lab.deadline
                )
                assert (reply.status, reply.result) == (ConversionStatus.DONE, 0)
            shared = await guest.cvm.shared_ranges(deadline=lab.deadline)
            assert shared == guest.host.shared() == guest.host.walk()
            assert len(shared) > 10
            assert any(span.start >= 1 << 32 for span in shared) == bool(below_4g_mib)
            assert (await guest.probe.verify(deadline=lab.deadline)).is_clean
            own = await guest.cvm.describe(deadline=lab.deadline)
            assert own.counters.to_shared + own.counters.to_private == 120
            assert (own.counters.failed, own.counters.stale_backing, own.in_flight) == (0, 0, ())

    lab.play(story())


def test_a_map_of_more_ranges_than_one_reply_holds(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab) as guest:
            described = await guest.description(first_lab)
            gpas = [described.page_gpa(1000 + 2 * number) for number in range(1100)]
            for gpa in gpas:
                await guest.cvm.convert(gpa, PAGE_SIZE, private=False, deadline=first_lab.deadline)
            shared = await guest.cvm.shared_ranges(deadline=first_lab.deadline)
            assert shared == guest.host.shared()
            assert len(shared) == 1101

    first_lab.play(story())


@pytest.mark.parametrize(("gpa", "size"), [(0, PAGE_SIZE), (2 << 20, PAGE_SIZE), (63 << 20, 4 << 20), (1 << 40, 1)])
def test_only_managed_memory_can_be_converted(first_lab: Any, gpa: int, size: int) -> None:
    async def story() -> None:
        async with protected(first_lab) as guest:
            await guest.description(first_lab)
            told = len(guest.host.conversions)
            with pytest.raises(ProtocolError, match="not RAM"):
                await guest.cvm.convert(gpa, size, private=False, deadline=first_lab.deadline)
            assert len(guest.host.conversions) == told

    first_lab.play(story())


def test_a_guest_that_is_not_protected_knows_none_of_this(first_lab: Any) -> None:
    async def story() -> None:
        async with first_lab.guest(vcpus=2) as (vm, probe, _):
            with pytest.raises(ProtocolError, match="unknown command"):
                await ConfidentialProbe(probe).describe(deadline=first_lab.deadline)
            vm.hypercalls.setblocking(False)
            with pytest.raises(BlockingIOError):
                vm.hypercalls.recv(1)

    first_lab.play(story())
