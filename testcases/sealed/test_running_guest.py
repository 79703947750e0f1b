"""A guest that dirties memory all the time moves with its registers opaque on the wire, and runs on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from harness.checks.device_state import check_device_state
from harness.migration.relay import Endpoint
from harness.migration.stream.snapshot import Snapshot
from harness.model.memory import PAGE_SIZE
from harness.model.page_set import PageSet
from harness.vm.ram_compare import differing_pages
from testcases.sealed.conftest import Hosts, sides
from testcases.sealed.hosts import CSV2
from testcases.stream.conftest import (
    HOT,
    capabilities,
    capture,
    command,
    dirty_guest,
    ended,
    hold,
    run_guest,
    spec,
)
from testcases.vm.conftest import Lab

__all__ = ["dirty_guest"]
pytestmark = pytest.mark.vm


def test_a_running_es_guest_moves(lab: Lab, qemu: Path, dirty_guest: str, tmp_path: Path) -> None:
    async def story() -> None:
        ours = spec(dirty_guest)
        hosts = Hosts.of(CSV2, ours.memory_bytes // PAGE_SIZE, shared=PageSet.empty())
        record = tmp_path / "wire.bin"
        async with lab.vm(qemu, ours) as source, lab.vm(qemu, ours, role="dst", incoming=True) as destination:
            await run_guest(source, lab)
            await asyncio.gather(*(capabilities(vm, lab, "return-path") for vm in (source, destination)))
            inbound = Endpoint.unix(lab.folder / "in.sock")
            await command(destination, lab, "migrate-incoming", uri=inbound.uri)
            async with sides(hosts, inbound, lab.folder, record=record) as (near, far):
                await hold(source, lab, near.uri)
                assert await ended(source, lab) == "completed", near.sealing.account().notes
                await near.relay.wait(lab.deadline)
                await far.relay.wait(lab.deadline)
            assert await ended(destination, lab) == "completed"
            assert differing_pages(source.ram, destination.ram).tolist() == []
            assert near.relay.account().pages_resent >= len(HOT)
            sent = near.relay.snapshot()
            # The registers of the running guest stand in QEMU's own stream, and nowhere between the hosts.
            cpu = sent.devices.find("cpu/0")
            assert cpu is not None
            values = {field.path: field for field in cpu.fields}
            assert values["env.eip"].value
            assert hosts.source.noted == hosts.destination.noted
            between = far.relay.snapshot().devices.find("cpu/0")
            assert between is not None
            assert next(field.value for field in between.fields if field.path == "env.eip") == 0
            page = bytes(source.ram.buffer[HOT[5] : HOT[5] + 64])
            assert any(page)
            assert page not in record.read_bytes()
            again = Snapshot.of(await capture(destination, lab))
            assert check_device_state(sent.devices, again.devices) == ()

    lab.play(story())
