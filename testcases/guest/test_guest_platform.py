"""The probe under the software platform itself: what guest, host list and the host's walk say of each page is one."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from harness.confidential.soft.channel.hypercall_server import HypercallServer
from harness.confidential.soft.flavour import FLAVOURS, SOFT_CSV, SOFT_CSV2, Flavour
from harness.confidential.soft.host.platform import SoftPlatform
from harness.confidential.soft.host.vm_protection import VmProtection
from harness.confidential.soft.options import HostOptions
from harness.guest.confidential import ConfidentialProbe
from harness.guest.probe import Probe
from harness.model.address_map import AddressMap
from harness.model.cvm_guest import ConversionStatus
from harness.model.memory import PAGE_SIZE
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault

pytestmark = pytest.mark.vm
NEWER_QEMU_IS_NIGHTLY = True
SEED = 0xFEED5EED12345678
MMIO_READS = 5


@dataclass(frozen=True)
class Guest:
    vm: Any
    probe: Probe
    cvm: ConfidentialProbe
    protection: VmProtection


@asynccontextmanager
async def covered(
    lab: Any, flavour: Flavour, *faults: SoftFault, options: HostOptions | None = None, vcpus: int = 2, **more: Any
) -> AsyncIterator[Guest]:
    words = f"cvm={'es' if flavour.is_es else 'sev'} cbit=58"
    host = SoftPlatform(flavour, seed=Seed(3), faults=frozenset(faults), options=options)
    async with lab.vm("-append", words, vcpus=vcpus, memory_mib=64, **more) as vm:
        addresses = AddressMap.of(vm.layout)
        ram = np.frombuffer(vm.ram, dtype=np.uint8)
        protection = host.launch(ram, addresses, policy=flavour.policy(), vcpus=vcpus)
        server = HypercallServer(vm.hypercalls, protection.hypercall)
        server.start()
        probe = Probe(*vm.channel)
        try:
            yield Guest(vm, probe, ConfidentialProbe(probe), protection)
            assert server.error is None, server.error
        finally:
            server.stop()
            protection.close()
            await probe.close()
            del ram


async def agree(lab: Any, guest: Guest) -> None:
    walked = guest.protection.truth_map()
    assert walked is not None
    addresses, held = guest.protection.addresses, guest.protection.snapshot()
    assert await guest.cvm.shared_ranges(deadline=lab.deadline) == addresses.gpa_ranges(walked.page_map.shared)
    assert walked.page_map == held.page_map
    assert not walked.unknown, "the probe maps all of its memory"


@pytest.mark.parametrize("below_4g_mib", [0, 32])
@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=lambda flavour: flavour.name)
def test_all_witnesses_agree_after_any_conversions(lab: Any, flavour: Flavour, below_4g_mib: int) -> None:
    async def story() -> None:
        async with covered(lab, flavour, below_4g_mib=below_4g_mib) as guest:
            described = await guest.probe.describe(deadline=lab.deadline)
            assert guest.protection.blocked_reasons == ()
            await agree(lab, guest)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            draw = random.Random(11)
            for number in range(60):
                span = draw.choice(described.managed)
                size = min(span.size_bytes, draw.choice([PAGE_SIZE, 2 << 20, draw.randrange(1, 100_000)]))
                gpa = draw.randrange(span.start, span.end - size + 1)
                reply = await guest.cvm.convert(
                    gpa, size, private=draw.random() < 0.4, hypercall_first=number % 2 == 0, deadline=lab.deadline
                )
                assert reply.status is ConversionStatus.DONE
            await agree(lab, guest)
            assert (await guest.probe.verify(deadline=lab.deadline)).is_clean

    lab.play(story())


def test_an_encrypted_guest_does_everything_through_its_ghcb(lab: Any) -> None:
    async def story() -> None:
        async with covered(lab, SOFT_CSV2, vcpus=3) as guest:
            await guest.probe.describe(deadline=lab.deadline)
            errands = await guest.cvm.errands(reads=MMIO_READS, deadline=lab.deadline)
            assert [(item.mmio_ok, item.mmio_bad, item.ipi_ok) for item in errands] == [(MMIO_READS, 0, True)] * 3
            found = guest.protection.snapshot().vcpus
            assert [vcpu.is_ghcb_mapped for vcpu in found] == [True] * 3
            assert [vcpu.has_first_sipi for vcpu in found] == [False, True, True]
            assert len({vcpu.ghcb for vcpu in found}) == 3
            counted = (await guest.cvm.describe(deadline=lab.deadline)).counters
            assert counted.ghcb_errors == 0

    lab.play(story())


@pytest.mark.parametrize(("faults", "shows"), [((), False), ((SoftFault.STALE_BACKING,), True)])
def test_b21_old_content_shows_only_when_the_host_left_it(lab: Any, faults: tuple[SoftFault, ...], shows: bool) -> None:
    async def story() -> None:
        async with covered(lab, SOFT_CSV, *faults) as guest:
            described = await guest.probe.describe(deadline=lab.deadline)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            found = await guest.cvm.stale(described.page_gpa(3000), 4, deadline=lab.deadline)
            assert bool(found) is shows

    lab.play(story())


def test_b51_a_refused_conversion_is_leaked(lab: Any) -> None:
    async def story() -> None:
        async with covered(lab, SOFT_CSV, options=HostOptions(refuses_conversion=2)) as guest:
            described = await guest.probe.describe(deadline=lab.deadline)
            await guest.probe.fill(SEED, deadline=lab.deadline)
            replies = [
                await guest.cvm.convert(described.page_gpa(page), PAGE_SIZE, private=False, deadline=lab.deadline)
                for page in (3000, 3001, 3002)
            ]
            statuses = [reply.status for reply in replies]
            assert statuses == [ConversionStatus.DONE, ConversionStatus.REFUSED, ConversionStatus.DONE]
            await agree(lab, guest)

    lab.play(story())
