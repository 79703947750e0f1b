"""The steps that move forwarded LPIs come in the order that keeps their pending state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.model.forwarding import RESUME_ORDER, SAVE_ORDER, Act, Done
from harness.model.verdict import Finding

CHECK = "irq/forwarding"


def check_forwarding(done: Sequence[Done]) -> tuple[Finding, ...]:
    """Every step of *done* after those that it builds upon, and none that drops what is pending."""
    return (*_out_of_order(done, SAVE_ORDER), *_out_of_order(done, RESUME_ORDER), *_dropped(done))


def _out_of_order(done: Sequence[Done], order: Sequence[Act]) -> Iterator[Finding]:
    acts = [one.act for one in done]
    for later, act in enumerate(order):
        for before in order[:later]:
            # The first time that something is done needs what goes before, the last time of it.
            if act in acts and (before not in acts or acts.index(act) < len(acts) - 1 - acts[::-1].index(before)):
                detail = f"{act} before {before}" if before in acts else f"{act}, and never: {before}"
                yield _finding("order", str(act), detail, "state that changes after it was written is lost")


def _dropped(done: Sequence[Done]) -> Iterator[Finding]:
    for one in done:
        if one.act is Act.UNFORWARDED and one.was_pending:
            yield _finding(
                "dropped",
                f"INTID {one.intid:#x}",
                "forwarding was unset while the LPI was pending in hardware, and nobody took its state back",
                "a device that sets up its MSIs more than once on load: allocate all vectors first",
            )


def _finding(kind: str, where: str, detail: str, remedy: str) -> Finding:
    return Finding(check=CHECK, kind=kind, where=where, detail=detail, remedy=remedy)
