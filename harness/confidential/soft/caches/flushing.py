"""When and how a host's kernel flushes caches, and its known bugs as rules of their own (classes B22 and B23)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np

from harness.confidential.soft.caches.cache import Caches, WriteBack
from harness.confidential.soft.caches.line_views import SHARED, LineView
from harness.model.memory import LINES_PER_PAGE
from harness.model.soft_fault import SoftFault

Cpus = Collection[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlushRules:
    """How one kernel flushes. Its default is complete."""

    cpus: Callable[[int], Cpus] = range
    """Which of so many CPUs WBINVD runs on."""
    flushes_ranges: bool = True
    newest_first: bool = True
    """Whether what was written last is in the caches before the flush begins."""
    mapping: Callable[[LineView, LineView], LineView] = lambda old, _new: old
    """Through which view a range is flushed, of the one it was written through and the one that follows."""
    lines_short: int = 0

    @property
    def flushes_ranges_well(self) -> bool:
        """Whether nothing is wrong with flushes of ranges."""
        default = FlushRules()
        return replace(self, cpus=default.cpus) == default

    @classmethod
    def of(cls, faults: AbstractSet[SoftFault]) -> FlushRules:
        """The rules of a kernel with *faults*."""
        rules = cls()
        for fault, change in _FAULTY.items():
            if fault in faults:
                rules = change(rules)
        return rules


_FAULTY: Mapping[SoftFault, Callable[[FlushRules], FlushRules]] = {
    SoftFault.FLUSH_ONE_CPU: lambda rules: replace(rules, cpus=lambda _count: (0,)),
    SoftFault.FLUSH_BEFORE_LAST_WRITE: lambda rules: replace(rules, newest_first=False),
    SoftFault.FLUSH_WRONG_VIEW: lambda rules: replace(rules, mapping=lambda _old, new: new),
    SoftFault.FLUSH_LINE_SHORT: lambda rules: replace(rules, lines_short=1),
    SoftFault.FLUSH_SKIPPED: lambda rules: replace(rules, cpus=lambda _count: (), flushes_ranges=False),
}

NOTHING = WriteBack(lines=0, fallen=np.empty(0, dtype=np.int64), fallen_from=())


class HostFlush:
    """The kernel's duty for one VM: flush what the old view wrote before the new one is used.

    Which operation a bug shows in: all CPUs' WBINVD for ONE_CPU, ranges for WRONG_VIEW and LINE_SHORT, both for others.
    """

    def __init__(self, caches: Caches, rules: FlushRules | None = None) -> None:
        self._caches, self._rules = caches, rules or FlushRules()

    def everything(self) -> WriteBack:
        """WBINVD on all CPUs: a reset (KVM_CONTROL_VCPU_POST_SYSTEM_RESET), the end of a VM, an ASID used again.

        Whatever is flushed, all that was written so far has been looked at afterwards.
        """
        rules, caches = self._rules, self._caches
        if rules.newest_first:
            caches.look()
        done = caches.wbinvd_before_newest(rules.cpus(caches.cpus))
        if not rules.newest_first:
            caches.look()
        return done

    def pages(self, start_page: int, end_page: int, *, old: LineView, new: LineView = SHARED) -> WriteBack:
        """CLFLUSH of each line of these RAM pages, which *old* wrote and *new* will use: a conversion, a receive.

        Whatever is flushed, what was written there so far has been looked at afterwards.
        """
        rules, caches = self._rules, self._caches
        if rules.flushes_ranges_well:
            return caches.clflush(old, start_page * LINES_PER_PAGE, end_page * LINES_PER_PAGE)
        if rules.newest_first:
            caches.look(start_page, end_page)
        done = NOTHING
        if rules.flushes_ranges:
            start, end = start_page * LINES_PER_PAGE, end_page * LINES_PER_PAGE - rules.lines_short
            done = caches.clflush_before_newest(rules.mapping(old, new), start, end)
        if not rules.newest_first:
            caches.look(start_page, end_page)
        return done
