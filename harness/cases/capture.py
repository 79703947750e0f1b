"""The captured stream of a case that failed without having been recorded: written only when it is wanted.

Between the switch-over and the end of the case the stopped source holds main memory as it was sent, and the relay holds
everything else. When the witnesses disagree already before the destination runs, its memory is what was delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from harness.migration.relay import Relay
from harness.vm.vm import Vm

STREAM = "stream.bin"
"""The captured stream of a hop, in the case's folder (with the hop's number from the second on)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What a stream can be made of as long as the memory of *vm* stands still."""

    path: Path
    relay: Relay
    vm: Vm

    async def write(self) -> None:
        """Write the stream, unless it was recorded as it went. A full disk costs the stream and nothing else."""
        if not self.path.exists():
            await asyncio.to_thread(self._write)

    def _write(self) -> None:
        try:
            with self.path.open("xb") as file:
                self.path.chmod(0o600)
                ram = self.vm.ram
                for piece in self.relay.settled(self.vm.spec.ram_id, ram.buffer, ram.data_extents()):
                    file.write(piece)
        except OSError:
            with contextlib.suppress(OSError):
                self.path.unlink()


def stream_path(folder: Path, number: int) -> Path:
    """Where the stream of hop *number* (from 0) goes."""
    return folder / (STREAM if number == 0 else f"stream-{number + 1}.bin")
