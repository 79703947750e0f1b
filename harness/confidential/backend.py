"""Confidential technologies by name. A backend says how a guest's memory is protected and whether this host can do it.

For now there is one, ``none``: memory is plain, the host may read it, and every witness is available. The software
platform and the hardware backends join this table.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from harness.model.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One confidential technology."""

    name: str
    summary: str
    host_reads_memory: bool
    """Whether the host sees plaintext, so that it can compare RAM byte by byte against the guest's pattern."""


BACKENDS = {
    "none": Backend(name="none", summary="plain memory, nothing is encrypted", host_reads_memory=True),
}


def find_backend(name: str) -> Backend:
    """The backend called *name*. UsageError with the nearest name when there is none."""
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known backends: {', '.join(BACKENDS)}"
        raise UsageError(f"unknown backend {name!r}", hint=hint)
    return BACKENDS[name]
