"""Whether this host has more to do than it can: what ran out may then be its time, and no defect of anybody's."""

from __future__ import annotations

import os

_LOAD_PER_PROCESSOR = 3.0
"""Two QEMUs and the harness are a load of three to four; a deadline holds where a few of them share two processors."""


def busy_words(load: float, processors: int) -> str:
    """What to say of a host of *processors* with a load average of *load*; empty when it is not busy."""
    if load <= _LOAD_PER_PROCESSOR * processors:
        return ""
    return f"this host was busy (load {load:.0f} on {processors} processors): raise deadline_s, or try it when quiet"


def busy_now() -> str:
    """The same of this host, over the last minute (getloadavg(3))."""
    return busy_words(os.getloadavg()[0], os.cpu_count() or 1)
