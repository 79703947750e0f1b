"""Lines of an old view of memory over what was written since: a missing or partial flush (B22, B23).

The other witnesses of memory say which lines are wrong; this one says where their content comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from harness.confidential.soft.caches.line_origin import LineOrigin
from harness.model.memory import LINES_PER_PAGE, PAGE_SIZE
from harness.model.verdict import Finding

CHECK = "memory/stale-lines"

_LISTED = 4


def check_stale_lines(origins: Sequence[LineOrigin], *, role: str) -> tuple[Finding, ...]:
    """Of lines that are not as they should be, those that some view is known to have written; one finding a view."""
    known = sorted((origin for origin in origins if origin.written), key=lambda origin: (origin.view, origin.ram_addr))
    return tuple(_finding(view, list(group), role) for view, group in groupby(known, key=lambda origin: origin.view))


def _finding(view: str, lines: Sequence[LineOrigin], role: str) -> Finding:
    counts = [len(list(group)) for _, group in groupby(lines, key=lambda line: line.ram_addr // PAGE_SIZE)]
    whole = sum(count == LINES_PER_PAGE for count in counts)
    first = "; ".join(f"{line.place} is {line.content}" for line in lines[:_LISTED])
    return Finding(
        check=CHECK,
        kind="old-view",
        where=f"{role} {lines[0].place}",
        detail=f"{len(lines)} lines of 64 bytes in {len(counts)} pages ({whole} whole) were written through {view} "
        f"and came back over newer content: {first}{'; ...' if len(lines) > _LISTED else ''}",
        remedy="class B22, B23: caches are flushed, on all CPUs and to the last line, before another view is used",
    )
