"""The secure processor of one host: commands in, statuses out.

Page content goes in and out as the guest sees it; what the host sees of it is :meth:`SecureProcessor.memory`'s view.
A refused command changes nothing. Every command raises CommandRefusedError; each says with which statuses of its own,
on top of INVALID_PLATFORM_STATE (not initialised), INVALID_GUEST (no such handle), INVALID_GUEST_STATE (states.py) and
INACTIVE (no ASID where memory is touched).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from harness.confidential.soft.processor.asids import AsidTable
from harness.confidential.soft.processor.certificates import (
    Certificate,
    PlatformKeys,
    Usage,
    Vendor,
    judge_target,
    pack_chain,
    unpack_chain,
)
from harness.confidential.soft.processor.guest_context import GuestContext, GuestStatus, SendSession, SendTarget
from harness.confidential.soft.processor.keys import KEY_BYTES, Entropy, KeyPair, system_entropy
from harness.confidential.soft.processor.memory_encryption import VEK_BYTES, MemoryCipher
from harness.confidential.soft.processor.packets import (
    Bytes,
    Packet,
    PacketKind,
    PacketOpener,
    PacketRun,
    PacketSealer,
    Places,
    TransportKeys,
)
from harness.confidential.soft.processor.policy import ApiVersion, Policy, PolicyFlag
from harness.confidential.soft.processor.session import accept_session, open_session
from harness.confidential.soft.processor.states import NEEDS_ASID, Command, GuestState, next_state
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus
from harness.model.memory import PAGE_SIZE


class SecureProcessor:
    """Keys, guests and ASIDs of one host. Two of them share nothing but what is sent from one to the other."""

    def __init__(
        self,
        *,
        vendor: Vendor,
        owner: KeyPair,
        version: ApiVersion,
        asids: AsidTable,
        entropy: Entropy = system_entropy,
        ignores_nosend: bool = False,
        forgets_sent: bool = False,
    ) -> None:
        """The last two are bugs: NOSEND means nothing, and a guest that was sent counts as running."""
        self.version = version
        self._ignores_nosend, self._forgets_sent = ignores_nosend, forgets_sent
        self.asids = asids
        self._entropy = entropy
        self._keys = PlatformKeys.generate(vendor, owner, version, entropy)
        self._vendor_chain = vendor.chain
        self._guests: dict[int, GuestContext] = {}
        self._last_handle = 0
        self._is_initialised = False

    # Platform commands

    def init(self) -> None:
        """INIT. INVALID_PLATFORM_STATE when it already is."""
        if self._is_initialised:
            raise CommandRefusedError(FirmwareStatus.INVALID_PLATFORM_STATE, "the platform is initialised")
        self._is_initialised = True

    def shutdown(self) -> None:
        """SHUTDOWN: all guests and their keys are gone. Allowed in any platform state."""
        for asid in list(self.asids.owners):
            self.asids.release(asid)
        self._guests.clear()
        self._is_initialised = False

    def export_certificates(self) -> SendTarget:
        """PDH_CERT_EXPORT with the vendor's chain: what the source of a migration to here has to be given."""
        self._check_platform()
        return SendTarget(
            pdh=self._keys.pdh_certificate.pack(),
            platform=pack_chain(self._keys.chain),
            vendor=pack_chain(self._vendor_chain),
        )

    def wbinvd(self, core: int) -> None:
        """What the host's core did; no command, but the processor knows."""
        self.asids.wbinvd(core)

    def df_flush(self) -> None:
        """DF_FLUSH. WBINVD_REQUIRED while a core has not run WBINVD since the last DEACTIVATE."""
        self._check_platform()
        self.asids.df_flush()

    # Life of a guest

    def activate(self, handle: int, asid: int) -> None:
        """ACTIVATE. ACTIVE when it has an ASID; INVALID_ASID, ASID_OWNED, DF_FLUSH_REQUIRED."""
        guest, _ = self._admit(handle, Command.ACTIVATE)
        if guest.asid is not None:
            raise CommandRefusedError(FirmwareStatus.ACTIVE, f"guest {handle} has ASID {guest.asid}")
        self.asids.bind(asid, handle, is_es=bool(guest.policy.flags & PolicyFlag.ES))
        guest.asid = asid

    def deactivate(self, handle: int) -> None:
        """DEACTIVATE; nothing to do for a guest without an ASID."""
        guest, _ = self._admit(handle, Command.DEACTIVATE)
        if guest.asid is not None:
            self.asids.release(guest.asid)
            guest.asid = None

    def decommission(self, handle: int) -> None:
        """DECOMMISSION: the guest's keys are gone. ACTIVE while it has an ASID."""
        guest, _ = self._admit(handle, Command.DECOMMISSION)
        if guest.asid is not None:
            raise CommandRefusedError(FirmwareStatus.ACTIVE, f"guest {handle} still has ASID {guest.asid}")
        del self._guests[handle]

    def guest_status(self, handle: int) -> GuestStatus:
        """GUEST_STATUS."""
        guest, _ = self._admit(handle, Command.GUEST_STATUS)
        return GuestStatus(handle=handle, policy=guest.policy, asid=guest.asid, state=guest.state)

    def memory(self, handle: int) -> MemoryCipher:
        """The memory engine as this guest's ASID selects it. No command: what the CPU does on each access."""
        guest = self._guest(handle)
        if guest.asid is None:
            raise CommandRefusedError(FirmwareStatus.INACTIVE, f"guest {handle} has no ASID")
        return guest.memory

    # Launch

    def launch_start(self, policy: Policy, *, owner: SendSession | None = None, share_key_of: int = 0) -> int:
        """LAUNCH_START: the new guest's handle. *owner* is the guest owner's session; without one no secret verifies.

        POLICY_FAILURE: firmware too old, or the key may not be shared; INVALID_LENGTH, BAD_MEASUREMENT as
        accept_session.
        """
        self._check_platform()
        keys = (
            self._accept(owner, policy) if owner else TransportKeys(self._entropy(KEY_BYTES), self._entropy(KEY_BYTES))
        )
        guest = self._create(policy, Command.LAUNCH_START, share_key_of)
        guest.opener, guest.launch_tik = PacketOpener(keys), keys.tik
        return guest.handle

    def launch_update_data(self, handle: int, ram_page: int, page: bytes) -> None:
        """LAUNCH_UPDATE_DATA of one page, which becomes part of the measurement. INVALID_LENGTH."""
        self._measure(handle, Command.LAUNCH_UPDATE_DATA, ram_page, page)

    def launch_update_vmsa(self, handle: int, vcpu: int, vmsa: bytes) -> None:
        """LAUNCH_UPDATE_VMSA. INVALID_LENGTH; POLICY_FAILURE without ES."""
        self._measure(handle, Command.LAUNCH_UPDATE_VMSA, vcpu, vmsa)

    def launch_measure(self, handle: int) -> bytes:
        """LAUNCH_MEASURE: HMAC-SHA256 under the owner's TIK over policy and everything launched, 32 bytes."""
        guest = self._advance(handle, Command.LAUNCH_MEASURE)
        return hmac.digest(guest.launch_tik, guest.policy.packed + guest.launch_digest.digest(), "sha256")

    def launch_update_secret(self, handle: int, ram_page: int, packet: Packet) -> bytes:
        """LAUNCH_UPDATE_SECRET: the owner's page as the guest will see it. Statuses of PacketOpener.open."""
        return self._open(handle, Command.LAUNCH_UPDATE_SECRET, ram_page, packet)

    def launch_finish(self, handle: int) -> None:
        """LAUNCH_FINISH: the guest may run."""
        self._advance(handle, Command.LAUNCH_FINISH).opener = None

    def debug_decrypt(self, handle: int, ram_pages: Iterable[int], ciphertext: bytes) -> bytes:
        """DBG_DECRYPT. POLICY_FAILURE with NODBG."""
        return self._debugged(handle, Command.DBG_DECRYPT).guest_view(ram_pages, ciphertext)

    def debug_encrypt(self, handle: int, ram_pages: Iterable[int], plain: bytes) -> bytes:
        """DBG_ENCRYPT. POLICY_FAILURE with NODBG."""
        return self._debugged(handle, Command.DBG_ENCRYPT).host_view(ram_pages, plain)

    # Sending

    def send_start(self, handle: int, target: SendTarget) -> SendSession:
        """SEND_START. POLICY_FAILURE (NOSEND, DOMAIN, SEV, version), INVALID_CERTIFICATE, BAD_SIGNATURE."""
        guest, after = self._admit(handle, Command.SEND_START)
        if guest.policy.flags & PolicyFlag.NOSEND and not self._ignores_nosend:
            raise CommandRefusedError(FirmwareStatus.POLICY_FAILURE, f"guest {handle} may not be sent")
        peer = judge_target(
            guest.policy,
            pdh=target.pdh,
            platform=target.platform,
            vendor=target.vendor,
            own_oca=_of(self._keys.chain, Usage.OCA).point,
            known_ark=_of(self._vendor_chain, Usage.ARK).point,
        )
        keys, session = open_session(self._keys.pdh, peer.point, guest.policy, self._entropy)
        guest.sealer, guest.state = PacketSealer(keys), after
        return SendSession(policy=guest.policy, pdh=self._keys.pdh_certificate.pack(), session=session)

    def send_update_data(self, handle: int, ram_page: int, page: bytes) -> Packet:
        """SEND_UPDATE_DATA of one page. INVALID_LENGTH."""
        return self._seal(handle, Command.SEND_UPDATE_DATA, ram_page, page)

    def send_update_run(
        self, handle: int, ram_pages: Places, pages: bytes | memoryview | Bytes, *, into: Bytes | None = None
    ) -> PacketRun:
        """As many SEND_UPDATE_DATA as *ram_pages*; *pages* and *into* as PacketSealer.seal_run. INVALID_LENGTH."""
        guest, _ = self._admit(handle, Command.SEND_UPDATE_DATA)
        assert guest.sealer, "a session is open in each state that makes packets"
        return guest.sealer.seal_run(PacketKind.DATA, ram_pages, pages, into=into)

    def send_update_vmsa(self, handle: int, vcpu: int, vmsa: bytes) -> Packet:
        """SEND_UPDATE_VMSA of one vCPU. INVALID_LENGTH; POLICY_FAILURE without ES."""
        return self._seal(handle, Command.SEND_UPDATE_VMSA, vcpu, vmsa)

    def send_finish(self, handle: int) -> None:
        """SEND_FINISH: this guest never runs here again."""
        guest = self._advance(handle, Command.SEND_FINISH)
        guest.sealer = None
        if self._forgets_sent:
            guest.state = GuestState.RUNNING

    def send_cancel(self, handle: int) -> None:
        """SEND_CANCEL: the session's keys are gone and the guest runs on; it may be sent again."""
        self._advance(handle, Command.SEND_CANCEL).sealer = None

    # Receiving

    def receive_start(self, sent: SendSession, *, share_key_of: int = 0) -> int:
        """RECEIVE_START: the new guest's handle.

        INVALID_LENGTH and BAD_MEASUREMENT as accept_session, INVALID_CERTIFICATE, POLICY_FAILURE as launch_start.
        """
        self._check_platform()
        keys = self._accept(sent, sent.policy)
        guest = self._create(sent.policy, Command.RECEIVE_START, share_key_of)
        guest.opener = PacketOpener(keys)
        return guest.handle

    def receive_update_data(self, handle: int, ram_page: int, packet: Packet) -> bytes:
        """RECEIVE_UPDATE_DATA: the page as the guest will see it. Statuses of PacketOpener.open."""
        return self._open(handle, Command.RECEIVE_UPDATE_DATA, ram_page, packet)

    def receive_update_run(
        self, handle: int, ram_pages: Places, packets: PacketRun, *, into: Bytes | None = None
    ) -> tuple[Bytes, CommandRefusedError | None]:
        """As many RECEIVE_UPDATE_DATA as *packets*: the pages before the first refusal, in *into*, and the refusal."""
        guest, _ = self._admit(handle, Command.RECEIVE_UPDATE_DATA)
        assert guest.opener, "a session is open in each state that takes packets"
        return guest.opener.open_run(PacketKind.DATA, ram_pages, packets, into=into)

    def receive_update_vmsa(self, handle: int, vcpu: int, packet: Packet) -> bytes:
        """RECEIVE_UPDATE_VMSA. Statuses of PacketOpener.open; POLICY_FAILURE without ES."""
        return self._open(handle, Command.RECEIVE_UPDATE_VMSA, vcpu, packet)

    def receive_finish(self, handle: int) -> None:
        """RECEIVE_FINISH: the guest may run here."""
        self._advance(handle, Command.RECEIVE_FINISH).opener = None

    # What commands have in common

    def _check_platform(self) -> None:
        if not self._is_initialised:
            raise CommandRefusedError(FirmwareStatus.INVALID_PLATFORM_STATE, "the platform is not initialised")

    def _guest(self, handle: int) -> GuestContext:
        self._check_platform()
        if handle not in self._guests:
            raise CommandRefusedError(FirmwareStatus.INVALID_GUEST, f"no guest {handle}")
        return self._guests[handle]

    def _admit(self, handle: int, command: Command) -> tuple[GuestContext, GuestState]:
        """The guest and the state that *command* leads to, if it is legal now."""
        guest = self._guest(handle)
        after = next_state(guest.state, command)
        if command in NEEDS_ASID and guest.asid is None:
            raise CommandRefusedError(FirmwareStatus.INACTIVE, f"{command}, but guest {handle} has no ASID")
        return guest, after

    def _advance(self, handle: int, command: Command) -> GuestContext:
        guest, guest_state = self._admit(handle, command)
        guest.state = guest_state
        return guest

    def _accept(self, sent: SendSession, policy: Policy) -> TransportKeys:
        peer = _of(unpack_chain(sent.pdh), Usage.PDH)
        return accept_session(self._keys.pdh, peer.point, policy, sent.session)

    def _create(self, policy: Policy, command: Command, share_key_of: int) -> GuestContext:
        self._check_platform()
        if self.version < policy.minimum:
            reason = f"this firmware {self.version} is older than {policy.minimum}"
            raise CommandRefusedError(FirmwareStatus.POLICY_FAILURE, reason)
        memory = self._shared_key(policy, share_key_of) if share_key_of else MemoryCipher(self._entropy(VEK_BYTES))
        self._last_handle += 1
        guest = GuestContext(
            handle=self._last_handle, policy=policy, state=next_state(GuestState.UNINIT, command), memory=memory
        )
        self._guests[guest.handle] = guest
        return guest

    def _shared_key(self, policy: Policy, handle: int) -> MemoryCipher:
        other = self._guest(handle)
        if (policy.flags | other.policy.flags) & PolicyFlag.NOKS:
            raise CommandRefusedError(FirmwareStatus.POLICY_FAILURE, f"the key of guest {handle} may not be shared")
        return other.memory

    def _measure(self, handle: int, command: Command, place: int, content: bytes) -> None:
        guest, _ = self._admit(handle, command)
        _check_vmsa_policy(guest, command)
        if len(content) != PAGE_SIZE:
            raise CommandRefusedError(FirmwareStatus.INVALID_LENGTH, f"{command} of {len(content)} bytes")
        guest.launch_digest.update(command.encode() + place.to_bytes(8, "little") + content)

    def _debugged(self, handle: int, command: Command) -> MemoryCipher:
        guest, _ = self._admit(handle, command)
        if guest.policy.flags & PolicyFlag.NODBG:
            raise CommandRefusedError(FirmwareStatus.POLICY_FAILURE, f"guest {handle} may not be debugged")
        return guest.memory

    def _seal(self, handle: int, command: Command, place: int, content: bytes) -> Packet:
        guest, _ = self._admit(handle, command)
        _check_vmsa_policy(guest, command)
        assert guest.sealer, "a session is open in each state that makes packets"
        return guest.sealer.seal(_kind(command), place, content)

    def _open(self, handle: int, command: Command, place: int, packet: Packet) -> bytes:
        guest, _ = self._admit(handle, command)
        _check_vmsa_policy(guest, command)
        assert guest.opener, "a session is open in each state that takes packets"
        return guest.opener.open(_kind(command), place, packet)


_VMSA_COMMANDS = frozenset({Command.LAUNCH_UPDATE_VMSA, Command.SEND_UPDATE_VMSA, Command.RECEIVE_UPDATE_VMSA})


def _check_vmsa_policy(guest: GuestContext, command: Command) -> None:
    if command in _VMSA_COMMANDS and not guest.policy.flags & PolicyFlag.ES:
        raise CommandRefusedError(FirmwareStatus.POLICY_FAILURE, f"{command} of a guest whose vCPU state is plain")


def _kind(command: Command) -> PacketKind:
    if command == Command.LAUNCH_UPDATE_SECRET:
        return PacketKind.SECRET
    return PacketKind.VMSA if command in _VMSA_COMMANDS else PacketKind.DATA


def _of(chain: tuple[Certificate, ...], usage: Usage) -> Certificate:
    found = next((certificate for certificate in chain if certificate.usage == usage), None)
    if found is None:
        raise CommandRefusedError(FirmwareStatus.INVALID_CERTIFICATE, f"no {usage.name} certificate was given")
    return found
