"""Which pages of a confidential guest are private (encrypted) and which are shared.

A map is kept by RAM page (ram_addr >> 12), see :mod:`harness.model.address_map`. Whatever is not shared is private, as
in the list that QEMU of the AMD/Hygon series keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from harness.model.address_map import AddressMap
from harness.model.memory import PAGE_SHIFT, PAGE_SIZE
from harness.model.page_set import PageSet

ENCRYPTED_BIT = 1 << 4
"""KVM_HC_MAP_GPA_RANGE a2: 1 = private (Documentation/virt/kvm/x86/hypercalls.rst)."""
PAGE_SIZE_MASK = 0xF
"""KVM_HC_MAP_GPA_RANGE a2: preferred page size, 0 = 4K, 1 = 2M, 2 = 1G; a hint that never changes the meaning."""
LARGEST_PAGE_SIZE = 2
U64_LIMIT = 1 << 64


class Witness(StrEnum):
    """Who tells a page map."""

    GUEST_TABLES = "guest-page-tables"
    """The guest walked its own page tables."""
    HOST_WALK = "host-walk"
    """The host walked the guest's page tables through the memory backend."""
    HYPERCALLS = "hypercall-log"
    """What KVM_HC_MAP_GPA_RANGE calls add up to."""
    HOST_LIST = "host-list"
    """The list that the host keeps and migrates."""
    STREAM = "stream"
    """The kind of record in which each page travelled."""
    DESTINATION = "destination"
    """The list on the destination, after the move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """One KVM_HC_MAP_GPA_RANGE as the host received it: registers, not their meaning."""

    gpa: int
    """a0."""
    pages: int
    """a1, always in 4 KiB pages."""
    attributes: int
    """a2: :data:`ENCRYPTED_BIT` and a preferred page size."""
    result: int = 0
    """What the guest got back in RAX: 0, or a negative KVM errno."""

    @classmethod
    def of_bytes(cls, gpa: int, size_bytes: int, *, private: bool) -> Self:
        """The call that covers every page of [gpa, gpa + size_bytes): the start rounded down, the end rounded up."""
        first, end = gpa >> PAGE_SHIFT, (gpa + size_bytes + PAGE_SIZE - 1) >> PAGE_SHIFT
        return cls(gpa=first << PAGE_SHIFT, pages=end - first, attributes=ENCRYPTED_BIT if private else 0)

    @property
    def is_private(self) -> bool:
        """Bit 4 alone, whatever the page size says."""
        return bool(self.attributes & ENCRYPTED_BIT)

    @property
    def page_size(self) -> int:
        """The preferred page size, see :data:`PAGE_SIZE_MASK`."""
        return self.attributes & PAGE_SIZE_MASK

    @property
    def refusal(self) -> str:
        """Why the call is invalid, empty when it is not.

        The first three are KVM's own rules (kvm_emulate_hypercall in arch/x86/kvm/x86.c answers -EINVAL); the bits of
        a2 are what hypercalls.rst asks of the caller.
        """
        first = self.gpa >> PAGE_SHIFT
        reasons = {
            "start is not page-aligned": self.gpa % PAGE_SIZE != 0,
            "no pages": self.pages == 0,
            "range wraps around": (first + self.pages) % U64_LIMIT <= first or self.pages >= U64_LIMIT,
            "undefined page size": self.page_size > LARGEST_PAGE_SIZE,
            "reserved attribute bits are set": self.attributes >> 5 != 0,
        }
        return next((reason for reason, is_so in reasons.items() if is_so), "")

    @property
    def took_effect(self) -> bool:
        """Whether it changes anything: a valid call that was answered with success."""
        return not self.refusal and self.result == 0

    @property
    def gfns(self) -> PageSet:
        """The guest frames that it names, whether it took effect or not; none for an invalid call."""
        if self.refusal:
            return PageSet.empty()
        first = self.gpa >> PAGE_SHIFT
        return PageSet.of((first, first + self.pages))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageMap:
    """A private/shared map of *total_pages* RAM pages. An immutable value."""

    total_pages: int
    shared: PageSet

    def __post_init__(self) -> None:
        if self.shared and int(self.shared.edges[-1]) > self.total_pages:
            raise ValueError(f"shared page {int(self.shared.edges[-1]) - 1:#x} of {self.total_pages:#x} RAM pages")

    @classmethod
    def all_private(cls, total_pages: int) -> PageMap:
        """As a guest's memory starts."""
        return cls(total_pages=total_pages, shared=PageSet.empty())

    @property
    def everything(self) -> PageSet:
        """All RAM pages."""
        return PageSet.of((0, self.total_pages))

    @property
    def private(self) -> PageSet:
        """Whatever is not shared."""
        return self.everything - self.shared

    def with_pages(self, pages: PageSet, *, private: bool) -> PageMap:
        """The map after *pages* became private or shared."""
        return replace(self, shared=self.shared - pages if private else self.shared | pages)

    def difference(self, other: PageMap) -> PageSet:
        """Pages of which the two maps say different things (symmetric)."""
        return self.shared ^ other.shared

    def convert(self, conversion: Conversion, addresses: AddressMap) -> PageMap:
        """The map after *conversion*. What it names outside mapped RAM has no place here and is left out."""
        if not conversion.took_effect:
            return self
        ram_pages, _ = addresses.to_ram(conversion.gfns)
        return self.with_pages(ram_pages, private=conversion.is_private)
