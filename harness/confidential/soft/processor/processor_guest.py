"""One guest of a secure processor with the duties of its host: an ASID, every command in the trace, a clean end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.processor.commands import CommandTrace
from harness.confidential.soft.processor.guest_context import SendSession, SendTarget
from harness.confidential.soft.processor.memory_encryption import MemoryCipher
from harness.confidential.soft.processor.packets import Packet, PacketRun
from harness.confidential.soft.processor.policy import Policy, PolicyFlag
from harness.confidential.soft.processor.processor import SecureProcessor
from harness.confidential.soft.processor.states import GuestState
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus
from harness.model.memory import PAGE_SIZE
from harness.model.protection import LaunchIdentity

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]

_STATES = {
    GuestState.LUPDATE: "launch-update",
    GuestState.LSECRET: "launch-secret",
    GuestState.RUNNING: "running",
    GuestState.SUPDATE: "send-update",
    GuestState.RUPDATE: "receive-update",
    GuestState.SENT: "sent",
}
"""As QMP's SevState calls them; ``sent`` is ours, there it is not told from running."""


class ProcessorGuest:
    """From LAUNCH_START or RECEIVE_START to DECOMMISSION. One command at a time: its owner locks."""

    def __init__(self, processor: SecureProcessor) -> None:
        self.trace = CommandTrace()
        self._processor = processor
        self._handle = 0
        self._image = np.empty((0, PAGE_SIZE), dtype=np.uint8)
        self._measurement = b""

    @property
    def exists(self) -> bool:
        """Whether the processor knows it."""
        return self._handle != 0

    @property
    def state(self) -> str:
        """By name; empty when there is none."""
        return _STATES[self._processor.guest_status(self._handle).state] if self._handle else ""

    @property
    def is_sent(self) -> bool:
        """Whether it can only be taken down."""
        return self.state == _STATES[GuestState.SENT]

    @property
    def is_sending(self) -> bool:
        """Whether a session out of here is open."""
        return self.state == _STATES[GuestState.SUPDATE]

    @property
    def policy(self) -> Policy | None:
        """None when there is no guest."""
        return self._processor.guest_status(self._handle).policy if self._handle else None

    @property
    def asid(self) -> int:
        """Its address space id; 0 when it has none."""
        return self._processor.guest_status(self._handle).asid or 0 if self._handle else 0

    @property
    def memory(self) -> MemoryCipher:
        """The memory engine with its key. CommandRefusedError INVALID_GUEST without a guest."""
        return self._processor.memory(self._handle)

    @property
    def identity(self) -> LaunchIdentity:
        """What whoever manages the host is told of it; handle 0 without a guest."""
        handle = self._processor.guest_status(self._handle).handle if self._handle else 0
        return LaunchIdentity(handle=handle, measurement=self._measurement if handle else b"")

    def launch(self, policy: Policy, *, image: Contents, vcpus: int) -> bytes:
        """LAUNCH_START to LAUNCH_FINISH; the measurement. POLICY_FAILURE, RESOURCE_LIMIT.

        *image* is measured from RAM page 0 on, and *vcpus* empty VMSAs of an ES guest.
        """
        self._image = image
        with self.trace.command("launch-start"):
            self._handle = self._processor.launch_start(policy)
        self._activate(policy)
        for ram_page, page in enumerate(image):
            self._processor.launch_update_data(self._handle, ram_page, page.tobytes())
        self.trace.done("launch-update-data", count=len(image))
        for vcpu in range(vcpus if policy.flags & PolicyFlag.ES else 0):
            with self.trace.command("launch-update-vmsa", vcpu=vcpu):
                self._processor.launch_update_vmsa(self._handle, vcpu, bytes(PAGE_SIZE))
        with self.trace.command("launch-measure"):
            self._measurement = self._processor.launch_measure(self._handle)
        with self.trace.command("launch-finish"):
            self._processor.launch_finish(self._handle)
        return self._measurement

    def renew(self, *, vcpus: int) -> bytes:
        """Taken down and launched again with the same policy and image: another context, with a key of its own.

        The new measurement. CommandRefusedError INVALID_GUEST without a guest, else as launch(). An image of a guest
        that came in is not known here: nothing is measured of it but its policy and its VMSAs.
        """
        policy = self.policy
        if policy is None:
            raise CommandRefusedError(FirmwareStatus.INVALID_GUEST, "no guest to launch again")
        self.close()
        return self.launch(policy, image=self._image, vcpus=vcpus)

    def send_start(self, target: SendTarget) -> SendSession:
        """SEND_START."""
        with self.trace.command("send-start"):
            return self._processor.send_start(self._handle, target)

    def seal(self, ram_pages: Pages, contents: Contents, into: Contents | None = None) -> PacketRun:
        """SEND_UPDATE_DATA of all *ram_pages*; *into* as PacketSealer.seal_run."""
        try:
            packets = self._processor.send_update_run(self._handle, ram_pages, contents, into=into)
        except CommandRefusedError as refusal:
            self.trace.refused("send-update-data", refusal, ram_page=int(ram_pages[0]))
            raise
        self.trace.done("send-update-data", count=len(packets))
        return packets

    def seal_vmsa(self, vcpu: int, page: bytes) -> Packet:
        """SEND_UPDATE_VMSA."""
        with self.trace.command("send-update-vmsa", vcpu=vcpu):
            return self._processor.send_update_vmsa(self._handle, vcpu, page)

    def send_finish(self) -> None:
        """SEND_FINISH."""
        with self.trace.command("send-finish"):
            self._processor.send_finish(self._handle)

    def send_cancel(self) -> None:
        """SEND_CANCEL."""
        with self.trace.command("send-cancel"):
            self._processor.send_cancel(self._handle)

    def receive_start(self, session: SendSession) -> None:
        """RECEIVE_START, and an ASID."""
        with self.trace.command("receive-start"):
            self._handle = self._processor.receive_start(session)
        self._activate(session.policy)

    def open(self, ram_pages: Pages, packets: Sequence[Packet], into: Contents | None = None) -> Contents:
        """RECEIVE_UPDATE_DATA, into the rows of *into*. Raises for the first refused; those before it are done."""
        whole, refusal = _uncut(packets)
        pages = np.empty((0, PAGE_SIZE), dtype=np.uint8)
        if len(whole):
            try:
                room = None if into is None else into[: len(whole)]
                places = ram_pages[: len(whole)]
                pages, refused = self._processor.receive_update_run(self._handle, places, whole, into=room)
            except CommandRefusedError as unready:
                refused = unready
            refusal = refused or refusal
        self.trace.done("receive-update-data", count=len(pages))
        if refusal:
            self.trace.refused("receive-update-data", refusal, ram_page=int(ram_pages[len(pages)]))
            raise refusal
        return pages

    def open_vmsa(self, vcpu: int, packet: Packet) -> bytes:
        """RECEIVE_UPDATE_VMSA."""
        with self.trace.command("receive-update-vmsa", vcpu=vcpu):
            return self._processor.receive_update_vmsa(self._handle, vcpu, packet)

    def receive_finish(self) -> None:
        """RECEIVE_FINISH."""
        with self.trace.command("receive-finish"):
            self._processor.receive_finish(self._handle)

    def close(self) -> None:
        """DEACTIVATE, WBINVD on every core, DF_FLUSH, DECOMMISSION; nothing without a guest."""
        if not self._handle:
            return
        with self.trace.command("deactivate"):
            self._processor.deactivate(self._handle)
        self._flush()
        with self.trace.command("decommission"):
            self._processor.decommission(self._handle)
        self._handle, self._measurement = 0, b""

    def _activate(self, policy: Policy) -> None:
        asids = self._processor.asids
        span = range(1, asids.first_plain) if policy.flags & PolicyFlag.ES else range(asids.first_plain, asids.last + 1)
        free = [asid for asid in span if asid not in asids.owners]
        with self.trace.command("activate"):
            if not free:
                raise CommandRefusedError(FirmwareStatus.RESOURCE_LIMIT, "every ASID of this kind is in use")
            if free[0] in asids.unclean:
                self._flush()
            self._processor.activate(self._handle, free[0])

    def _flush(self) -> None:
        for core in range(self._processor.asids.cores):
            self._processor.wbinvd(core)
        self._processor.df_flush()


def _uncut(packets: Sequence[Packet]) -> tuple[PacketRun, CommandRefusedError | None]:
    """The packets before the first that is cut, and why that one is refused."""
    if isinstance(packets, PacketRun):
        return packets, None
    for index, packet in enumerate(packets):
        try:
            PacketRun.of([packet])
        except CommandRefusedError as refusal:
            return PacketRun.of(packets[:index]), refusal
    return PacketRun.of(packets), None
