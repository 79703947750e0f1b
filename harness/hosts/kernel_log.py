"""What the kernel logs meanwhile: /dev/kmsg from its end on, one record with each read.

Format: Linux Documentation/ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.model.errors import UnsupportedError
from harness.model.reset import KernelLogDifference

_MOST_BYTES = 1 << 14
"""A record has at most 8 KiB; a shorter read would fail with EINVAL."""

_KEPT_LINES = 500


class KernelLog:
    """From its construction on. Use as a context manager, or call ``close``."""

    def __init__(self, device: Path = Path("/dev/kmsg")) -> None:
        """UnsupportedError when this process may not read it."""
        try:
            self._fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as problem:
            raise UnsupportedError(
                f"{device}: {problem.strerror}, so the kernel's log is not watched",
                hint="run as root, or set kernel.dmesg_restrict to 0",
            ) from None
        with contextlib.suppress(OSError):  # a stand-in may have no end to go to
            os.lseek(self._fd, 0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def difference(self) -> KernelLogDifference:
        """What was logged since the last look. Never blocks."""
        lines: list[str] = []
        lost = 0
        while True:
            try:
                record = os.read(self._fd, _MOST_BYTES)
            except BrokenPipeError:
                lost += 1  # EPIPE: records were overwritten before they were read
                continue
            except OSError:
                break
            if not record:
                break
            if len(lines) < _KEPT_LINES:
                lines.append(record_line(record))
            else:
                lost += 1
        return KernelLogDifference(lines=tuple(lines), lost=lost)

    def close(self) -> None:
        """Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def record_line(record: bytes) -> str:
    """``6,339,5140900,-;text`` as ``<6>[5.140900] text``; continuation lines with tags are left out."""
    head, _, text = record.decode(errors="replace").partition(";")
    fields = head.split(",")
    if len(fields) < 3 or not fields[0].isdecimal() or not fields[2].isdecimal():
        return record.decode(errors="replace").strip()
    since_boot_us = int(fields[2])
    # The lowest three bits are the level, the rest is the facility.
    level = int(fields[0]) & 7
    first = text.partition("\n")[0]
    return f"<{level}>[{since_boot_us // 1_000_000}.{since_boot_us % 1_000_000:06d}] {first}"
