"""Two small hosts with a real secure processor each, and a page map that the test writes: no guest needs to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.memory.firmware import places_of
from harness.confidential.soft.processor.asids import AsidTable
from harness.confidential.soft.processor.certificates import Vendor
from harness.confidential.soft.processor.guest_context import SendSession, SendTarget
from harness.confidential.soft.processor.keys import KeyPair
from harness.confidential.soft.processor.packets import Packet, PacketRun
from harness.confidential.soft.processor.policy import ApiVersion, Policy, PolicyFlag
from harness.confidential.soft.processor.processor import SecureProcessor
from harness.confidential.soft.processor.ring_buffer import receive_run, send_run
from harness.migration.sealed.guest import Pages, RamPages
from harness.model.address_map import AddressMap, Window
from harness.model.page_map import PageMap
from harness.model.page_map_wire import parse, serialise
from harness.model.page_set import PageSet

UNSURE = 0x77
"""Content of pages that are sent once more."""
SCRAMBLE = 0x5A
"""What the host sees of a byte that is shared: enough to tell a host's view from a guest's."""

OTHER_KEY = 0x33
"""What the destination's guest reads of a byte of its firmware that came in clear."""


@dataclass(frozen=True)
class Kind:
    """A flavour."""

    is_es: bool = False
    batches: bool = False


SEV = Kind()
CSV = Kind(batches=True)
CSV2 = Kind(is_es=True, batches=True)
KINDS = {"soft-sev": SEV, "soft-csv": CSV, "soft-csv2": CSV2}


@dataclass
class Host:
    """One guest on one host; serves as both ends' guest."""

    kind: Kind
    pages: int
    shared: PageSet = field(default_factory=PageSet.empty)
    policy: Policy | None = None
    ghcbs: Mapping[int, int] = field(default_factory=dict)
    number: int = 1
    """Hosts of one number are the same host."""
    page_delay_s: float = 0.0

    def __post_init__(self) -> None:
        common, own = Random(0), Random(self.number)
        self.processor = SecureProcessor(
            vendor=Vendor.generate(common.randbytes),
            owner=KeyPair.generate(common.randbytes),
            version=ApiVersion(0, 24),
            asids=AsidTable(last=8, first_plain=5, cores=2),
            entropy=own.randbytes,
        )
        self.processor.init()
        self.handle = 0
        self.commands: list[int] = []
        """Pages of each command that moved some."""
        self.kinds = np.zeros(self.pages, dtype=np.uint8)
        self.list_sent: bytes | None = b""
        self.came: PageMap | None = None
        self.taken: dict[int, int] = {}
        self.noted: dict[int, tuple[dict[str, int], bytes]] = {}
        self.unsure: RamPages = np.zeros(0, dtype=np.uint64)
        self.to_forget: RamPages = np.zeros(0, dtype=np.uint64)
        self.is_aux_restored = True
        self.is_firmware_private = True
        is_shared = np.zeros(self.pages, dtype=np.bool_)
        for start, end in self.shared.ranges():
            is_shared[start:end] = True
        self.is_shared = is_shared

    def launch(self) -> Host:
        flags = PolicyFlag.ES if self.kind.is_es else PolicyFlag(0)
        self.handle = self.processor.launch_start(self.policy or Policy.of(flags))
        self.processor.activate(self.handle, 1 if self.kind.is_es else 5)
        self.processor.launch_measure(self.handle)
        self.processor.launch_finish(self.handle)
        return self

    @property
    def flavour(self) -> Kind:
        return self.kind

    @property
    def addresses(self) -> AddressMap:
        return AddressMap(windows=(Window(0, 0, self.pages),), unmapped=PageSet.empty())

    def certificates(self) -> SendTarget:
        return self.processor.export_certificates()

    # outgoing

    def send_start(self, target: SendTarget) -> SendSession:
        return self.processor.send_start(self.handle, target)

    def is_private(self, ram_pages: RamPages) -> NDArray[np.bool_]:
        return ~self.is_shared[ram_pages]

    def seal(self, ram_pages: RamPages, contents: Pages, into: Pages | None = None) -> Sequence[Packet]:
        self.commands.append(len(ram_pages))
        if self.kind.batches:
            return send_run(self.processor, self.handle, ram_pages, contents)
        return self.processor.send_update_run(self.handle, ram_pages, contents, into=into)

    def host_view(self, ram_pages: RamPages, contents: Pages) -> Pages:
        assert self.is_shared[ram_pages].all()
        return contents ^ np.uint8(SCRAMBLE)

    def seal_firmware(self, block_pages: RamPages, contents: Pages) -> Sequence[Packet]:
        return self.seal(places_of(block_pages), contents)

    def firmware_host_view(self, block_pages: RamPages, contents: Pages) -> Pages:
        assert not self.is_firmware_private
        assert len(block_pages) == len(contents)
        return contents ^ np.uint8(SCRAMBLE)

    def shared_list(self) -> bytes | None:
        if self.list_sent is None:
            return None
        return serialise(PageMap(total_pages=self.pages, shared=self.shared), self.addresses)

    @property
    def hides_registers(self) -> bool:
        return self.flavour.is_es

    def seal_vmsa(self, vcpu: int, page: bytes) -> Packet:
        return self.processor.send_update_vmsa(self.handle, vcpu, page)

    def unsure_pages(self) -> RamPages:
        return self.unsure

    def contents_of(self, ram_pages: RamPages) -> Pages:
        return np.full((len(ram_pages), 4096), UNSURE, dtype=np.uint8)

    def forgotten(self, ram_pages: RamPages) -> NDArray[np.bool_]:
        return np.isin(ram_pages, self.to_forget)

    @property
    def restores_aux(self) -> bool:
        return self.is_aux_restored

    def note_vcpu(self, vcpu: int, *, aux: Mapping[str, int], vmsa: bytes = b"") -> None:
        self.noted[vcpu] = (dict(aux), vmsa)

    def vcpu_records(self) -> Mapping[int, int]:
        return self.ghcbs

    def pace_s(self, pages: int) -> float:
        return pages * self.page_delay_s

    # incoming

    def receive_start(self, session: SendSession) -> None:
        self.handle = self.processor.receive_start(session)
        self.processor.activate(self.handle, 1 if self.kind.is_es else 5)

    def open(self, ram_pages: RamPages, packets: Sequence[Packet], into: Pages | None = None) -> Pages:
        self.commands.append(len(ram_pages))
        run = PacketRun.of(packets)
        if self.kind.batches:
            pages, end = receive_run(self.processor, self.handle, ram_pages, run)
            refusal = end.refusal
        else:
            pages, refusal = self.processor.receive_update_run(self.handle, ram_pages, run, into=into)
        if refusal is not None:
            raise refusal
        return pages

    def open_firmware(self, block_pages: RamPages, packets: Sequence[Packet]) -> Pages:
        return self.open(places_of(block_pages), packets)

    def firmware_guest_view(self, block_pages: RamPages, contents: Pages) -> Pages:
        assert len(block_pages) == len(contents)
        return contents ^ np.uint8(OTHER_KEY)

    def note_kind(self, ram_pages: RamPages, *, private: bool) -> None:
        self.kinds[ram_pages] = 2 if private else 1

    def take_shared_list(self, data: bytes) -> None:
        self.came, _ = parse(data, self.addresses)

    def open_vmsa(self, vcpu: int, packet: Packet) -> bytes:
        return self.processor.receive_update_vmsa(self.handle, vcpu, packet)

    def take_vcpu_record(self, vcpu: int, ghcb: int) -> None:
        self.taken[vcpu] = ghcb
