"""KVM_HC_MAP_GPA_RANGE as it comes in: what is answered, what is logged, and what is not finished yet.

Registers and errors: Documentation/virt/kvm/x86/hypercalls.rst, include/uapi/linux/kvm_para.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.confidential.soft.channel.hypercalls import HypercallReply, ReplyFlag
from harness.confidential.soft.memory.host_list import HostList
from harness.confidential.soft.options import HostOptions
from harness.model.page_map import Conversion, PageMap

KVM_ENOSYS, KVM_EFAULT, KVM_EINVAL = 1000, 14, 22
RETRY_PAGES = (64 << 20) >> 12
"""A host that answers RETRY converts so much at once (QEMU on TDX, MapGPA)."""

Pages = NDArray[np.uint64]
Contents = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Pages that a vCPU has made shared and may not have written since."""

    spans: tuple[tuple[int, int], ...]
    """RAM pages, ascending."""
    contents: Contents
    """Theirs at the moment of the call, page after page."""

    def touches(self, ram_pages: Pages) -> bool:
        """Whether any of *ram_pages* is among them."""
        return bool(self.holds(ram_pages).any())

    def holds(self, ram_pages: Pages) -> NDArray[np.bool_]:
        """Which of *ram_pages* are among them."""
        held = np.zeros(len(ram_pages), dtype=np.bool_)
        for start, end in self.spans:
            held |= (ram_pages >= start) & (ram_pages < end)
        return held

    def before(self, ram_pages: Pages) -> Contents:
        """The content of *ram_pages*, all of which must be among them, at the moment of the call."""
        rows = np.zeros(len(ram_pages), dtype=np.int64)
        passed = 0
        for start, end in self.spans:
            inside = (ram_pages >= start) & (ram_pages < end)
            rows[inside] = ram_pages[inside].astype(np.int64) - start + passed
            passed += end - start
        return self.contents[rows]


TakeContents = Callable[[tuple[tuple[int, int], ...]], Contents]


@dataclass(slots=True, kw_only=True)
class Conversions:
    """All conversions of one VM since launch, arrival or reset. Not thread-safe: its owner locks."""

    host_list: HostList
    options: HostOptions
    scramble_key: int
    """What each successful call gives the guest; 0: content is left as it was."""
    contents: TakeContents
    """Of RAM page spans, at this moment, a copy."""
    turns: Callable[[int, Conversion], None] = lambda _vcpu, _conversion: None
    """Told of each that succeeds, with its vCPU, before that is answered and writes through the other view."""
    log: list[Conversion] = field(default_factory=list)
    initial: PageMap | None = None
    """The host's map before the first of *log*; None is all private."""
    _latest: dict[int, Unfinished] = field(default_factory=dict)
    _refuse_in: int = 0

    def refuse_next(self, nth: int) -> None:
        """Refuse the *nth* valid call to share memory from now on, counted from 1; 0 takes it back."""
        self._refuse_in = nth

    def begin_anew(self, initial: PageMap) -> None:
        """After a reset or an arrival, with the host's map of that moment."""
        self.log.clear()
        self._latest.clear()
        self.initial = initial

    def finished(self, vcpu: int) -> None:
        """*vcpu* does something else, so it is through with its conversion."""
        self._latest.pop(vcpu, None)

    @property
    def unfinished(self) -> Mapping[int, Unfinished]:
        """What each vCPU made shared last, while nothing else was heard of that vCPU."""
        return self._latest

    def call(self, vcpu: int, gpa: int, pages: int, attributes: int) -> HypercallReply:
        """HypercallReply one call."""
        asked = Conversion(gpa=gpa, pages=pages, attributes=attributes)
        error = self._refusal(asked)
        if error:
            self.log.append(replace(asked, result=-error))
            return HypercallReply(value=-error)
        done = asked
        if self.options.answers_retry and pages > RETRY_PAGES:
            done = replace(asked, pages=RETRY_PAGES)
        self.log.append(done)
        if not done.is_private:
            spans = self._turning(done)
            self._latest[vcpu] = Unfinished(spans, self.contents(spans))
        self.host_list.convert(done)
        self.turns(vcpu, done)
        if done is asked:
            return HypercallReply(extra=self.scramble_key)
        return HypercallReply(value=gpa + (done.pages << 12), extra=self.scramble_key, flags=ReplyFlag.RETRY)

    def _turning(self, call: Conversion) -> tuple[tuple[int, int], ...]:
        """RAM pages that *call* turns from private to shared. Those that are shared already stay as they are."""
        first = call.gpa >> 12
        spans: list[tuple[int, int]] = []
        for start, end in self.host_list.addresses.ram_spans(first, first + call.pages):
            was_private = ~self.host_list.is_shared(np.arange(start, end, dtype=np.uint64))
            edges = np.flatnonzero(np.diff(np.concatenate([[0], was_private.astype(np.int8), [0]]))) + start
            spans += [(int(low), int(high)) for low, high in zip(edges[::2], edges[1::2], strict=True)]
        return tuple(spans)

    def _refusal(self, asked: Conversion) -> int:
        if not self.options.offers_migration:
            return KVM_ENOSYS
        if asked.refusal:
            return KVM_EINVAL
        if self._refuse_in and not asked.is_private:
            self._refuse_in -= 1
            if not self._refuse_in:
                return KVM_EFAULT
        unwilling = self.options.refused_range
        if unwilling and asked.gpa < unwilling.end and unwilling.start < asked.gpa + (asked.pages << 12):
            return KVM_EFAULT
        return 0
