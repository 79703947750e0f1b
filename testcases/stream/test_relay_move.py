"""The relay between real QEMUs under load: a clean move is silent, and each wire fault does exactly what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from harness.checks.device_state import check_device_state
from harness.migration.relay.faults import CATALOGUE
from harness.migration.stream.snapshot import Snapshot
from harness.model.wire import TABLE_FAULTS, WireEnd, WireFault
from harness.model.wire import WireFaultName as Name
from harness.vm.vm import Vm
from testcases.stream.conftest import HOT, PASSES, Move, capture, command, move, run_guest, spec
from testcases.vm.conftest import QEMUS, Lab

pytestmark = pytest.mark.vm

PAGE_FAULTS = [name for name, entry in CATALOGUE.items() if entry.is_page_fault and name not in TABLE_FAULTS]
TARGETS = tuple(HOT)


def play(
    lab: Lab,
    qemu: Path,
    kernel: str,
    faults: tuple[WireFault, ...],
    judge: Callable[[Move], Awaitable[None]],
    extra: tuple[str, ...] = (),
) -> None:
    """Move a guest that dirties memory from *qemu* to the first QEMU of the machine, and judge."""

    async def story() -> None:
        ours = spec(kernel)
        async with lab.vm(qemu, ours) as source, lab.vm(QEMUS[0], ours, role="dst", incoming=True) as destination:
            await run_guest(source, lab)
            await judge(await move(source, destination, lab, faults, extra=extra))

    lab.play(story())


@pytest.mark.parametrize("extra", [(), ("xbzrle",)], ids=["plain", "xbzrle"])
def test_clean_move_is_silent(lab: Lab, qemu: Path, dirty_guest: str, extra: tuple[str, ...]) -> None:
    async def judge(moved: Move) -> None:
        assert moved.status == "completed"
        assert moved.differing == []
        account = moved.account
        assert (account.end, account.shut_code, account.notes) == (WireEnd.COMPLETE, 0, ())
        assert account.return_messages[0].startswith("PONG")
        assert account.passes >= PASSES
        assert account.pages_resent >= len(HOT)
        biggest = max(account.blocks, key=lambda block: block.pages)
        counts = moved.relay.page_counts(biggest.name)
        assert int((counts > 1).sum()) == biggest.pages_resent
        assert account.records_per_pass[0] == sum(block.pages for block in account.blocks)
        sent, held = moved.relay.snapshot(), Snapshot.of(await capture(moved.destination, lab))
        assert check_device_state(sent.devices, held.devices) == ()
        assert len(sent.devices.devices) > 20
        assert {name: held.blocks[name] for name in sent.blocks} == sent.blocks

    play(lab, qemu, dirty_guest, (), judge, extra)


@pytest.mark.parametrize("name", PAGE_FAULTS)
def test_page_fault_damages_its_page_and_no_other(lab: Lab, dirty_guest: str, name: Name) -> None:
    async def judge(moved: Move) -> None:
        assert moved.status == "completed"
        assert all(fault.times > 0 and fault.is_harmful for fault in moved.account.faults)
        assert moved.differing == sorted(fault.ram_addr for fault in moved.account.faults if fault.ram_addr is not None)
        assert len(moved.differing) == (2 if name == Name.SWAP_PAGES else 1)

    play(lab, QEMUS[0], dirty_guest, (WireFault(name=name, targets=TARGETS),), judge)


@pytest.mark.parametrize("name", [Name.STALE_PAGE, Name.FLIP_BIT])
def test_page_fault_acts_on_deltas_and_chooses_its_page(lab: Lab, qemu: Path, dirty_guest: str, name: Name) -> None:
    async def judge(moved: Move) -> None:
        (fault,) = moved.account.faults
        assert fault.is_harmful
        assert moved.differing == [fault.ram_addr]

    play(lab, qemu, dirty_guest, (WireFault(name=name),), judge, ("xbzrle",))


def test_corrupt_device_is_found_by_the_device_check(lab: Lab, qemu: Path, dirty_guest: str) -> None:
    async def judge(moved: Move) -> None:
        (fault,) = moved.account.faults
        assert fault.times == 1
        held = Snapshot.of(await capture(moved.destination, lab))
        (finding,) = check_device_state(moved.relay.snapshot().devices, held.devices)
        assert finding.where == fault.detail

    fault = WireFault(name=Name.CORRUPT_DEVICE, device="cpu/0", field="env.regs[[]*[]]")
    play(lab, qemu, dirty_guest, (fault,), judge)


@pytest.mark.parametrize("name", [Name.TRUNCATE, Name.CUT, Name.CORRUPT_HEADER])
def test_broken_wire_fails_the_migration_and_the_source_runs_on(lab: Lab, dirty_guest: str, name: Name) -> None:
    async def judge(moved: Move) -> None:
        assert moved.status == "failed"
        assert moved.account.faults[0].times == 1
        status = await command(moved.source, lab, "query-status")
        assert status["status"] == "running"

    play(lab, QEMUS[0], dirty_guest, (WireFault(name=name),), judge)


def test_stalled_wire_leaves_a_source_that_can_be_cancelled(lab: Lab, dirty_guest: str) -> None:
    async def story() -> None:
        ours = spec(dirty_guest)
        async with lab.vm(QEMUS[0], ours) as source, lab.vm(QEMUS[0], ours, role="dst", incoming=True) as destination:
            await run_guest(source, lab)
            moving = asyncio.create_task(move(source, destination, lab, (WireFault(name=Name.STALL, at_fraction=0.3),)))
            await stalled(source, lab)
            await command(source, lab, "migrate_cancel")
            moved = await moving
            # QEMU 7.2 shuts the return path before it notes that it cancels; when the migration thread sees that first,
            # it says failed (migrate_fd_cancel).
            assert moved.status in {"cancelled", "failed"}
            assert moved.account.end in {WireEnd.FAULT, WireEnd.ABORTED}
            assert (await command(source, lab, "query-status"))["status"] == "running"

    lab.play(story())


async def stalled(source: Vm, lab: Lab) -> None:
    """Nothing more is transferred for a while, though there is more to send."""
    last, quiet = -1, 0
    while quiet < 50:
        reply = await command(source, lab, "query-migrate")
        now = reply.get("ram", {}).get("transferred", 0)
        quiet = quiet + 1 if now == last and now else 0
        last = now
        await asyncio.sleep(0.01)
