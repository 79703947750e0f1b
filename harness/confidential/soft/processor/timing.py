"""How long a real secure processor would take: a model without a clock, for whoever paces a relay or judges speed."""

from __future__ import annotations

from dataclasses import dataclass

from harness.confidential.soft.processor.ring_buffer import WINDOW_PAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorSpeed:
    """Two figures: what a command costs, however small, and what each page costs on top."""

    command_us: float
    page_us: float

    def single_s(self, pages: int) -> float:
        """Seconds for *pages* pages, one command each."""
        return pages * (self.command_us + self.page_us) / 1e6

    def batched_s(self, pages: int) -> float:
        """Seconds for *pages* pages in windows as large as they can be."""
        commands = -(-pages // WINDOW_PAGES)
        return (commands * self.command_us + pages * self.page_us) / 1e6

    def pages_per_s(self, *, batched: bool) -> float:
        """Sustained speed."""
        return WINDOW_PAGES / (self.batched_s(WINDOW_PAGES) if batched else self.single_s(WINDOW_PAGES))

    def can_converge(self, *, dirty_pages_per_s: float, downtime_limit_s: float, pages: int, batched: bool) -> bool:
        """Whether a precopy of *pages* private pages ever fits its rest into the downtime (class B34).

        Each pass sends what was written during the one before it, never more than all *pages*; with writes slower than
        the processor the rest shrinks to nothing, with faster ones it grows to all of them.
        """
        cost_s = self.batched_s if batched else self.single_s
        if dirty_pages_per_s < self.pages_per_s(batched=batched):
            return cost_s(1) <= downtime_limit_s
        return cost_s(pages) <= downtime_limit_s


AMD_SINGLE = ProcessorSpeed(command_us=2400.0, page_us=100.0)
"""400 pages a second, the middle of the 350-450 that the AMD series reports; how it divides is our guess."""
