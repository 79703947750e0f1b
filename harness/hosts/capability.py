"""One thing that a host can or cannot do, with the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What was looked for on a host, and what was there."""

    name: str
    """E.g. ``kvm``, ``sev-es``, ``gcc``."""
    present: bool
    found: str
    """What is there, in words: ``/dev/kvm opens, API version 12``, ``no /dev/sev``."""
    needed: str = ""
    """What would make it present; empty for plain facts such as the number of cores."""
    remedy: str = ""
    """What to do about an absence; empty when nothing can be done."""
