"""The keeper's own program; runs by itself (``python -I -S``), so it imports nothing of the harness.

Usage: keeper_main.py PID PREFIX OWN_PREFIX, with the harness's pipe as standard input. Lines on it: ``+FOLDER`` to
remove at the end, ``-FOLDER`` to leave alone again, ``.`` for a keeper that is closed in peace: then only VMs named
OWN_PREFIX are its business.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_QUIET_S = 0.5
"""A process that was being started when the harness died shows within this time."""

_SCAN_S = 0.01


def main(pid: int, process_prefix: bytes, own_prefix: bytes) -> None:
    folders, in_peace = _listen(pid)
    prefix, quiet_s = (own_prefix, 0.0) if in_peace else (process_prefix, _QUIET_S)
    quiet_until_s = time.monotonic() + quiet_s
    while _kill_all(prefix) or time.monotonic() < quiet_until_s:
        time.sleep(_SCAN_S)
    for folder in folders:
        _remove(folder)


def _listen(pid: int) -> tuple[set[str], bool]:
    """Read the harness's lines until it is gone."""
    folders: set[str] = set()
    in_peace = False
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    harness = _pidfd(pid)
    if harness is not None:
        # A forked child of the harness may keep the pipe open; the process itself is gone all the same.
        poll.register(harness, select.POLLIN)
    rest = b""
    while True:
        ready = {fd for fd, _ in poll.poll()}
        chunk = os.read(0, 65536) if 0 in ready else b""
        rest += chunk
        *lines, rest = rest.split(b"\n")
        for line in lines:
            in_peace = in_peace or line == b"."
            _note(folders, os.fsdecode(line))
        if not chunk:
            return folders, in_peace


def _pidfd(pid: int) -> int | None:
    if os.getppid() != pid:
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _note(folders: set[str], line: str) -> None:
    if line.startswith("+"):
        folders.add(line[1:])
    elif line.startswith("-"):
        folders.discard(line[1:])


def _kill_all(prefix: bytes) -> bool:
    """Kill every process whose ``-name`` begins with *prefix*; tells whether there was one."""
    found = False
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _is_ours(entry.name, prefix):
            found = True
            _kill(int(entry.name), prefix)
    return found


def _is_ours(pid: str, prefix: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - pathlib doubles the start-up time
            words = file.read()
    except OSError:
        return False
    return b"\0-name\0guest=" + prefix in words


def _kill(pid: int, prefix: bytes) -> None:
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The descriptor now names one process for good; only then is the number's owner certain.
        if _is_ours(str(pid), prefix):
            signal.pidfd_send_signal(process, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(process)


def _remove(folder: str) -> None:
    from shutil import rmtree  # noqa: PLC0415 - costs more than all the rest, and is seldom needed

    rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3]))
