"""Confidential technologies by name. A backend says how a guest's memory is protected and whether this host can do it.

``none`` is plain memory: the host may read it, and every witness is available. ``soft-*`` are played by the software
platform on any machine, see README.md. The hardware backends join this table.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from harness.confidential.soft.flavour import SOFT_CSV, SOFT_CSV2, SOFT_SEV, Flavour
from harness.model.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One confidential technology."""

    name: str
    summary: str
    host_reads_memory: bool
    """Whether the harness sees plaintext, so that it can compare RAM byte by byte against the guest's pattern."""
    flavour: Flavour | None = None
    """Of the software platform; None for what it does not play."""

    @property
    def is_soft(self) -> bool:
        """Whether the software platform plays it."""
        return self.flavour is not None

    @property
    def is_es(self) -> bool:
        """Whether vCPU state is encrypted too."""
        return self.flavour is not None and self.flavour.is_es


def _soft(flavour: Flavour, summary: str) -> Backend:
    # The host of the emulation sees ciphertext; the harness around it has the plaintext in QEMU's memory.
    return Backend(name=flavour.name, summary=summary, host_reads_memory=True, flavour=flavour)


BACKENDS = {
    "none": Backend(name="none", summary="plain memory, nothing is encrypted", host_reads_memory=True),
    "soft-sev": _soft(SOFT_SEV, "emulated SEV: private memory, one page with each command"),
    "soft-csv": _soft(SOFT_CSV, "emulated CSV: private memory, pages in batches"),
    "soft-csv2": _soft(SOFT_CSV2, "emulated CSV2: as CSV, and vCPU state is encrypted (GHCB, VMSA)"),
}


def find_backend(name: str) -> Backend:
    """The backend called *name*. UsageError with the nearest name when there is none."""
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known backends: {', '.join(BACKENDS)}"
        raise UsageError(f"unknown backend {name!r}", hint=hint)
    return BACKENDS[name]
