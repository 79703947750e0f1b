"""Real QEMUs, both sides between them: content, list, device state and registers arrive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.checks.device_state import check_device_state
from harness.model.wire import WireEnd
from testcases.sealed.conftest import SHARED, Hosts, Moved, expected, held, moved
from testcases.sealed.hosts import KINDS
from testcases.vm.conftest import Lab

pytestmark = pytest.mark.vm


async def judge(moved: Moved, lab: Lab) -> None:
    assert moved.status == "completed", (moved.near.sealing.account().notes, moved.far.relay.account().notes)
    assert moved.near.sealer.refusals == []
    assert moved.far.refusals() == ()
    for side in (moved.near.relay, moved.far.relay):
        account = side.account()
        assert (account.end, account.notes, account.shut_code) == (WireEnd.COMPLETE, (), 0)
    assert np.array_equal(moved.destination.ram.buffer, expected(moved.destination, SHARED))
    came = moved.hosts.destination.came
    assert came is not None
    assert came.shared == SHARED
    sent, again = moved.near.relay.snapshot(), await held(moved, lab)
    assert check_device_state(sent.devices, again.devices) == ()
    assert {name: again.blocks[name] for name in sent.blocks} == sent.blocks


@pytest.mark.parametrize("flavour", list(KINDS))
def test_a_stopped_vm_moves(lab: Lab, qemu: Path, flavour: str) -> None:
    async def story() -> None:
        hosts = Hosts.of(KINDS[flavour], ghcbs={0: 1 << 63 | 0x9000} if flavour == "soft-csv2" else {})
        async with moved(lab, qemu, hosts) as result:
            await judge(result, lab)
            records = result.far.records()
            assert records.starts == 1
            assert records.lists == 1
            assert records.unknown_flags == ()
            kinds = result.far.tap.kinds()
            assert np.array_equal(kinds == 1, hosts.source.is_shared)
            assert np.array_equal(kinds, hosts.destination.kinds)
            assert hosts.destination.taken == hosts.source.ghcbs
            assert sum(hosts.source.commands) == records.pages == sum(hosts.destination.commands)
            assert bool(records.batches) == hosts.source.kind.batches

    lab.play(story())
