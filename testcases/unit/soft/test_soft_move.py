"""A whole move of a guest between two hosts in memory: what it sees afterwards, and what each fault does to it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from harness.confidential.soft.channel.hypercalls import MSR_SEV_STATUS, Operation
from harness.confidential.soft.flavour import FLAVOURS, SOFT_CSV, SOFT_CSV2, SOFT_SEV, Flavour
from harness.confidential.soft.host.outgoing import QemuAbortError
from harness.confidential.soft.host.platform import SoftPlatform
from harness.confidential.soft.options import HostOptions
from harness.confidential.soft.processor.packets import Packet
from harness.confidential.soft.processor.policy import ApiVersion
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus
from harness.confidential.soft.processor.timing import AMD_SINGLE
from harness.model.memory import PAGE_SIZE
from harness.model.page_set import PageSet
from harness.model.protection import SessionCommand
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault

from .conftest import Refuse
from .small_vm import GHCB, PML4, TOTAL_PAGES, SmallVm, expect, launch, pages, platform, span

SHARED = span(100, 108)
DATA = span(100, 130)
BATCH = 256


def carry(source: SmallVm, destination: SmallVm, ram_pages: Iterable[int]) -> None:
    """What the relays do with pages of the stream, once a session is open."""
    wanted = pages(*ram_pages)
    contents = source.memory.ram.reshape(-1, PAGE_SIZE)[wanted.astype(np.int64)]
    for start in range(0, len(wanted), BATCH):
        end = start + BATCH
        carry_contents(source, destination, wanted[start:end], contents[start:end])


def carry_contents(source: SmallVm, destination: SmallVm, batch: np.ndarray, contents: np.ndarray) -> None:
    out, arriving = source.protection, destination.protection
    is_private = out.is_private(batch)
    memory = destination.memory.ram.reshape(-1, PAGE_SIZE)
    if is_private.any():
        private = batch[is_private]
        memory[private.astype(np.int64)] = arriving.open(private, out.seal(private, contents[is_private]))
        arriving.note_kind(private, private=True)
    if not is_private.all():
        shared = batch[~is_private]
        memory[shared.astype(np.int64)] = out.host_view(shared, contents[~is_private])
        arriving.note_kind(shared, private=False)


def begin(source: SmallVm, destination: SmallVm, there: SoftPlatform) -> None:
    destination.protection.receive_start(source.protection.send_start(there.certificates()))


def end(source: SmallVm, destination: SmallVm) -> int:
    carry(source, destination, source.protection.unsure_pages().tolist())
    if (shared := source.protection.shared_list()) is not None:
        destination.protection.take_shared_list(shared)
    for vcpu, value in source.protection.vcpu_records().items():
        destination.protection.take_vcpu_record(vcpu, value)
    assert source.protection.whereabouts
    destination.protection.know(source.protection.whereabouts)
    source.protection.send_finish()
    return destination.protection.receive_finish()


def move(source: SmallVm, there: SoftPlatform) -> tuple[SmallVm, int]:
    destination = expect(there)
    destination.boot_id = source.boot_id
    begin(source, destination, there)
    carry(source, destination, range(TOTAL_PAGES))
    return destination, end(source, destination)


def filled(here: SoftPlatform, policy: tuple[str, ...] = ()) -> SmallVm:
    vm = launch(here, policy=policy)
    if here.flavour.is_es:
        vm.register_ghcb()
        vm.tell(GHCB, 1, private=False)
    for ram_page in DATA.tolist():
        vm.memory.fill(ram_page, ram_page << 32)
    vm.convert(int(SHARED[0]), len(SHARED), private=False)
    for ram_page in SHARED.tolist():
        vm.memory.fill(ram_page, ram_page << 40)
    return vm


def hosts(*faults: SoftFault, flavour: Flavour = SOFT_CSV) -> tuple[SoftPlatform, SoftPlatform]:
    return platform(flavour, *faults), platform(flavour, *faults, name="destination")


def differing(source: SmallVm, destination: SmallVm) -> list[int]:
    found = (source.memory.ram != destination.memory.ram).reshape(-1, PAGE_SIZE).any(axis=1)
    return [int(page) for page in np.flatnonzero(found)]


def names(vm: SmallVm) -> list[str]:
    return [command.name for command in vm.protection.snapshot().commands]


def looks_random(page: bytes) -> bool:
    return len(set(page)) > 250


# Without a fault


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=lambda flavour: flavour.name)
def test_a_guest_arrives_as_it_left(flavour: Flavour) -> None:
    here, there = hosts(flavour=flavour)
    source = filled(here)
    destination, changed = move(source, there)
    assert changed == 0
    assert differing(source, destination) == []
    sent, held = source.protection.snapshot(), destination.protection.snapshot()
    assert held.page_map == held.initial == sent.page_map
    assert (sent.state, held.state) == ("sent", "running")
    assert (sent.pinned_pages, held.pinned_pages) == (0, 0)
    assert destination.protection.received_map()[0] == sent.page_map
    assert destination.protection.received_map()[1].pages == TOTAL_PAGES
    assert destination.protection.blocked_reasons == ()


def test_and_goes_on_to_a_third_host() -> None:
    here, there = hosts()
    source = filled(here)
    second, _ = move(source, there)
    second.convert(200, 4, private=False)
    second.ready()
    third, changed = move(second, platform(name="third"))
    assert (changed, differing(second, third)) == (0, [])
    assert third.protection.snapshot().page_map == second.protection.snapshot().page_map
    assert [len(vm.protection.snapshot().conversions) for vm in (source, second, third)] == [1, 1, 0]
    assert second.protection.snapshot().initial == source.protection.snapshot().page_map


def test_the_trace_of_a_move() -> None:
    here, there = hosts(flavour=SOFT_SEV)
    source = filled(here)
    destination, _ = move(source, there)
    for vm in (source, destination):
        vm.protection.close()
        vm.protection.close()
    start, finish = ["launch-start", "activate", "launch-measure", "launch-finish"], ["deactivate", "decommission"]
    assert names(source) == [*start, "send-start", "send-update-data", "send-finish", *finish]
    receive = ["receive-start", "activate", "receive-update-data", "receive-finish"]
    assert names(destination) == [*receive, *finish]
    private = TOTAL_PAGES - len(SHARED)
    for vm, name in ((source, "send-update-data"), (destination, "receive-update-data")):
        (command,) = [item for item in vm.protection.snapshot().commands if item.name == name]
        assert command == SessionCommand(name=name, count=private)
    assert source.protection.snapshot().state == ""


def test_asids_are_used_again() -> None:
    here = platform()
    free = here.free_asids
    vms = [launch(here, hello=False) for _ in range(8)]
    with pytest.raises(CommandRefusedError, match="RESOURCE_LIMIT"):
        launch(here)
    for vm in vms:
        vm.protection.close()
    assert here.free_asids == free
    launch(here).protection.close()


def test_who_may_run_when() -> None:
    here, there = hosts()
    source, destination = filled(here), expect(there)
    assert source.protection.may_run
    assert not destination.protection.may_run
    begin(source, destination, there)
    assert source.protection.may_run
    assert not destination.protection.may_run
    end(source, destination)
    assert not source.protection.may_run
    destination.protection.run()
    with pytest.raises(CommandRefusedError, match="INVALID_GUEST_STATE"):
        source.protection.run()
    refused = source.protection.snapshot().commands[-1]
    assert (refused.name, refused.status) == ("run", FirmwareStatus.INVALID_GUEST_STATE)


def test_only_the_vcpus_of_an_encrypted_guest_are_launched() -> None:
    assert names(launch(platform(SOFT_CSV2), vcpus=2)).count("launch-update-vmsa") == 2
    assert "launch-update-vmsa" not in names(launch(platform(SOFT_CSV), vcpus=2))


def test_the_image_is_measured() -> None:
    memory = launch(platform()).memory
    here = platform()
    vm = here.launch(
        memory.ram, expect(here).protection.addresses, policy=SOFT_CSV.policy(), vcpus=1, image=b"x" * 5000
    )
    assert SessionCommand(name="launch-update-data", count=2) in vm.snapshot().commands


def test_vmsas_travel() -> None:
    here, there = hosts(flavour=SOFT_CSV2)
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    for vcpu in (0, 1):
        page = bytes([vcpu + 1]) * PAGE_SIZE
        packet = source.protection.seal_vmsa(vcpu, page)
        assert page[:64] not in packet.data
        assert destination.protection.open_vmsa(vcpu, packet) == page
    assert [item.vcpu for item in source.protection.snapshot().commands[-2:]] == [0, 1]


# Guest and host disagree


def test_host_says_shared_and_guest_says_private() -> None:
    """What leaves is ciphertext of the one key, what the guest reads is that under another."""
    here, there = hosts()
    source = filled(here)
    source.tell(120, 2, private=False)
    plain = source.memory.page(120)
    wire = source.protection.host_view(pages(100, 120), source.protection.contents_of(pages(100, 120)))
    assert wire[0].tobytes() == source.memory.page(100)
    assert looks_random(wire[1].tobytes())
    destination, changed = move(source, there)
    assert changed == 2
    assert differing(source, destination) == [120, 121]
    assert looks_random(destination.memory.page(120))
    assert source.memory.page(120) == plain, "the source's guest is not hurt"


def test_host_says_private_and_guest_says_shared() -> None:
    here, there = hosts()
    source = filled(here)
    source.memory.map(120, 122, private=False)
    destination, changed = move(source, there)
    assert changed == 2
    assert differing(source, destination) == [120, 121]
    assert looks_random(destination.memory.page(120))


def test_unmapped_pages_arrive_as_they_are() -> None:
    """Nobody can say how a guest sees a page that it does not map."""
    here, there = hosts()
    source = filled(here)
    source.memory.unmap(100, 102)
    source.memory.unmap(120, 122)
    destination, changed = move(source, there)
    assert (changed, differing(source, destination)) == (0, [])
    assert source.protection.truth(pages(99, 100, 103)).tolist() == [True, True, False]
    found = destination.protection.truth_map()
    assert found
    assert found.unknown == PageSet.of((100, 102), (120, 122))


def test_without_word_from_the_guest_nothing_is_known_to_be_wrong() -> None:
    here, there = hosts()
    source, destination = launch(here, hello=False), expect(there)
    assert source.protection.truth_map() is None
    source.memory.map(50, 60, private=False)
    begin(source, destination, there)
    carry(source, destination, range(TOTAL_PAGES))
    assert len(source.protection.unsure_pages()) == 0
    assert destination.protection.receive_finish() == 0
    assert differing(source, destination) == []


# Memory that is converted while it is on its way


def test_content_from_before_a_conversion_never_goes_out_in_clear() -> None:
    """QEMU read the page when it was private, and the relay has it when it is shared."""
    here, there = hosts()
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    carry(source, destination, range(TOTAL_PAGES))
    read_before = source.protection.contents_of(pages(125))
    source.convert(125, 1, private=False)
    source.memory.fill(125, 99 << 40)
    source.ready()
    wire = source.protection.host_view(pages(125), read_before)
    assert looks_random(wire.tobytes())
    assert source.protection.unsure_pages().tolist() == [125]
    carry_contents(source, destination, pages(125), read_before)
    carry(source, destination, [20])  # the table, which is dirty
    assert (end(source, destination), differing(source, destination)) == (0, [])


def test_shared_pages_may_go_before_the_session_begins() -> None:
    here, there = hosts()
    source, destination = filled(here), expect(there)
    read_before = source.protection.contents_of(SHARED)
    source.memory.fill(int(SHARED[0]), 7)
    carry_contents(source, destination, SHARED, read_before)
    begin(source, destination, there)
    assert source.protection.unsure_pages().tolist() == [int(SHARED[0])]


def test_a_page_that_is_sent_again_is_sure_again() -> None:
    here, there = hosts()
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    read_before = source.protection.contents_of(SHARED)
    for ram_page in SHARED.tolist():
        source.memory.fill(ram_page, 7)
    carry_contents(source, destination, SHARED, read_before)
    assert source.protection.unsure_pages().tolist() == SHARED.tolist()
    carry(source, destination, SHARED[:5].tolist())
    assert source.protection.unsure_pages().tolist() == SHARED[5:].tolist()
    source.protection.send_cancel()
    assert len(source.protection.unsure_pages()) == 0


def test_a_conversion_amid_which_the_guest_stops() -> None:
    """Lines that it has not written since are still what they were in DRAM: ciphertext. The others are its own."""
    here, there = hosts()
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    carry(source, destination, range(TOTAL_PAGES))
    old = source.memory.page(125)
    source.convert(125, 2, private=False)
    source.memory.words[125 * 512 : 125 * 512 + 16] = 7
    wire = source.protection.host_view(pages(125, 126), source.protection.contents_of(pages(125, 126)))
    first = wire[0].tobytes()
    assert first[:128] == source.memory.page(125)[:128]
    assert all(first[at : at + 64] != old[at : at + 64] for at in range(128, PAGE_SIZE, 64))
    assert looks_random(first[128:])
    assert looks_random(wire[1].tobytes())
    carry(source, destination, [20, 125, 126])
    assert end(source, destination) == 0
    assert destination.memory.page(125)[:128] == source.memory.page(125)[:128]


def test_a_page_that_is_converted_and_not_written_goes_once_more() -> None:
    """QEMU does not see it as dirty, but it went as what it is not any more."""
    here, there = hosts()
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    carry(source, destination, range(TOTAL_PAGES))
    assert len(source.protection.unsure_pages()) == 0
    source.convert(102, 2, private=True)
    source.convert(125, 2, private=False)
    assert source.protection.unsure_pages().tolist() == [102, 103, 125, 126]
    carry(source, destination, [20])
    assert end(source, destination) == 0
    assert destination.protection.received_map()[0] == destination.protection.snapshot().page_map
    assert differing(source, destination) == [125, 126], "which nobody wrote since"


def test_a_conversion_is_over_when_the_guest_says_so() -> None:
    source = filled(platform())
    source.convert(125, 1, private=False)
    page = pages(125)
    assert looks_random(source.protection.host_view(page, source.protection.contents_of(page)).tobytes())
    source.note_conversion(step=3)
    assert looks_random(source.protection.host_view(page, source.protection.contents_of(page)).tobytes())
    source.note_conversion(step=0)
    wire = source.protection.host_view(page, source.protection.contents_of(page))
    assert wire.tobytes() == source.memory.page(125)


def test_a_conversion_is_over_when_its_vcpu_asks_for_something_else() -> None:
    source = filled(platform())
    source.convert(125, 1, private=False)
    source.ask(Operation.RDMSR, vcpu=1, rcx=MSR_SEV_STATUS)
    page = pages(125)
    assert looks_random(source.protection.host_view(page, source.protection.contents_of(page)).tobytes())
    source.ask(Operation.RDMSR, vcpu=0, rcx=MSR_SEV_STATUS)
    assert source.protection.host_view(page, source.protection.contents_of(page)).tobytes() == source.memory.page(125)


# Who may be sent where


def test_policies(refuses: Refuse) -> None:
    here, there = hosts()
    stranger = platform(name="stranger", options=HostOptions(owner="another", vendor="other"))
    old = platform(name="old", options=HostOptions(version=ApiVersion(0, 1)))
    vm = launch(here, policy=("nosend",))
    assert vm.protection.forbidden_by == "NOSEND"
    refuses(FirmwareStatus.POLICY_FAILURE, vm.protection.send_start, there.certificates())
    for words in (("domain",), ("sev",)):
        vm = launch(here, policy=words)
        assert vm.protection.forbidden_by == ""
        refuses(FirmwareStatus.POLICY_FAILURE, vm.protection.send_start, stranger.certificates())
        vm.protection.send_start(there.certificates())
    memory = launch(here).memory
    demanding = SOFT_CSV.policy(minimum_api="1.0")
    addresses = expect(here).protection.addresses
    protection = here.launch(memory.ram, addresses, policy=demanding, vcpus=1)
    refuses(FirmwareStatus.POLICY_FAILURE, protection.send_start, old.certificates())
    refuses(FirmwareStatus.POLICY_FAILURE, old.launch, memory.ram, addresses, policy=demanding, vcpus=1)
    refused = protection.snapshot().commands[-1]
    assert (refused.name, refused.status) == ("send-start", FirmwareStatus.POLICY_FAILURE)
    assert "older" in refused.detail


def test_what_comes_out_of_turn_is_refused_and_named(refuses: Refuse) -> None:
    here, there = hosts()
    source, destination = filled(here), expect(there)
    refuses(
        FirmwareStatus.INVALID_GUEST,
        destination.protection.open,
        pages(3),
        [Packet(header=bytes(52), data=bytes(4096))],
    )
    begin(source, destination, there)
    contents = source.protection.contents_of(span(0, 6))
    packets = list(source.protection.seal(span(0, 6), contents))
    cut = Packet(header=packets[3].header, data=packets[3].data[:-1])
    refuses(FirmwareStatus.INVALID_LENGTH, destination.protection.open, span(0, 4), [*packets[:3], cut])
    refuses(FirmwareStatus.BAD_MEASUREMENT, destination.protection.open, pages(3, 9), packets[3:5])
    refuses(FirmwareStatus.SECURE_DATA_INVALID, destination.protection.open, pages(5), packets[5:])
    found = [
        (item.name, item.status, item.count, item.ram_page) for item in destination.protection.snapshot().commands[3:]
    ]
    assert found == [
        ("receive-update-data", 0, 3, None),
        ("receive-update-data", FirmwareStatus.INVALID_LENGTH, 1, 3),
        ("receive-update-data", 0, 1, None),
        ("receive-update-data", FirmwareStatus.BAD_MEASUREMENT, 1, 9),
        ("receive-update-data", FirmwareStatus.SECURE_DATA_INVALID, 1, 5),
    ]


def test_a_cancelled_guest_goes_elsewhere() -> None:
    here, there = hosts()
    source, given_up = filled(here), expect(there)
    source.protection.send_cancel()
    begin(source, given_up, there)
    carry(source, given_up, range(300))
    source.protection.send_cancel()
    source.protection.send_cancel()
    assert source.protection.snapshot().state == "running"
    assert names(source).count("send-cancel") == 1
    assert not source.protection.forgotten(span(0, TOTAL_PAGES)).any()
    given_up.protection.close()
    destination, changed = move(source, platform(name="elsewhere"))
    assert (changed, differing(source, destination)) == (0, [])


# Faults


def test_b29_a_failed_attempt_is_finished() -> None:
    here, there = hosts(SoftFault.FINISH_ON_FAILURE)
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    source.protection.send_cancel()
    assert names(source)[-1] == "send-finish"
    assert not source.protection.may_run


def test_b30_a_length_query_that_failed() -> None:
    here, there = hosts(SoftFault.LENGTH_QUERY_IGNORED)
    source = filled(here)
    with pytest.raises(QemuAbortError):
        source.protection.send_start(there.certificates())
    assert source.protection.may_run
    assert "send-start" not in names(source), "asking for a length is no command that counts"


def test_b31_nosend_means_nothing() -> None:
    here, there = hosts(SoftFault.IGNORES_NOSEND)
    source = filled(here, ("nosend",))
    assert source.protection.forbidden_by == "NOSEND"
    _, changed = move(source, there)
    assert changed == 0


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (SoftFault.WRONG_CERTIFICATE, FirmwareStatus.BAD_SIGNATURE),
        (SoftFault.CERTIFICATE_AS_FILE_NAME, FirmwareStatus.INVALID_CERTIFICATE),
    ],
)
def test_b31_b48_certificates_that_are_none(fault: SoftFault, status: FirmwareStatus, refuses: Refuse) -> None:
    here, there = hosts(fault)
    source = filled(here)
    refuses(status, source.protection.send_start, there.certificates())
    assert source.protection.may_run
    assert source.protection.snapshot().commands[-1].status == status


def test_b37_a_guest_that_was_sent_runs_again() -> None:
    here, there = hosts(SoftFault.SENT_RUNS_AGAIN)
    source = filled(here)
    move(source, there)
    source.protection.run()
    assert source.protection.snapshot().state == "running"
    assert names(source)[-2:] == ["send-finish", "run"]


def test_b45_what_was_written_after_it_was_sent_is_forgotten() -> None:
    here, there = hosts(SoftFault.DIRTY_FORGOTTEN)
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    carry(source, destination, [*range(300), *range(110, 120), 112])
    assert not source.protection.forgotten(span(0, 300)).any()
    source.protection.send_cancel()
    assert np.flatnonzero(source.protection.forgotten(span(0, 115))).tolist() == list(range(110, 115))
    assert np.flatnonzero(source.protection.forgotten(span(0, TOTAL_PAGES))).tolist() == list(range(115, 120))
    assert not source.protection.forgotten(span(0, TOTAL_PAGES)).any()


def test_b45_all_that_was_sent_is_forgotten_when_nothing_was_sent_again() -> None:
    here, there = hosts(SoftFault.DIRTY_FORGOTTEN)
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    carry(source, destination, range(100))
    source.protection.send_cancel()
    assert np.flatnonzero(source.protection.forgotten(span(0, TOTAL_PAGES))).tolist() == list(range(100))


@pytest.mark.parametrize(("faults", "left"), [((), 0), ((SoftFault.PINS_LEAKED,), 20)])
def test_b33_pins_of_a_cancelled_batch(faults: tuple[SoftFault, ...], left: int) -> None:
    here, there = hosts(*faults)
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    carry(source, destination, range(40))
    carry(source, destination, range(20))
    assert source.protection.snapshot().pinned_pages == 0
    source.protection.send_cancel()
    assert source.protection.snapshot().pinned_pages == left


def test_b33_pins_of_a_batch_that_was_refused(refuses: Refuse) -> None:
    for faults, left in (((), 0), ((SoftFault.PINS_LEAKED,), 2)):
        here, there = hosts(*faults)
        source, destination = filled(here), expect(there)
        begin(source, destination, there)
        packets = source.protection.seal(span(0, 2), source.protection.contents_of(span(0, 2)))
        refuses(FirmwareStatus.BAD_MEASUREMENT, destination.protection.open, span(1, 3), packets)
        assert destination.protection.snapshot().pinned_pages == left


def test_b33_pins_that_leaked_are_not_seen_after_a_move() -> None:
    """The bug is in giving up, not in moving."""
    here, there = hosts(SoftFault.PINS_LEAKED)
    source = filled(here)
    destination, _ = move(source, there)
    assert source.protection.snapshot().pinned_pages == destination.protection.snapshot().pinned_pages == 0


def test_b34_as_slow_as_silicon() -> None:
    assert filled(platform(SOFT_CSV)).protection.pace_s(400) == 0
    slow = filled(platform(SOFT_CSV, SoftFault.SLOW)).protection
    assert slow.pace_s(400) == pytest.approx(1.0)
    for flavour, seconds in ((SOFT_SEV, AMD_SINGLE.single_s(400)), (SOFT_CSV, AMD_SINGLE.batched_s(400))):
        host = SoftPlatform(flavour, seed=Seed(1), speed=AMD_SINGLE)
        assert launch(host).protection.pace_s(400) == pytest.approx(seconds)


def received_twice(*faults: SoftFault) -> tuple[SmallVm, SmallVm]:
    here, there = hosts(*faults)
    source, destination = filled(here), expect(there)
    begin(source, destination, there)
    carry(source, destination, range(TOTAL_PAGES))
    for ram_page in range(300, 1000):
        source.memory.fill(ram_page, ram_page << 20)
    carry(source, destination, range(300, 1000))
    end(source, destination)
    return source, destination


def test_b23_lines_of_what_was_there_before() -> None:
    source, destination = received_twice(SoftFault.RECEIVE_WITHOUT_FLUSH)
    hurt = differing(source, destination)
    assert 5 <= len(hurt) <= 64
    assert 300 <= hurt[0] <= hurt[-1] < 1000
    differs = (source.memory.ram != destination.memory.ram).reshape(-1, 64).any(axis=1)
    lines = np.flatnonzero(differs)
    assert len(lines) == len(hurt), "a line of each"
    assert not destination.memory.ram.reshape(-1, 64)[lines].any(), "which held zeros"
    again = received_twice(SoftFault.RECEIVE_WITHOUT_FLUSH)
    assert differing(*again) == hurt, "the same with the same seed"
    assert differing(*received_twice()) == []


def test_b23_in_a_single_pass() -> None:
    here, there = hosts(SoftFault.RECEIVE_WITHOUT_FLUSH)
    source = filled(here)
    for ram_page in range(300, TOTAL_PAGES):
        source.memory.fill(ram_page, ram_page << 20)
    destination, _ = move(source, there)
    assert 1 <= len(differing(source, destination)) <= 8


def test_the_root_is_where_the_guest_said() -> None:
    source = filled(platform())
    assert source.protection.whereabouts
    assert source.protection.whereabouts.tables_gpa == PML4 << 12
