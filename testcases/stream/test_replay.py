"""Captured streams loaded again, without their source: what a move found is found once more."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from harness.cases.ask import Words, requests_of
from harness.cases.replay_request import request_of
from harness.cases.session import run_requests
from harness.checks.ends import check_ends
from harness.guest.image import probe_image
from harness.guest.probe import Probe
from harness.guest.resident import find_probe
from harness.migration import replay as feeder
from harness.model.deadline import Deadline
from harness.model.errors import UsageError
from harness.model.guest import RamLayout
from harness.model.machine import MachineSpec
from harness.model.result import CaseResult
from harness.model.verdict import Verdict
from harness.report.store import Run
from testcases.stream.conftest import Lab, capture, run_guest, spec
from testcases.vm.conftest import QEMUS, named_processes, qemu_label

pytestmark = pytest.mark.vm

MEMORY_MIB = 64


def play(folder: Path, case: str, *faults: str, qemu: Path | None = None, **settings: Any) -> CaseResult:
    """Run *case* and keep its stream."""
    sets = {"memory_mib": MEMORY_MIB, "record": "true", **settings}
    words = Words(
        sets=tuple(f"{name}={value}" for name, value in sets.items()),
        accel="tcg",
        qemu=qemu,
        seed="5",
        faults=faults,
        keep="always",
    )
    (result,) = run_requests(requests_of([case], words), Run.create(folder))
    return result


def stream_of(result: CaseResult) -> Path:
    return Path(result.run_dir) / "stream.bin"


def load_again(file: Path, folder: Path, **words: Any) -> CaseResult:
    (result,) = run_requests(
        [request_of(file, Words(**{"accel": "tcg", "keep": "never", **words}))], Run.create(folder)
    )
    return result


def kinds(result: CaseResult) -> set[tuple[str, str]]:
    return {(finding.check, finding.kind) for finding in result.findings}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """A stream of a clean move by each QEMU of this machine."""
    sets = {"trim_kib": spec().trim_kib}
    results = {qemu: play(tmp_path_factory.mktemp("clean"), "memory/precopy", qemu=qemu, **sets) for qemu in QEMUS}
    assert all(result.verdict is Verdict.PASS for result in results.values()), results
    return {qemu: stream_of(result) for qemu, result in results.items()}


@pytest.mark.parametrize("loader", QEMUS, ids=qemu_label)
@pytest.mark.parametrize("writer", QEMUS, ids=qemu_label)
def test_a_clean_capture_passes_in_every_version(
    clean: dict[Path, Path], writer: Path, loader: Path, tmp_path: Path
) -> None:
    result = load_again(clean[writer], tmp_path, qemu=loader)
    assert result.verdict is Verdict.PASS, result.reason
    assert {"migration/ends", "memory/host", "state/devices", "guest/same-boot", "memory/guest"} <= set(result.checks)
    assert (Path(result.run_dir) / "report.html").is_file()


def test_a_capture_that_has_left_its_folder_tells_its_own_seed(clean: dict[Path, Path], tmp_path: Path) -> None:
    lonely = tmp_path / "lonely.bin"
    lonely.hardlink_to(clean[QEMUS[0]])
    assert load_again(lonely, tmp_path).verdict is Verdict.PASS
    assert load_again(lonely, tmp_path, seed="5").verdict is Verdict.PASS


def test_another_seed_is_our_error_not_the_product_s(clean: dict[Path, Path], tmp_path: Path) -> None:
    result = load_again(clean[QEMUS[0]], tmp_path, seed="6")
    assert result.verdict is Verdict.ERROR
    assert "pattern seed" in result.reason


FAULTS = {
    "wire-flip-bit": ("memory/host", "bit"),
    "wire-swap-pages": ("memory/host", "swapped"),
    "wire-zero-page": ("memory/host", "zeroed"),
    "wire-random-page": ("memory/host", "random"),
    "wire-corrupt-device": ("state/devices", "changed"),
    "wire-truncate": ("migration/ends", "not-loaded"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_wire_is_found_again(fault: str, tmp_path: Path) -> None:
    first = play(tmp_path, "memory/precopy", fault)
    assert first.verdict is Verdict.FAIL
    assert FAULTS[fault] in kinds(first)
    result = load_again(stream_of(first), tmp_path)
    assert result.verdict is Verdict.FAIL
    assert FAULTS[fault] in kinds(result)


def test_registers_are_judged_again(tmp_path: Path) -> None:
    first = play(tmp_path, "cpu/state")
    result = load_again(stream_of(first), tmp_path)
    assert result.verdict is Verdict.PASS, result.reason
    assert "cpu/registers" in result.checks
    assert "had not been filled" in result.reason


@pytest.mark.parametrize(
    "setting", [{"capabilities.xbzrle": "true", "workload": "hot-set"}, {"capabilities.postcopy-ram": "true"}]
)
def test_the_stream_tells_what_the_destination_needs(setting: dict[str, str], tmp_path: Path) -> None:
    result = load_again(stream_of(play(tmp_path, "memory/precopy", **setting)), tmp_path)
    assert result.verdict is Verdict.PASS, result.reason


def test_a_kept_copy_makes_the_run_its_own_source(clean: dict[Path, Path], tmp_path: Path) -> None:
    result = load_again(clean[QEMUS[0]], tmp_path, keep="always")
    assert stream_of(result).stat().st_size == clean[QEMUS[0]].stat().st_size


@pytest.mark.parametrize("qemu", QEMUS, ids=qemu_label)
def test_a_stream_cut_short_is_refused_in_qemu_s_words(clean: dict[Path, Path], qemu: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.bin"
    short.write_bytes(clean[qemu].read_bytes()[: 20 << 20])
    result = load_again(short, tmp_path, qemu=qemu)
    assert (result.verdict, kinds(result)) == (Verdict.FAIL, {("migration/ends", "not-loaded")})
    assert "load of migration failed" in result.reason


def test_a_stream_with_damaged_devices_is_refused(clean: dict[Path, Path], tmp_path: Path) -> None:
    data = bytearray(clean[QEMUS[0]].read_bytes())
    data[data.rindex(b"\x04apic\x00\x00\x00\x00") + 1] ^= 0x20
    broken = tmp_path / "broken.bin"
    broken.write_bytes(data)
    result = load_again(broken, tmp_path)
    assert (result.verdict, kinds(result)) == (Verdict.FAIL, {("migration/ends", "not-loaded")})
    assert "apic" in result.reason.lower()


def test_a_guest_that_is_not_the_probe_is_loaded_and_not_run(
    lab: Lab, qemu: Path, dirty_guest: str, tmp_path: Path
) -> None:
    file = tmp_path / "foreign.bin"

    async def story() -> None:
        async with lab.vm(qemu, spec(dirty_guest)) as vm:
            await run_guest(vm, lab)
            file.write_bytes(await capture(vm, lab))

    lab.play(story())
    result = load_again(file, tmp_path, qemu=qemu)
    assert result.verdict is Verdict.PASS, result.reason
    assert "no probe was found" in result.reason
    assert "memory/guest" not in result.checks


def test_a_machine_that_the_harness_does_not_build_is_unsupported(lab: Lab, dirty_guest: str, tmp_path: Path) -> None:
    file = tmp_path / "foreign.bin"

    async def story() -> None:
        async with lab.vm(QEMUS[0], spec(dirty_guest, devices=("virtio-rng-pci",))) as vm:
            await run_guest(vm, lab)
            file.write_bytes(await capture(vm, lab))

    lab.play(story())
    result = load_again(file, tmp_path)
    assert result.verdict is Verdict.UNSUPPORTED, result.reason
    assert "virtio-rng" in result.reason


@pytest.mark.parametrize(
    "content", [b"", b"just some text\n" * 9, bytes(range(256)) * 64], ids=["empty", "text", "noise"]
)
def test_what_is_no_stream_is_a_usage_error(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(UsageError):
        request_of(file, Words())


def half_fed(after: Callable[[], None] | None = None) -> Any:
    """A feeder that stops half-way and keeps the connection open."""

    async def send(connection: socket.socket, file: BinaryIO, feed: Any) -> None:
        await asyncio.get_running_loop().sock_sendall(connection, file.read(8 << 20))
        feed.sent_bytes = 8 << 20
        if after:
            after()
        await asyncio.Event().wait()

    return send


@pytest.mark.parametrize(("stall_s", "is_stall"), [(0.0, True), (1e9, False)], ids=["hangs", "is slow"])
def test_a_destination_that_does_not_end_is_told(
    clean: dict[Path, Path], stall_s: float, is_stall: bool, tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder, "_send", half_fed())
    monkeypatch.setattr(feeder, "_STALL_S", stall_s)

    async def story() -> None:
        async with lab.vm(QEMUS[0], spec(), role="dst", incoming=True) as vm:
            loaded = await feeder.load_file(
                vm, clean[QEMUS[0]], tmp_path / "s", capabilities={}, deadline=Deadline.after(2.0)
            )
            assert (loaded.end.stalled_s > 0, bool(loaded.too_slow)) == (is_stall, not is_stall)

    lab.play(story())


def test_a_destination_that_dies_is_lost(
    clean: dict[Path, Path], qemu: Path, tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with lab.vm(qemu, spec(), role="dst", incoming=True) as vm:
            monkeypatch.setattr(feeder, "_send", half_fed(vm._process.kill))
            loaded = await feeder.load_file(vm, clean[qemu], tmp_path / "s", capabilities={}, deadline=lab.deadline)
            assert loaded.end.destination.status == "lost"
            assert "SIGKILL" in loaded.end.destination.exit
            (finding,) = check_ends(loaded.end)
            assert finding.verdict is Verdict.LOST

    lab.play(story())


@pytest.mark.parametrize(("memory_mib", "vcpus"), [(64, 1), (200, 3), (2816, 1), (5120, 2)])
def test_the_probe_is_found_as_it_describes_itself(lab: Lab, qemu: Path, memory_mib: int, vcpus: int) -> None:
    async def story() -> None:
        machine = MachineSpec(memory_mib=memory_mib, trim_kib=64, vcpus=vcpus, kernel=str(probe_image()))
        async with lab.vm(qemu, machine) as vm:
            await vm.qmp.execute("cont", deadline=lab.deadline)
            probe = Probe(*vm.channel)
            await vm.guarded(probe.ready(deadline=lab.deadline), lab.deadline, what="the probe to boot")
            told = await probe.describe(deadline=lab.deadline)
            layout = RamLayout.q35(vm.ram.size_bytes)
            found = find_probe(vm.ram.view, vm.ram.data_extents(), layout)
            assert found is not None
            assert found.description.managed == told.managed
            names = ("heartbeat_gpa", "ledger_gpa", "boot_id", "boot_count", "vcpus", "arch", "managed_pages")
            for name in names:
                assert getattr(found.description, name) == getattr(told, name)
            await probe.close()

    lab.play(story())


def test_nothing_is_left_behind(clean: dict[Path, Path], tmp_path: Path) -> None:
    result = load_again(clean[QEMUS[0]], tmp_path)
    command = (Path(result.run_dir) / "dst.command.txt").read_text()
    name = re.search(r"guest=(cvmig-[\w-]+)", command)
    assert name
    assert named_processes(name[1]) == []


def test_a_guest_that_was_rebooted_brings_its_devices_and_its_last_pattern(tmp_path: Path) -> None:
    result = play(tmp_path / "first", "reboot/then-migrate", times=1, ways="cf9,watchdog,panic")
    assert result.verdict is Verdict.PASS, result.reason
    again = load_again(stream_of(result), tmp_path / "again")
    assert again.verdict is Verdict.PASS, again.reason
    assert {"memory/host", "memory/guest", "state/devices"} <= set(again.checks)
