"""QEMU's own trace events as evidence: lines of its log backend, written into a memfd that QEMU inherits."""

from __future__ import annotations

import os
import re

from harness.model.handler_trace import TraceEvent

_LINE = re.compile(r"(?:\d+@\d+\.\d+:)?(\w+)(?: (.*))?")
"""With ``-msg timestamp=on`` a line begins with process and time."""


class TraceLog:
    """Where one QEMU writes the events it was told to trace."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("cvmig-trace", os.MFD_CLOEXEC)

    def text(self) -> str:
        """Everything so far; the last line may be in the making."""
        size = os.fstat(self.fd).st_size
        return os.pread(self.fd, size, 0).decode(errors="replace")

    def close(self) -> None:
        """Safe to call twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def parse_trace(text: str) -> tuple[TraceEvent, ...]:
    """Events in order. Lines that are none (QEMU's warnings) are left out."""
    whole, _, _ = text.rpartition("\n")
    matches = (_LINE.fullmatch(line) for line in whole.splitlines())
    return tuple(TraceEvent(name=match[1], words=match[2] or "") for match in matches if match)
