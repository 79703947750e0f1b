"""Conversions beside workloads, stopped anywhere, with replies that get lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from harness.guest.cvm_page import read_cvm_page
from harness.guest.pattern import damage_of_memory, read_ledger
from harness.model.cvm_guest import Shapes
from harness.model.guest import PatternCheck, Workload
from harness.model.memory import GpaRange
from testcases.guest.protected import Protected, protected

pytestmark = pytest.mark.vm
NEWER_QEMU_IS_NIGHTLY = True
SEED = 0xFEED5EED12345678


def host_view(guest: Protected, described: Any, shared: tuple[GpaRange, ...]) -> PatternCheck:
    """What the host finds in a stopped guest, whose own tables say what is shared."""
    vm = guest.vm
    own = read_cvm_page(vm.ram, vm.layout, guest.host.hello_gpa)
    ledger = read_ledger(vm.ram, vm.layout, described)
    return damage_of_memory(
        vm.ram,
        vm.layout,
        described.managed,
        ledger,
        SEED,
        shared=shared,
        in_flight=tuple(item.range for item in own.in_flight),
    )


@pytest.mark.parametrize(("kind", "workload"), [("sev", Workload.READ_MOSTLY), ("es", Workload.SHARED)])
def test_conversions_and_workloads_go_on_together(lab: Any, kind: str, workload: Workload) -> None:
    async def story() -> None:
        async with protected(lab, f"cvm={kind} cbit=58", vcpus=4, below_4g_mib=32) as guest:
            described = await guest.description(lab)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            await guest.probe.start(workload, deadline=lab.deadline)
            await guest.cvm.start_conversions(seed=3, deadline=lab.deadline)
            while len(guest.host.conversions) < 300:
                assert not lab.deadline.has_passed
                await guest.probe.heartbeat(deadline=lab.deadline)
            done = await guest.cvm.stop_conversions(deadline=lab.deadline)
            work = await guest.probe.stop(deadline=lab.deadline)
            own = await guest.cvm.describe(deadline=lab.deadline)
            assert own.counters.to_shared + own.counters.to_private == done > 200
            assert min(own.counters.to_shared, own.counters.to_private) > done // 4
            assert (own.in_flight, own.leaks, own.counters.stale_backing) == ((), 0, 0)
            assert work.damages_seen == 0
            shared = await guest.cvm.shared_ranges(deadline=lab.deadline)
            assert shared == guest.host.shared()
            assert (await guest.probe.verify(deadline=lab.deadline)).is_clean
            found = host_view(guest, described, shared)
            assert (found.pages_bad, found.pages_in_flight) == (0, 0)
            wrong = host_view(guest, described, ())
            assert wrong.pages_bad == sum(span.pages for span in shared) - own.decrypted.pages

    lab.play(story())


def test_a_guest_stopped_amid_conversions_can_be_understood_and_goes_on(first_lab: Any) -> None:
    async def story() -> None:
        seen = 0
        async with protected(first_lab, vcpus=3) as guest:
            described = await guest.description(first_lab)
            await guest.probe.fill(SEED, deadline=first_lab.deadline)
            await guest.probe.start(Workload.RANDOM, deadline=first_lab.deadline)
            await guest.cvm.start_conversions(shapes=Shapes.LARGE | Shapes.ODD, deadline=first_lab.deadline)
            for _ in range(12):
                before = len(guest.host.conversions)
                while len(guest.host.conversions) < before + 5:
                    assert not first_lab.deadline.has_passed
                    await asyncio.sleep(0)
                await guest.vm.monitor.execute("stop")
                found = host_view(guest, described, guest.host.walk())
                assert found.pages_bad == 0
                own = read_cvm_page(guest.vm.ram, guest.vm.layout, guest.host.hello_gpa)
                seen += len(own.in_flight)
                await guest.vm.monitor.execute("cont")
            await guest.cvm.stop_conversions(deadline=first_lab.deadline)
            await guest.probe.stop(deadline=first_lab.deadline)
            assert (await guest.probe.verify(deadline=first_lab.deadline)).is_clean
            assert await guest.cvm.shared_ranges(deadline=first_lab.deadline) == guest.host.shared()
            assert seen > 0

    first_lab.play(story())


@pytest.mark.parametrize("kind", ["sev", "es"])
def test_a_lost_reply_is_asked_for_again_and_the_call_done_once(lab: Any, kind: str) -> None:
    async def story() -> None:
        async with protected(lab, f"cvm={kind} cbit=58") as guest:
            described = await guest.description(lab)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            before = len(guest.host.conversions)
            guest.port.to_lose = 1
            await guest.cvm.convert(described.page_gpa(900), 5000, private=False, deadline=lab.deadline)
            assert guest.port.lost == 1
            assert len(guest.host.conversions) == before + 1
            assert (await guest.probe.verify(deadline=lab.deadline)).is_clean

    lab.play(story())


def test_garbage_on_the_port_does_not_disturb_the_guest(first_lab: Any) -> None:
    async def story() -> None:
        async with protected(first_lab) as guest:
            described = await guest.description(first_lab)
            guest.vm.hypercalls.send(b"CVHR" * 50 + b"\0" * 7)
            reply = await guest.cvm.convert(described.page_gpa(900), 5000, private=False, deadline=first_lab.deadline)
            assert reply.result == 0

    first_lab.play(story())
