"""When and how a host's kernel flushes caches, and its known bugs as rules of their own (classes B22 and B23)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from harness.confidential.soft.caches.cache import Caches, WriteBack
from harness.confidential.soft.caches.line_views import SHARED, LineView
from harness.model.memory import LINES_PER_PAGE

Cpus = Collection[int]


class FlushFault(StrEnum):
    """Ways to get it wrong."""

    SKIPPED = "kvm-flush-skipped"
    ONE_CPU = "kvm-flush-one-cpu"
    BEFORE_LAST_WRITE = "kvm-flush-before-last-write"
    WRONG_VIEW = "kvm-flush-wrong-view"
    LINE_SHORT = "kvm-flush-line-short"


def _wbinvd(caches: Caches, cpus: Cpus) -> WriteBack:
    return caches.wbinvd(cpus)


def _wbinvd_too_early(caches: Caches, cpus: Cpus) -> WriteBack:
    return caches.wbinvd_before_newest(cpus)


def _no_wbinvd(_caches: Caches, _cpus: Cpus) -> WriteBack:
    return NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushRules:
    """How one kernel flushes. Its default is complete."""

    everything: Callable[[Caches, Cpus], WriteBack] = _wbinvd
    cpus: Callable[[int], Cpus] = range
    """Which of so many CPUs WBINVD runs on."""
    flushes_ranges: bool = True
    newest_first: bool = True
    """Whether what was written last is in the caches before the flush begins."""
    mapping: Callable[[LineView, LineView], LineView] = lambda old, _new: old
    """Through which view a range is flushed, of the one it was written through and the one that follows."""
    lines_short: int = 0

    @classmethod
    def of(cls, faults: AbstractSet[FlushFault]) -> FlushRules:
        """The rules of a kernel with *faults*."""
        rules = cls()
        for fault, change in _FAULTY.items():
            if fault in faults:
                rules = change(rules)
        return rules


_FAULTY: Mapping[FlushFault, Callable[[FlushRules], FlushRules]] = {
    FlushFault.ONE_CPU: lambda rules: replace(rules, cpus=lambda _count: (0,)),
    FlushFault.BEFORE_LAST_WRITE: lambda rules: replace(rules, everything=_wbinvd_too_early, newest_first=False),
    FlushFault.WRONG_VIEW: lambda rules: replace(rules, mapping=lambda _old, new: new),
    FlushFault.LINE_SHORT: lambda rules: replace(rules, lines_short=1),
    FlushFault.SKIPPED: lambda rules: replace(rules, everything=_no_wbinvd, flushes_ranges=False),
}

NOTHING = WriteBack(lines=0, fallen=np.empty(0, dtype=np.int64), fallen_from=())


class HostFlush:
    """The kernel's duty for one VM: flush what the old view wrote before the new one is used.

    Which operation a bug shows in: all CPUs' WBINVD for ONE_CPU, ranges for WRONG_VIEW and LINE_SHORT, both for others.
    """

    def __init__(self, caches: Caches, rules: FlushRules | None = None) -> None:
        self._caches, self._rules = caches, rules or FlushRules()

    def everything(self) -> WriteBack:
        """WBINVD on all CPUs: a reset (KVM_CONTROL_VCPU_POST_SYSTEM_RESET), the end of a VM, an ASID used again."""
        rules = self._rules
        return rules.everything(self._caches, rules.cpus(self._caches.cpus))

    def pages(self, start_page: int, end_page: int, *, old: LineView, new: LineView = SHARED) -> WriteBack:
        """CLFLUSH of each line of these RAM pages, which *old* wrote and *new* will use: a conversion, a receive."""
        rules = self._rules
        if not rules.flushes_ranges:
            return NOTHING
        start, end = start_page * LINES_PER_PAGE, end_page * LINES_PER_PAGE - rules.lines_short
        flush = self._caches.clflush if rules.newest_first else self._caches.clflush_before_newest
        return flush(rules.mapping(old, new), start, end)
