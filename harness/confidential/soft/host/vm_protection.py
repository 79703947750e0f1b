"""KVM's and QEMU's part for one protected VM on one host: all that a relay, a guest and a case can ask of it.

Thread-safe: the guest's hypercalls come from one thread, the relay's questions from another. The VM's memory is only
ever written by :meth:`VmProtection.receive_finish`, before the guest runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.caches.line_origin import Known, LineOrigin
from harness.confidential.soft.caches.stale_lines import StaleLines
from harness.confidential.soft.caches.vm_caches import VmCaches
from harness.confidential.soft.caches.written_lines import Extents, Lines
from harness.confidential.soft.channel.hypercalls import HypercallReply, HypercallRequest, Operation, ReplyFlag
from harness.confidential.soft.flavour import Flavour
from harness.confidential.soft.host.guest_calls import GuestCalls
from harness.confidential.soft.host.handshake import MigrationControl
from harness.confidential.soft.host.incoming import Incoming
from harness.confidential.soft.host.machine_reset import MachineReset
from harness.confidential.soft.host.outgoing import Outgoing
from harness.confidential.soft.host.pins import Pins
from harness.confidential.soft.host.vcpu_protection import VcpuBank
from harness.confidential.soft.memory.conversions import Conversions
from harness.confidential.soft.memory.firmware import LAST_GFN
from harness.confidential.soft.memory.guest_memory import GuestMemory
from harness.confidential.soft.memory.guest_tables import TableMap, View
from harness.confidential.soft.memory.host_list import HostList, ListRules
from harness.confidential.soft.memory.memory_views import MemoryViews, change_key
from harness.confidential.soft.memory.whereabouts import Whereabouts
from harness.confidential.soft.options import HostOptions
from harness.confidential.soft.processor.guest_context import SendSession, SendTarget
from harness.confidential.soft.processor.packets import Packet, PacketRun
from harness.confidential.soft.processor.policy import PolicyFlag
from harness.confidential.soft.processor.processor_guest import ProcessorGuest
from harness.confidential.soft.processor.status import CommandRefusedError, FirmwareStatus
from harness.confidential.soft.processor.timing import AMD_SINGLE, ProcessorSpeed
from harness.model.address_map import AddressMap
from harness.model.memory import PAGE_SHIFT
from harness.model.page_map import Conversion, PageMap
from harness.model.page_set import PageSet
from harness.model.protection import LaunchIdentity, ProtectionSnapshot
from harness.model.reset import IoctlTrace, VcpuAtReset
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]

CPUS = 4
"""Of the host, over which the threads of all vCPUs wander: each has caches of its own."""


class VmProtection:
    """Made by SoftPlatform.launch() or SoftPlatform.expect()."""

    def __init__(
        self,
        *,
        flavour: Flavour,
        options: HostOptions,
        faults: AbstractSet[SoftFault],
        speed: ProcessorSpeed | None,
        seed: Seed,
        guest: ProcessorGuest,
        ram: Contents,
        addresses: AddressMap,
        vcpus: int,
        is_launched: bool,
        extents: Extents | None = None,
    ) -> None:
        """*ram* is the VM's memory, ram_addr 0 first, shared with QEMU; *extents* tells what of it may not be zero."""
        self.flavour = flavour
        self._faults, self._speed, self._options = faults, speed, options
        self._guest = guest
        self._lock = threading.RLock()
        self._memory = GuestMemory(ram, addresses, guest, c_bit=options.c_bit)
        self._boot_id: int | None = None
        self._is_reset, self._resets_told = False, 0
        self._list = HostList(addresses, ListRules.of(faults))
        self._control = MigrationControl(faults)
        self._conversions = Conversions(
            host_list=self._list,
            options=options,
            scramble_key=0 if SoftFault.STALE_BACKING in faults else seed.sub("scramble") | 1,
            contents=self._memory.spans,
            turns=self._turns,
        )
        self._vcpus = VcpuBank(
            vcpus,
            read=self._memory.read,
            c_bit=options.c_bit.bit_length() - 1,
            faults=faults,
            is_protected=flavour.is_es,
        )
        self._calls = GuestCalls(
            options=options,
            is_es=flavour.is_es,
            conversions=self._conversions,
            control=self._control,
            hello=self._hello,
            vcpus=self._vcpus,
        )
        self._views = MemoryViews(ram, self._memory.look)
        self._pins = Pins(faults)
        self._out = Outgoing(guest, self._views, self._pins, pages=addresses.pages, faults=faults)
        does_flush = SoftFault.RECEIVE_WITHOUT_FLUSH not in faults
        stale = None if does_flush else StaleLines(ram, seed.rng("stale-lines"))
        self._in = Incoming(guest, ram, self._pins, stale)
        self._make_caches = partial(
            VmCaches,
            ram,
            key=lambda: guest.memory,
            cpus=CPUS,
            seed=seed.sub("caches"),
            faults=faults,
            extents=extents,
        )
        self._caches: VmCaches | None = None
        self._resets = MachineReset(
            has_ioctls=flavour.tells_of_resets and not options.renews,
            host_list=self._list,
            control=self._control,
            conversions=self._conversions,
            vcpus=self._vcpus,
            memory=self._memory,
            caches=lambda: self._caches,
            renew=partial(self._renew, ram, vcpus) if options.renews else None,
        )
        if is_launched:
            self._control.launched()
            if options.caches:
                self._caches = self._make_caches(asid=guest.asid)

    # The guest

    def hypercall(self, request: HypercallRequest) -> HypercallReply:
        """Answer one request on the hypercall channel."""
        with self._lock:
            is_old = request.boot_id == self._boot_id and request.operation is not Operation.HELLO
            if self._is_reset and is_old:
                # Said before the machine was reset, and read by us only now: no vCPU of that boot is there any more.
                return HypercallReply(flags=ReplyFlag.ERROR)
            return self._calls.answer(request)

    def reset(self) -> None:
        """The machine was reset. A guest that says HELLO with another boot id resets it too; each counts once."""
        with self._lock:
            if self._resets_told:
                self._resets_told -= 1
                return
            self._resets.begins()
            self._resets.ends()
            self._is_reset = True

    def reset_begins(self) -> None:
        """PRE_SYSTEM_RESET: the VM is stopped, and about to be reset."""
        with self._lock:
            self._resets.begins()

    def reset_ends(self) -> None:
        """QEMU has reset the machine, which has not run since: POST_SYSTEM_RESET. Stale lines may fall into memory."""
        with self._lock:
            self._resets.ends()
            self._is_reset, self._resets_told = True, 0

    def reset_trace(self, since_s: float, until_s: float) -> IoctlTrace:
        """PRE and POST as the host's kernel saw them in this span of its clock (time.time())."""
        with self._lock:
            return self._resets.trace(since_s, until_s, others=len(self._guest.trace.commands()))

    @property
    def identity(self) -> LaunchIdentity:
        """Handle and measurement of the guest's context, as the firmware and the host's kernel have them now."""
        with self._lock:
            return self._guest.identity

    def vcpus_at_reset(self) -> tuple[VcpuAtReset, ...]:
        """What KVM holds of each vCPU now, behind a reset and before it runs. Empty where no vCPU is protected."""
        with self._lock:
            return self._vcpus.at_reset() if self.flavour.is_es else ()

    # Caches, where they are played

    def time_passes(self) -> None:
        """Some dirty lines are written back. The VM must not run, and no migration of it be under way."""
        with self._lock:
            if self._caches:
                self._caches.time_passes()

    def line_origins(self, lines: Lines, found: Contents, *, private: bool, known: Known) -> tuple[LineOrigin, ...]:
        """Through which views damaged *lines* (ram_addr / 64) were written; nothing where no caches are played."""
        with self._lock:
            return self._caches.origins(lines, found, private=private, known=known) if self._caches else ()

    @property
    def lines_at_risk(self) -> int:
        """Lines that the flushes of this VM's resets have kept from harm: what a clean reboot has shown."""
        with self._lock:
            return self._caches.at_risk if self._caches else 0

    @property
    def hurt_lines(self) -> int:
        """How many lines a write-back has changed: whether a fault of the caches found a target, never a verdict."""
        with self._lock:
            return self._caches.hurt.total() if self._caches else 0

    def refuse_conversion(self, nth: int = 1) -> None:
        """Refuse the *nth* valid conversion from now on (-KVM_EFAULT), counted from 1; 0 takes it back."""
        with self._lock:
            self._conversions.refuse_next(nth)

    @property
    def may_run(self) -> bool:
        """Whether the firmware lets vCPUs run: never once the guest was sent, not before all of it was received."""
        return self._guest.state in {"running", "send-update"}

    def run(self) -> None:
        """The vCPUs run from now on; noted in the trace. CommandRefusedError INVALID_GUEST_STATE where they may not."""
        with self._guest.trace.command("run"):
            if not self.may_run:
                state = self._guest.state or "uninit"
                raise CommandRefusedError(FirmwareStatus.INVALID_GUEST_STATE, f"VMRUN of a guest in state {state}")
        with self._lock:
            self._control.runs()

    # The handshake

    @property
    def blocked_reasons(self) -> tuple[str, ...]:
        """As ``query-migrate`` lists them."""
        with self._lock:
            return self._control.blocked_reasons

    def ask_to_migrate(self) -> tuple[str, ...]:
        """The same, and the question is part of the evidence."""
        with self._lock:
            return self._control.ask()

    @property
    def forbidden_by(self) -> str:
        """What in the policy forbids any migration, empty when nothing does."""
        policy = self._guest.policy
        return "NOSEND" if policy and policy.flags & PolicyFlag.NOSEND else ""

    # What guest and host believe of memory

    @property
    def whereabouts(self) -> Whereabouts | None:
        """What the guest said in HELLO. It says so once per boot: a case hands it on to the destination's know()."""
        return self._memory.whereabouts

    def know(self, whereabouts: Whereabouts) -> None:
        """Where this guest keeps its tables; without it no page is known to be wrong, and nothing is settled."""
        with self._lock:
            self._memory.know(whereabouts)
            self._boot_id = whereabouts.boot_id

    @property
    def addresses(self) -> AddressMap:
        """Where main memory lies."""
        return self._memory.addresses

    def truth(self, ram_pages: Pages) -> NDArray[np.bool_]:
        """Which pages the guest's tables call private; unmapped ones count as private."""
        is_shared: NDArray[np.bool_] = self._memory.look(ram_pages) == View.SHARED
        return ~is_shared

    def truth_map(self) -> TableMap | None:
        """The same of all memory, with what is unknown; None before HELLO."""
        return self._memory.whole()

    def received_map(self) -> tuple[PageMap, PageSet]:
        """Which pages came as plain records, and of which there was a record at all: the stream as a witness."""
        return self._in.kinds()

    def is_private(self, ram_pages: Pages) -> NDArray[np.bool_]:
        """What the host's list says."""
        with self._lock:
            return ~self._list.is_shared(ram_pages)

    @property
    def is_firmware_private(self) -> bool:
        """What QEMU takes the firmware's block for. With class B11 it believes a guest that calls it shared."""
        if SoftFault.FLASH0_SHARED not in self._faults:
            return True
        with self._lock:
            return not self._list.names(LAST_GFN)

    # Leaving this host

    def send_start(self, target: SendTarget) -> SendSession:
        """SEND_START, lazily on the first private page. CommandRefusedError; QemuAbortError, see outgoing.py."""
        session = self._out.start(target)
        with self._lock:
            self._list.begin_sending()
        return session

    def seal(self, ram_pages: Pages, contents: Contents, into: Contents | None = None) -> PacketRun:
        """SEND_UPDATE_DATA of pages that the list calls private; *contents* has a row each. CommandRefusedError.

        The packets' data is made in the rows of *into*, if it is given: see PacketSealer.seal_run.
        """
        return self._out.seal(ram_pages, contents, into)

    def host_view(self, ram_pages: Pages, contents: Contents) -> Contents:
        """What the host reads of pages that its list calls shared: ciphertext where the guest says private."""
        with self._lock:
            unfinished = [
                item for vcpu, item in self._conversions.unfinished.items() if self._memory.is_converting(vcpu)
            ]
        return self._out.host_view(ram_pages, contents, unfinished)

    def seal_firmware(self, block_pages: Pages, contents: Contents) -> PacketRun:
        """SEND_UPDATE_DATA of pages of the firmware's block. CommandRefusedError."""
        return self._out.seal_firmware(block_pages, contents)

    def firmware_host_view(self, block_pages: Pages, contents: Contents) -> Contents:
        """What the host reads of pages of the firmware's block: ciphertext."""
        return self._out.firmware_host_view(block_pages, contents)

    def unsure_pages(self) -> Pages:
        """Pages to be sent once more, with contents_of(), when the VM has stopped and before the list goes out.

        When they went out the guest was converting them, or its tables and the list disagreed; or they were converted
        since, and not written yet.
        """
        with self._lock:
            page_map = self._list.page_map()
        return self._out.unsure(page_map)

    def contents_of(self, ram_pages: Pages) -> Contents:
        """Guest memory at this moment, a row each."""
        return self._memory.now(ram_pages)

    def forgotten(self, ram_pages: Pages) -> NDArray[np.bool_]:
        """Pages that this QEMU leaves out, each once: class B45 after a failed attempt, else none."""
        return self._out.take_forgotten(ram_pages)

    def shared_list(self) -> bytes | None:
        """The list as it travels; None when this QEMU sends none."""
        with self._lock:
            return self._list.pack()

    @property
    def hides_registers(self) -> bool:
        """Whether KVM shows QEMU no registers of this guest: its vCPU state is encrypted, and protected."""
        with self._lock:
            return self.flavour.is_es and self._vcpus.are_protected

    def seal_vmsa(self, vcpu: int, page: bytes) -> Packet:
        """SEND_UPDATE_VMSA. CommandRefusedError."""
        return self._out.seal_vmsa(vcpu, page)

    def vcpu_records(self) -> Mapping[int, int]:
        """GHCB value with its flag bits, of each vCPU that has one."""
        with self._lock:
            return self._vcpus.records()

    def note_vcpu(self, vcpu: int, *, aux: Mapping[str, int], vmsa: bytes = b"") -> None:
        """Registers of *vcpu* as this side's QEMU saved or loads them, for the evidence."""
        with self._lock:
            self._vcpus.note(vcpu, aux=aux, vmsa=vmsa)

    def pace_s(self, pages: int) -> float:
        """How long the processor takes for *pages* pages that are given to it at once; 0 when it is not slow."""
        if SoftFault.SLOW in self._faults:
            return AMD_SINGLE.single_s(pages)
        if self._speed is None:
            return 0.0
        return self._speed.batched_s(pages) if self.flavour.batches else self._speed.single_s(pages)

    def send_finish(self) -> None:
        """The guest has moved: SEND_FINISH; nothing when no session is open."""
        self._out.finish()

    def send_cancel(self) -> None:
        """The attempt failed or was cancelled: SEND_CANCEL; nothing when no session is open."""
        self._out.cancel()

    # Coming to this host

    def receive_start(self, session: SendSession) -> None:
        """RECEIVE_START, on the first packet. CommandRefusedError."""
        self._in.start(session)

    def open(self, ram_pages: Pages, packets: Sequence[Packet], into: Contents | None = None) -> Contents:
        """RECEIVE_UPDATE_DATA: a row each, as the guest will see it, in *into* if given. CommandRefusedError."""
        return self._in.open(ram_pages, packets, into)

    def open_firmware(self, block_pages: Pages, packets: Sequence[Packet]) -> Contents:
        """The same for pages of the firmware's block."""
        return self._in.open_firmware(block_pages, packets)

    def firmware_guest_view(self, block_pages: Pages, contents: Contents) -> Contents:
        """What the guest reads of pages of the firmware's block that came in clear: garbage. CommandRefusedError."""
        return self._in.firmware_guest_view(block_pages, contents)

    def note_kind(self, ram_pages: Pages, *, private: bool) -> None:
        """These pages came just now, as packets or as plain records."""
        self._in.note_kind(ram_pages, private=private)

    def take_shared_list(self, data: bytes) -> None:
        """The list that came. StreamError when it is none."""
        with self._lock:
            self._list.take(data)
            self._conversions.begin_anew(self._list.page_map())

    def open_vmsa(self, vcpu: int, packet: Packet) -> bytes:
        """RECEIVE_UPDATE_VMSA. CommandRefusedError."""
        return self._in.open_vmsa(vcpu, packet)

    def take_vcpu_record(self, vcpu: int, ghcb: int) -> None:
        """GHCB value that came; one of a vCPU that this VM does not have is left out."""
        with self._lock:
            if vcpu in self._vcpus:
                self._vcpus.take(vcpu, ghcb)

    @property
    def restores_aux(self) -> bool:
        """Whether KVM takes cr0, cr4, efer and cr8 of a protected vCPU from userspace; if not they stay reset."""
        return SoftFault.AUX_NOT_RESTORED not in self._faults

    def receive_finish(self) -> int:
        """RECEIVE_FINISH once all is loaded and before the VM runs. CommandRefusedError.

        How many pages were changed, because the guest's own tables disagree with how they came; needs know().
        """
        changed = self._in.finish(self._memory.look)
        with self._lock:
            self._control.arrived()
            if self._options.caches:
                self._caches = self._make_caches(asid=self._guest.asid)
                self._caches.arrive(self._list.page_map())
        return changed

    # The end

    def snapshot(self) -> ProtectionSnapshot:
        """Everything at this moment."""
        with self._lock:
            return ProtectionSnapshot(
                page_map=self._list.page_map(),
                initial=self._conversions.initial or PageMap.all_private(self.addresses.pages),
                entries=self._list.entries,
                conversions=tuple(self._conversions.log),
                vcpus=self._vcpus.snapshot(),
                commands=self._guest.trace.commands(),
                handshake=self._control.events,
                state=self._guest.state,
                pinned_pages=self._pins.pages,
            )

    def close(self) -> None:
        """The VM has ended: its ASID is free again and clean, its keys are gone. Any number of times."""
        with self._lock:
            self._guest.close()

    def _renew(self, ram: Contents, vcpus: int) -> None:
        """The VM stands still. What the guest calls private is from now on read by another key: garbage."""
        if self._caches:
            self._caches.retire()
        old = self._guest.memory
        self._guest.renew(vcpus=vcpus)
        change_key(ram, self._memory.lost_with_key(), old=old, new=self._guest.memory)
        if self._caches:
            self._caches.renew(self._guest.asid, lambda: self._guest.memory)

    def _turns(self, vcpu: int, conversion: Conversion) -> None:
        if self._caches is None:
            return
        first = conversion.gpa >> PAGE_SHIFT
        spans = self.addresses.ram_spans(first, first + conversion.pages)
        if not self._memory.is_converting(vcpu, unsaid=False):
            # A kernel that begins calls all memory private, pages among it that it uses as shared all along.
            spans = self._memory.spans_not_of(View.SHARED if conversion.is_private else View.PRIVATE, spans)
        self._caches.convert(spans, private=conversion.is_private)

    def _hello(self, request: HypercallRequest) -> None:
        if self._boot_id not in {None, request.boot_id} and not self._is_reset:
            self._resets.begins()
            self._resets.ends()
            self._resets_told += 1
        self._is_reset = False
        self._control.runs()
        self.know(Whereabouts(tables_gpa=request.rbx, cvm_gpa=request.rax, boot_id=request.boot_id))
