"""Two hosts that share nothing but a socket: the destination side runs in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.checks.device_state import check_device_state
from harness.confidential.soft.processor.guest_context import SendTarget
from harness.migration.relay import Endpoint
from harness.migration.sealed.sides import open_source_side
from harness.migration.stream.snapshot import Snapshot
from harness.model.machine import MachineSpec
from harness.model.seed import Seed
from harness.model.wire import WireEnd
from testcases.sealed.conftest import MEMORY_MIB, PAGES, SHARED, expected, fill
from testcases.sealed.hosts import KINDS, Host
from testcases.stream.conftest import capabilities, capture, command, ended
from testcases.vm.conftest import Lab

pytestmark = pytest.mark.vm

FAR = Path(__file__).with_name("far_host.py")
VCPUS = 8


@pytest.mark.parametrize("flavour", ["soft-sev", "soft-csv2"])
def test_only_sockets_lie_between_the_hosts(lab: Lab, qemu: Path, flavour: str) -> None:
    async def story() -> None:
        spec = MachineSpec(memory_mib=MEMORY_MIB, vcpus=VCPUS)
        inbound, between = f"unix:{lab.folder}/in.sock", Endpoint.unix(lab.folder / "between.sock")
        async with lab.vm(qemu, spec) as source, lab.vm(qemu, spec, role="dst", incoming=True) as destination:
            fill(source)
            await asyncio.gather(*(capabilities(vm, lab, "return-path") for vm in (source, destination)))
            await command(destination, lab, "migrate-incoming", uri=inbound)
            await command(source, lab, "migrate-set-parameters", max_bandwidth=100 << 30, downtime_limit=20_000)
            words = (sys.executable, str(FAR), between.uri, inbound, flavour, str(PAGES))
            child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
            assert child.stdout is not None
            told = json.loads(await child.stdout.readline())
            target = SendTarget(**{name: bytes.fromhex(value) for name, value in told.items()})
            near = Host(KINDS[flavour], PAGES, shared=SHARED, ghcbs={3: 1 << 62 | 0x5000}).launch()
            listen = Endpoint.unix(lab.folder / "near.sock")
            async with open_source_side(near, target, listen=listen, connect=between, seed=Seed(3)) as side:
                await command(source, lab, "migrate", uri=side.uri)
                assert await ended(source, lab) == "completed", side.sealing.account().notes
                await side.relay.wait(lab.deadline)
                assert await ended(destination, lab) == "completed"
                sent = side.relay.snapshot()
            far = json.loads(await child.stdout.readline())
            assert await child.wait() == 0
            assert (far["end"], far["refusals"]) == (WireEnd.COMPLETE, [])
            assert [tuple(span) for span in far["shared"]] == list(SHARED.ranges())
            assert far["packets"] == sum(near.commands)
            is_es = KINDS[flavour].is_es
            assert far["ghcb"] == ({"3": 1 << 62 | 0x5000} if is_es else {})
            assert far["vcpus"] == (list(range(VCPUS)) if is_es else [])
            assert np.array_equal(destination.ram.buffer, expected(destination, SHARED))
            again = Snapshot.of(await capture(destination, lab))
            assert check_device_state(sent.devices, again.devices) == ()

    lab.play(story())
