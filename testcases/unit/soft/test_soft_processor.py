"""ASIDs, policies, certificates, sessions and a whole move between two processors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.confidential.soft.processor.certificates import Usage, pack_chain, unpack_chain
from harness.confidential.soft.processor.packets import PacketKind
from harness.confidential.soft.processor.policy import ApiVersion, Policy, PolicyFlag
from harness.confidential.soft.processor.session import SESSION_BYTES
from harness.confidential.soft.processor.states import GuestState
from harness.confidential.soft.processor.status import FirmwareStatus

from .conftest import ES, PAGE, VMSA, Refuse, World

PLAIN = Policy(0)


def test_a_guest_moves_and_comes_back(world: World) -> None:
    one, other = world.platform(), world.platform()
    handle = world.running(one)
    for source, destination in ((one, other), (other, one)):
        arriving = destination.receive_start(source.send_start(handle, destination.export_certificates()))
        destination.activate(arriving, 2)
        pages = {page: bytes([page % 251]) * 4096 for page in (7, 0, 1 << 40)}
        for page, content in pages.items():
            packet = source.send_update_data(handle, page, content)
            assert content[:64] not in packet.data
            assert destination.receive_update_data(arriving, page, packet) == content
        packet = source.send_update_vmsa(handle, 3, VMSA)
        assert destination.receive_update_vmsa(arriving, 3, packet) == VMSA
        source.send_finish(handle)
        destination.receive_finish(arriving)
        assert source.guest_status(handle).state == GuestState.SENT
        assert destination.guest_status(arriving).state == GuestState.RUNNING
        source.deactivate(handle)
        source.decommission(handle)
        handle = arriving


def test_after_a_cancel_the_guest_runs_and_can_be_sent_elsewhere(world: World, refuses: Refuse) -> None:
    source, first, second = world.platform(), world.platform(), world.platform()
    handle = world.running(source)
    given_up = first.receive_start(source.send_start(handle, first.export_certificates()))
    first.activate(given_up, 1)
    late = source.send_update_data(handle, 1, PAGE)
    source.send_cancel(handle)
    arriving = second.receive_start(source.send_start(handle, second.export_certificates()))
    second.activate(arriving, 1)
    refuses(FirmwareStatus.BAD_MEASUREMENT, second.receive_update_data, arriving, 1, late)
    assert second.receive_update_data(arriving, 1, source.send_update_data(handle, 1, PAGE)) == PAGE
    first.deactivate(given_up)
    first.decommission(given_up)


def test_an_asid_is_only_used_again_after_wbinvd_on_all_cores_and_df_flush(world: World, refuses: Refuse) -> None:
    here = world.platform(cores=2)
    first, second = world.running(here, asid=1), here.launch_start(ES)
    refuses(FirmwareStatus.ASID_OWNED, here.activate, second, 1)
    refuses(FirmwareStatus.ACTIVE, here.activate, first, 2)
    refuses(FirmwareStatus.ACTIVE, here.decommission, first)
    here.deactivate(first)
    here.decommission(first)
    refuses(FirmwareStatus.DF_FLUSH_REQUIRED, here.activate, second, 1)
    refuses(FirmwareStatus.WBINVD_REQUIRED, here.df_flush)
    here.wbinvd(0)
    assert "cores 1 " in refuses(FirmwareStatus.WBINVD_REQUIRED, here.df_flush).reason
    here.wbinvd(1)
    refuses(FirmwareStatus.DF_FLUSH_REQUIRED, here.activate, second, 1)
    here.df_flush()
    here.activate(second, 1)
    assert here.guest_status(second).asid == 1


def test_a_wbinvd_before_the_release_does_not_count(world: World, refuses: Refuse) -> None:
    here = world.platform(cores=1)
    handle = world.running(here)
    here.wbinvd(0)
    here.df_flush()
    here.deactivate(handle)
    refuses(FirmwareStatus.WBINVD_REQUIRED, here.df_flush)


@pytest.mark.parametrize(
    ("policy", "asid", "is_allowed"),
    [
        (ES, 0, False),
        (ES, 1, True),
        (ES, 4, True),
        (ES, 5, False),
        (PLAIN, 4, False),
        (PLAIN, 5, True),
        (PLAIN, 9, False),
    ],
)
def test_asids_are_split_between_es_and_plain_guests(
    world: World, refuses: Refuse, policy: Policy, asid: int, is_allowed: bool
) -> None:
    here = world.platform()
    handle = here.launch_start(policy)
    if is_allowed:
        here.activate(handle, asid)
    else:
        refuses(FirmwareStatus.INVALID_ASID, here.activate, handle, asid)
        assert here.guest_status(handle).asid is None


def test_nosend_forbids_sending_and_nothing_else(world: World, refuses: Refuse) -> None:
    here, there = world.platform(), world.platform()
    handle = world.running(here, Policy.of(PolicyFlag.ES | PolicyFlag.NOSEND))
    refuses(FirmwareStatus.POLICY_FAILURE, here.send_start, handle, there.export_certificates())
    assert here.guest_status(handle).state == GuestState.RUNNING


def test_domain_keeps_a_guest_with_its_owner(world: World, refuses: Refuse) -> None:
    here, friend, stranger = world.platform(), world.platform(), world.platform(owner=world.other_owner)
    handle = world.running(here, Policy.of(PolicyFlag.ES | PolicyFlag.DOMAIN))
    refuses(FirmwareStatus.POLICY_FAILURE, here.send_start, handle, stranger.export_certificates())
    here.send_start(handle, friend.export_certificates())
    free = world.running(here, asid=2)
    here.send_start(free, stranger.export_certificates())


def test_sev_keeps_a_guest_on_genuine_platforms(world: World, refuses: Refuse) -> None:
    here, genuine, fake = world.platform(), world.platform(), world.platform(vendor=world.other_vendor)
    handle = world.running(here, Policy.of(PolicyFlag.ES | PolicyFlag.SEV))
    refuses(FirmwareStatus.POLICY_FAILURE, here.send_start, handle, fake.export_certificates())
    mixed = replace(fake.export_certificates(), vendor=genuine.export_certificates().vendor)
    refuses(FirmwareStatus.BAD_SIGNATURE, here.send_start, handle, mixed)
    here.send_start(handle, genuine.export_certificates())


def test_older_firmware_gets_no_guest_that_wants_newer(world: World, refuses: Refuse) -> None:
    policy = Policy.of(PolicyFlag.ES, minimum=ApiVersion(1, 2))
    new, old = world.platform(version=ApiVersion(1, 10)), world.platform(version=ApiVersion(1, 1))
    refuses(FirmwareStatus.POLICY_FAILURE, old.launch_start, policy)
    handle = world.running(new, policy)
    refuses(FirmwareStatus.POLICY_FAILURE, new.send_start, handle, old.export_certificates())
    new.send_start(handle, world.platform(version=ApiVersion(1, 2)).export_certificates())


def test_nodbg_keeps_the_host_out(world: World, refuses: Refuse) -> None:
    here = world.platform()
    open_guest, closed = (
        world.running(here, asid=1),
        world.running(here, Policy.of(PolicyFlag.ES | PolicyFlag.NODBG), asid=2),
    )
    seen = here.memory(open_guest).host_view([5], PAGE)
    assert here.debug_decrypt(open_guest, [5], seen) == PAGE
    assert here.debug_encrypt(open_guest, [5], PAGE) == seen
    refuses(FirmwareStatus.POLICY_FAILURE, here.debug_decrypt, closed, [5], seen)
    refuses(FirmwareStatus.POLICY_FAILURE, here.debug_encrypt, closed, [5], PAGE)


def test_a_key_is_shared_only_when_both_allow_it(world: World, refuses: Refuse) -> None:
    here = world.platform()
    first = world.running(here, asid=1)
    second = here.launch_start(ES, share_key_of=first)
    here.activate(second, 2)
    assert here.memory(second).guest_view([5], here.memory(first).host_view([5], PAGE)) == PAGE
    refuses(FirmwareStatus.POLICY_FAILURE, here.launch_start, Policy.of(PolicyFlag.NOKS), share_key_of=first)
    alone = here.launch_start(Policy.of(PolicyFlag.ES | PolicyFlag.NOKS))
    refuses(FirmwareStatus.POLICY_FAILURE, here.launch_start, ES, share_key_of=alone)
    refuses(FirmwareStatus.INVALID_GUEST, here.launch_start, ES, share_key_of=99)


def test_plain_vcpu_state_does_not_go_through_the_processor(world: World, refuses: Refuse) -> None:
    here, there = world.platform(), world.platform()
    handle = here.launch_start(PLAIN)
    here.activate(handle, 5)
    refuses(FirmwareStatus.POLICY_FAILURE, here.launch_update_vmsa, handle, 0, VMSA)
    here.launch_measure(handle)
    here.launch_finish(handle)
    here.send_start(handle, there.export_certificates())
    refuses(FirmwareStatus.POLICY_FAILURE, here.send_update_vmsa, handle, 0, VMSA)


def test_the_measurement_tells_what_was_launched_where(world: World) -> None:
    here = world.platform()
    session, _ = world.owner_session(here)

    def measure(asid: int, *pages: tuple[int, bytes], vmsa: bool = False) -> bytes:
        handle = here.launch_start(ES, owner=session)
        here.activate(handle, asid)
        for place, content in pages:
            (here.launch_update_vmsa if vmsa else here.launch_update_data)(handle, place, content)
        return here.launch_measure(handle)

    first = measure(1, (7, PAGE))
    assert measure(2, (7, PAGE)) == first
    assert len({first, measure(3, (8, PAGE)), measure(4, (7, PAGE), vmsa=True)}) == 3


def test_an_owner_launches_only_under_the_policy_that_was_agreed(world: World, refuses: Refuse) -> None:
    here = world.platform()
    session, packets = world.owner_session(here)
    refuses(
        FirmwareStatus.BAD_MEASUREMENT, here.launch_start, Policy.of(PolicyFlag.ES | PolicyFlag.NODBG), owner=session
    )
    handle = here.launch_start(ES, owner=session)
    here.activate(handle, 1)
    here.launch_measure(handle)
    assert here.launch_update_secret(handle, 3, packets.seal(PacketKind.SECRET, 3, PAGE)) == PAGE
    refuses(
        FirmwareStatus.BAD_MEASUREMENT, here.launch_update_secret, handle, 3, packets.seal(PacketKind.DATA, 3, PAGE)
    )


def test_a_guest_without_an_owner_takes_no_secret(world: World, refuses: Refuse) -> None:
    here = world.platform()
    _, packets = world.owner_session(here)
    handle = here.launch_start(ES)
    here.activate(handle, 1)
    here.launch_measure(handle)
    secret = packets.seal(PacketKind.SECRET, 3, PAGE)
    refuses(FirmwareStatus.BAD_MEASUREMENT, here.launch_update_secret, handle, 3, secret)


@pytest.mark.parametrize("size", [0, 4095, 4097])
def test_pages_of_another_size_are_refused(world: World, refuses: Refuse, size: int) -> None:
    here, there = world.platform(), world.platform()
    handle = world.sending(here, there.export_certificates())
    refuses(FirmwareStatus.INVALID_LENGTH, here.send_update_data, handle, 0, bytes(size))
    launching = here.launch_start(ES)
    here.activate(launching, 2)
    refuses(FirmwareStatus.INVALID_LENGTH, here.launch_update_data, launching, 0, bytes(size))


@pytest.mark.parametrize("part", ["pdh", "platform", "vendor"])
def test_missing_or_broken_certificates_are_refused(world: World, refuses: Refuse, part: str) -> None:
    here, there = world.platform(), world.platform()
    handle = world.running(here, Policy.of(PolicyFlag.ES | PolicyFlag.SEV | PolicyFlag.DOMAIN))
    good = there.export_certificates()
    whole: bytes = getattr(good, part)
    for broken in (b"", b"nonsense", whole[:-1], b"X" + whole[1:]):
        refuses(FirmwareStatus.INVALID_CERTIFICATE, here.send_start, handle, replace(good, **{part: broken}))
    assert here.guest_status(handle).state == GuestState.RUNNING
    here.send_start(handle, good)


def test_certificates_travel_as_bytes_and_every_signature_counts(world: World, refuses: Refuse) -> None:
    here, there = world.platform(), world.platform()
    handle = world.running(here, Policy.of(PolicyFlag.ES | PolicyFlag.SEV | PolicyFlag.DOMAIN))
    good = there.export_certificates()
    chain = unpack_chain(good.platform)
    assert pack_chain(chain) == good.platform
    assert [item.usage for item in chain] == [Usage.PEK, Usage.OCA, Usage.CEK]
    for index, certificate in enumerate(chain):
        if certificate.usage == Usage.OCA:
            continue
        unsigned = list(chain)
        unsigned[index] = replace(certificate, signatures=())
        target = replace(good, platform=pack_chain(tuple(unsigned)))
        refuses(FirmwareStatus.BAD_SIGNATURE, here.send_start, handle, target)


@pytest.mark.parametrize(
    ("flag", "part", "index", "signer"),
    [
        (PolicyFlag.DOMAIN, "platform", 0, Usage.OCA),
        (PolicyFlag.SEV, "platform", 0, Usage.CEK),
        (PolicyFlag.SEV, "platform", 2, Usage.ASK),
        (PolicyFlag.SEV, "vendor", 0, Usage.ARK),
    ],
)
def test_each_policy_asks_for_its_own_signatures(
    world: World, refuses: Refuse, flag: PolicyFlag, part: str, index: int, signer: Usage
) -> None:
    here, there = world.platform(), world.platform()
    handle = world.running(here, Policy.of(PolicyFlag.ES | flag))
    good = there.export_certificates()
    chain = list(unpack_chain(getattr(good, part)))
    kept = tuple(item for item in chain[index].signatures if item[0] != signer)
    assert len(kept) < len(chain[index].signatures)
    chain[index] = replace(chain[index], signatures=kept)
    refuses(FirmwareStatus.BAD_SIGNATURE, here.send_start, handle, replace(good, **{part: pack_chain(tuple(chain))}))
    here.send_start(handle, good)


def test_a_stranger_cannot_pose_as_a_platform(world: World, refuses: Refuse) -> None:
    here, there, stranger = world.platform(), world.platform(), world.platform()
    handle = world.running(here)
    posing = replace(there.export_certificates(), pdh=stranger.export_certificates().pdh)
    refuses(FirmwareStatus.BAD_SIGNATURE, here.send_start, handle, posing)


def test_a_session_is_for_one_platform_one_sender_and_one_policy(world: World, refuses: Refuse) -> None:
    here, there, third = world.platform(), world.platform(), world.platform()
    sent = here.send_start(world.running(here), there.export_certificates())
    assert len(sent.session) == SESSION_BYTES
    refuses(FirmwareStatus.BAD_MEASUREMENT, third.receive_start, sent)
    posing = replace(sent, pdh=third.export_certificates().pdh)
    refuses(FirmwareStatus.BAD_MEASUREMENT, there.receive_start, posing)
    softened = replace(sent, policy=Policy.of(PolicyFlag.ES, minimum=ApiVersion(0, 1)))
    refuses(FirmwareStatus.BAD_MEASUREMENT, there.receive_start, softened)
    refuses(FirmwareStatus.INVALID_LENGTH, there.receive_start, replace(sent, session=sent.session[:-1]))
    refuses(FirmwareStatus.INVALID_CERTIFICATE, there.receive_start, replace(sent, pdh=b""))
    for offset in range(0, SESSION_BYTES, 8):
        bent = bytearray(sent.session)
        bent[offset] ^= 1
        refuses(FirmwareStatus.BAD_MEASUREMENT, there.receive_start, replace(sent, session=bytes(bent)))
    there.receive_start(sent)


def test_a_shutdown_takes_all_guests_with_it(world: World, refuses: Refuse) -> None:
    here = world.platform()
    handle = world.running(here)
    here.shutdown()
    here.init()
    refuses(FirmwareStatus.INVALID_GUEST, here.guest_status, handle)
    refuses(FirmwareStatus.DF_FLUSH_REQUIRED, here.activate, here.launch_start(ES), 1)
