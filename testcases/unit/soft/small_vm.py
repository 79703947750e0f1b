"""A guest of a few MiB without QEMU: memory, page tables in it, and what it asks of its host."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.channel import ghcb
from harness.confidential.soft.channel.hypercalls import (
    HC_MAP_GPA_RANGE,
    MSR_GHCB,
    MSR_MIGRATION_CONTROL,
    HypercallReply,
    HypercallRequest,
    Operation,
)
from harness.confidential.soft.flavour import SOFT_CSV, Flavour
from harness.confidential.soft.host.platform import SoftPlatform
from harness.confidential.soft.host.vm_protection import VmProtection
from harness.confidential.soft.memory.guest_tables import LARGE, PRESENT
from harness.confidential.soft.memory.whereabouts import CVM_MAGIC
from harness.confidential.soft.options import SOFT_C_BIT, HostOptions
from harness.model.address_map import AddressMap, Window
from harness.model.memory import PAGE_SIZE
from harness.model.page_set import PageSet
from harness.model.seed import Seed
from harness.model.soft_fault import SoftFault

BELOW_PAGES, ABOVE_PAGES = 1024, 1024
TOTAL_PAGES = BELOW_PAGES + ABOVE_PAGES
HIGH_GFN = 1 << 20
"""Memory above the hole is at 4 GiB."""
ADDRESSES = AddressMap(
    windows=(Window(0, 0, BELOW_PAGES), Window(HIGH_GFN, BELOW_PAGES, ABOVE_PAGES)), unmapped=PageSet.empty()
)
PML4, PDPT, PD_LOW, PD_HIGH, FIRST_TABLE, CVM = 16, 17, 18, 19, 20, 40
"""RAM pages."""
GHCB = 41
"""RAM page of vCPU 0's; the others follow."""
ENTRIES = 512


def gpa_of(ram_page: int) -> int:
    return (ram_page if ram_page < BELOW_PAGES else ram_page - BELOW_PAGES + HIGH_GFN) << 12


def pages(*numbers: int) -> NDArray[np.uint64]:
    return np.array(numbers, dtype=np.uint64)


def span(start: int, end: int) -> NDArray[np.uint64]:
    return np.arange(start, end, dtype=np.uint64)


@dataclass
class Memory:
    """RAM with 4 KiB tables of everything, all private, identity-mapped."""

    ram: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(TOTAL_PAGES * PAGE_SIZE, dtype=np.uint8))

    def __post_init__(self) -> None:
        self.words = self.ram.view(np.uint64)

    def build(self) -> None:
        self.entry(PML4, 0, PDPT << 12 | PRESENT)
        self.entry(PDPT, 0, PD_LOW << 12 | PRESENT)
        self.entry(PDPT, HIGH_GFN >> 18, PD_HIGH << 12 | PRESENT)
        for index in range(TOTAL_PAGES // ENTRIES):
            low = index < BELOW_PAGES // ENTRIES
            slot = index if low else index - BELOW_PAGES // ENTRIES
            self.entry(PD_LOW if low else PD_HIGH, slot, (FIRST_TABLE + index) << 12 | PRESENT)
        self.map(0, TOTAL_PAGES, private=True)

    def entry(self, table: int, index: int, value: int) -> None:
        self.words[table * ENTRIES + index] = value

    def map(self, start: int, end: int, *, private: bool) -> None:
        for ram_page in range(start, end):
            leaf = gpa_of(ram_page) | PRESENT | (SOFT_C_BIT if private else 0)
            self.entry(FIRST_TABLE + ram_page // ENTRIES, ram_page % ENTRIES, leaf)

    def unmap(self, start: int, end: int) -> None:
        for ram_page in range(start, end):
            self.entry(FIRST_TABLE + ram_page // ENTRIES, ram_page % ENTRIES, 0)

    def large(self, index: int, *, private: bool) -> None:
        """Make the 2 MiB at RAM page ``index * 512`` one leaf."""
        low = index < BELOW_PAGES // ENTRIES
        slot = index if low else index - BELOW_PAGES // ENTRIES
        leaf = gpa_of(index * ENTRIES) | PRESENT | LARGE | (SOFT_C_BIT if private else 0)
        self.entry(PD_LOW if low else PD_HIGH, slot, leaf)

    def fill(self, ram_page: int, word: int) -> None:
        self.words[ram_page * ENTRIES : (ram_page + 1) * ENTRIES] = np.arange(ENTRIES, dtype=np.uint64) + word

    def page(self, ram_page: int) -> bytes:
        return self.ram[ram_page * PAGE_SIZE : (ram_page + 1) * PAGE_SIZE].tobytes()


@dataclass
class SmallVm:
    """One guest on one host."""

    memory: Memory
    protection: VmProtection
    boot_id: int = 7
    seq: int = 0

    def ask(self, operation: Operation, *, vcpu: int = 0, **registers: int) -> HypercallReply:
        self.seq += 1
        return self.protection.hypercall(
            HypercallRequest(vcpu=vcpu, operation=operation, seq=self.seq, boot_id=self.boot_id, **registers)
        )

    def hello(self) -> HypercallReply:
        return self.ask(Operation.HELLO, rax=gpa_of(CVM), rbx=PML4 << 12, rcx=SOFT_C_BIT)

    def tell(self, ram_page: int, count: int, *, private: bool, size: int = 0, vcpu: int = 0) -> HypercallReply:
        """The hypercall alone."""
        attributes = size | (1 << 4 if private else 0)
        if not self.protection.flavour.is_es:
            return self.ask(
                Operation.VMMCALL, vcpu=vcpu, rax=HC_MAP_GPA_RANGE, rbx=gpa_of(ram_page), rcx=count, rdx=attributes
            )
        registers = {ghcb.RAX: HC_MAP_GPA_RANGE, ghcb.RBX: gpa_of(ram_page), ghcb.RCX: count, ghcb.RDX: attributes}
        return self.exit({ghcb.EXIT_CODE: ghcb.Exit.VMMCALL, **registers}, vcpu=vcpu)

    def convert(self, ram_page: int, count: int, *, private: bool) -> HypercallReply:
        """As Linux: the tables, then the hypercall."""
        self.memory.map(ram_page, ram_page + count, private=private)
        return self.tell(ram_page, count, private=private)

    def note_conversion(self, *, step: int, vcpu: int = 0) -> None:
        """In the cvm page, as the guest keeps it."""
        at = CVM * PAGE_SIZE
        self.memory.map(CVM, CVM + 1, private=False)
        record = CVM_MAGIC + bytes(504 + 64 * vcpu) + struct.pack("<QQII", 0, 0, 0, step)
        self.memory.ram[at : at + len(record)] = np.frombuffer(record, dtype=np.uint8)

    def ready(self, value: int = 1) -> HypercallReply:
        return self.ask(Operation.WRMSR, rcx=MSR_MIGRATION_CONTROL, rax=value)

    # What a guest with encrypted state does

    def exit(self, fields: dict[int, int], *, vcpu: int = 0) -> HypercallReply:
        """VMGEXIT in page protocol."""
        self.write_ghcb(fields, ram_page=GHCB + vcpu)
        return self.ask(Operation.VMGEXIT, vcpu=vcpu)

    def write_msr(self, value: int, *, vcpu: int = 0) -> HypercallReply:
        """The GHCB MSR, and VMGEXIT."""
        self.ask(Operation.WRMSR, vcpu=vcpu, rcx=MSR_GHCB, rax=value)
        return self.ask(Operation.VMGEXIT, vcpu=vcpu)

    def register_ghcb(self, vcpu: int = 0) -> None:
        """Its page becomes shared, by a MSR protocol that cannot tell so yet: the tables first, then the hypercall."""
        self.memory.map(GHCB + vcpu, GHCB + vcpu + 1, private=False)
        self.write_msr(gpa_of(GHCB + vcpu) | ghcb.REGISTER_REQUEST, vcpu=vcpu)
        self.ask(Operation.WRMSR, vcpu=vcpu, rcx=MSR_GHCB, rax=gpa_of(GHCB + vcpu))

    def write_ghcb(self, fields: dict[int, int], *, ram_page: int = GHCB, version: int = 2) -> None:
        page = bytearray(PAGE_SIZE)
        for offset, value in fields.items():
            struct.pack_into("<Q", page, offset, value)
            if offset < 0x3F0:
                page[0x3F0 + offset // 64] |= 1 << offset // 8 % 8
        struct.pack_into("<HI", page, 0xFFA, version, 0)
        self.memory.ram[ram_page * PAGE_SIZE : (ram_page + 1) * PAGE_SIZE] = np.frombuffer(page, dtype=np.uint8)


def platform(
    flavour: Flavour = SOFT_CSV, *faults: SoftFault, name: str = "source", options: HostOptions | None = None
) -> SoftPlatform:
    return SoftPlatform(flavour, seed=Seed(5), name=name, faults=frozenset(faults), options=options)


def launch(host: SoftPlatform, *, vcpus: int = 2, policy: tuple[str, ...] = (), hello: bool = True) -> SmallVm:
    memory = Memory()
    memory.build()
    protection = host.launch(memory.ram, ADDRESSES, policy=host.flavour.policy(policy), vcpus=vcpus)
    vm = SmallVm(memory, protection)
    if hello:
        vm.hello()
    return vm


def expect(host: SoftPlatform, *, vcpus: int = 2) -> SmallVm:
    memory = Memory()
    return SmallVm(memory, host.expect(memory.ram, ADDRESSES, vcpus=vcpus))
