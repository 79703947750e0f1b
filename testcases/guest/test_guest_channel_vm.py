"""The command channel of a real guest: garbage, halves, repeats, and a guest that moves with a request in flight."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from typing import Any

import pytest

from harness.guest.frames import Frame, FrameReader, Kind
from harness.guest.probe import Probe
from harness.guest.protocol import Command
from harness.model.guest import GuestMemory, Heartbeat, Workload
from harness.model.machine import Arch

pytestmark = pytest.mark.vm
ARCHES = tuple(Arch)
SEED = 0x0123456789ABCDEF
FAST = {"max-bandwidth": 10 << 30, "downtime-limit": 2000}


def request(command: Command, seq: int, payload: bytes = b"") -> Frame:
    return Frame(kind=Kind.REQUEST, code=command, seq=seq, payload=payload)


async def replies(streams: Any, wire: bytes, last_seq: int) -> list[Frame]:
    """Everything that the guest says until it has answered *last_seq*."""
    reader, writer = streams
    writer.write(wire)
    frames = FrameReader()
    found: list[Frame] = []
    while last_seq not in [frame.seq for frame in found]:
        found += frames.feed(await reader.read(4096))
    # On a busy machine the probe's client has asked DESCRIBE twice; the second answer is nobody's.
    return [frame for frame in found if frame.kind is not Kind.EVENT and frame.code != Command.DESCRIBE]


def test_the_guest_finds_requests_among_garbage_and_halves(lab: Any) -> None:
    async def story() -> None:
        rng = random.Random(5)
        async with lab.vm() as vm:
            probe = Probe(*vm.channel)
            await probe.ready(deadline=lab.deadline)
            await probe.close()
            for seq in range(1, 30):
                good = request(Command.HEARTBEAT, seq, bytes(4)).encode()
                broken = bytearray(good)
                broken[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
                junk = rng.choice([rng.randbytes(rng.randrange(60)), good[: rng.randrange(len(good))], bytes(broken)])
                seen = await replies(vm.channel, junk + good, seq)
                assert [frame.kind for frame in seen if frame.seq == seq] == [Kind.REPLY]

    lab.play(story())


def test_a_repeat_is_answered_again_and_not_executed_again(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(memory_mib=64) as (vm, probe, guest):
            await probe.close()
            fill = request(Command.FILL, 100, struct.pack("<Q", SEED)).encode()
            (first,) = await replies(vm.channel, fill, 100)
            gpa = guest.page_gpa(3)
            write = request(Command.WRITE, 101, struct.pack("<Q", gpa) + b"spoiled").encode()
            await replies(vm.channel, write, 101)
            read = request(Command.READ, 102, struct.pack("<QI", gpa, 7)).encode()
            (spoiled,) = await replies(vm.channel, read, 102)
            again = await replies(vm.channel, read + request(Command.CLOCK, 103).encode(), 103)
            assert spoiled.payload == b"spoiled"
            assert [frame for frame in again if frame.seq == 102] == [spoiled]
            # A new seq is executed: the fill writes the page anew. The ticks in the reply differ from the first run's.
            (second,) = await replies(vm.channel, request(Command.FILL, 104, struct.pack("<Q", SEED)).encode(), 104)
            assert second.payload[:8] == first.payload[:8]
            (third,) = await replies(vm.channel, request(Command.FILL, 104, struct.pack("<Q", SEED)).encode(), 104)
            assert third == second

    lab.play(story())


def test_a_repeat_during_execution_is_answered_once(lab: Any) -> None:
    async def story() -> None:
        async with lab.guest(memory_mib=128) as (vm, probe, _):
            await probe.close()
            fill = request(Command.FILL, 200, struct.pack("<Q", SEED)).encode()
            other = request(Command.CLOCK, 201).encode()
            await vm.monitor.execute("stop")
            # Both repeats are in the guest before the fill, the first one, can be done.
            seen = asyncio.create_task(replies(vm.channel, fill + fill + fill, 200))
            await vm.monitor.execute("cont")
            first = await seen
            rest = await replies(vm.channel, other, 201)
            answers = [frame for frame in first + rest if frame.seq == 200]
            # A repeat that was read only after the end gets the same reply once more; none is executed twice.
            assert len({frame.payload for frame in answers}) == 1

    lab.play(story())


async def migrate(source: Any, destination: Any, socket_path: str) -> None:
    for vm in (source, destination):
        await vm.monitor.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    await source.monitor.execute("migrate-set-parameters", **FAST)
    await destination.monitor.execute("migrate-incoming", uri=f"unix:{socket_path}")
    await source.monitor.execute("migrate", uri=f"unix:{socket_path}")


async def keep_asking(probe: Probe, deadline: Any, beats: list[Heartbeat]) -> None:
    """There is a request in flight at every moment."""
    while True:
        beats.append(await probe.heartbeat(deadline=deadline))


async def keep_verifying(probe: Probe, deadline: Any, reports: list[GuestMemory]) -> None:
    """Nearly always a request is being executed on all vCPUs."""
    while True:
        reports.append(await probe.verify(deadline=deadline))


async def go_on(task: asyncio.Task[None], results: list[Any], more: int) -> None:
    """Let *task* collect *more* results, then end it. What it raised is raised here."""
    enough = len(results) + more
    while len(results) < enough and not task.done():
        await asyncio.wait({task}, timeout=0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("vcpus", [1, 4])
def test_a_full_speed_writer_moves_with_requests_in_flight(lab: Any, vcpus: int) -> None:
    async def story() -> None:
        deadline = lab.deadline
        async with (
            lab.guest(vcpus=vcpus) as (source, probe, guest),
            lab.vm("-incoming", "defer", vcpus=vcpus) as destination,
        ):
            await probe.fill(SEED, deadline=deadline)
            await probe.start(Workload.FULL, pages=4000, deadline=deadline)
            beats: list[Heartbeat] = []
            asking = asyncio.create_task(keep_asking(probe, deadline, beats))
            await migrate(source, destination, str(lab.folder / "move"))
            await source.monitor.wait("STOP")
            probe.attach(*destination.channel)
            await destination.monitor.wait("RESUME")
            await go_on(asking, beats, 20)
            assert {beat.boot_id for beat in beats} == {guest.boot_id}
            work = await probe.stop(deadline=deadline)
            report = await probe.verify(deadline=deadline)
            assert report.is_clean
            assert report.pages_checked == guest.managed_pages
            assert report.written_sum == guest.managed_pages + work.pages_written
            assert all(vcpu.pages_written for vcpu in work.vcpus)
            final = await probe.heartbeat(deadline=deadline)
            assert [vcpu.backward_tsc for vcpu in final.vcpus] == [0] * vcpus

    lab.play(story())


def test_a_verification_moves_in_the_midst(lab: Any) -> None:
    async def story() -> None:
        deadline = lab.deadline
        async with (
            lab.guest(vcpus=2) as (source, probe, guest),
            lab.vm("-incoming", "defer", vcpus=2) as destination,
        ):
            await probe.fill(SEED, deadline=deadline)
            reports: list[GuestMemory] = []
            verifying = asyncio.create_task(keep_verifying(probe, deadline, reports))
            await migrate(source, destination, str(lab.folder / "move"))
            await source.monitor.wait("STOP")
            probe.attach(*destination.channel)
            await destination.monitor.wait("RESUME")
            await go_on(verifying, reports, 2)
            assert all(report.is_clean for report in reports)
            assert {report.pages_checked for report in reports} == {guest.managed_pages}

    lab.play(story())


def test_a_request_that_only_half_reached_the_guest_moves_too(lab: Any) -> None:
    async def story() -> None:
        deadline = lab.deadline
        async with (
            lab.guest(vcpus=2) as (source, probe, guest),
            lab.vm("-incoming", "defer", vcpus=2) as destination,
        ):
            await probe.fill(SEED, deadline=deadline)
            await source.monitor.execute("stop")
            # A stopped guest drains nothing: its UART takes the first bytes, QEMU's backlog the rest.
            asked = asyncio.create_task(probe.start(Workload.FULL, pages=50, deadline=deadline))
            await source.monitor.execute("query-status")
            await migrate(source, destination, str(lab.folder / "move"))
            await source.monitor.wait("MIGRATION completed")
            # "cont" before this is lost: a guest that was paused at the source is paused again at the end of the load.
            await destination.monitor.wait("MIGRATION completed")
            assert not asked.done()
            probe.attach(*destination.channel)
            await destination.monitor.execute("cont")
            await asked
            work = await probe.stop(deadline=deadline)
            report = await probe.verify(deadline=deadline)
            assert report.is_clean
            assert report.written_sum == guest.managed_pages + work.pages_written

    lab.play(story())
