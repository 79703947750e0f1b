"""The harness as a device: an ivshmem-doorbell server for one VM, whose MSI-X vectors it raises.

The protocol is QEMU's (docs/specs/ivshmem-spec.rst): the server tells version, the peer's id and the shared memory,
then one eventfd per vector. The VM is peer 0 (a master has to be, and only a master migrates). The harness is peer 1
with a single vector: the guest rings it, and that is an event for asyncio.

Writing an eventfd raises the vector as soon as QEMU's main loop reads it. Reading it back tells whether QEMU has: so it
is known for each interrupt whether it is in the VM, or still in the device.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import select
import socket
import struct
from collections.abc import Mapping

from harness.model.deadline import Deadline

PROTOCOL_VERSION = 0
SELF, HARNESS = 0, 1
SHARED_BYTES = 4096
_MESSAGE = struct.Struct("<q")
_SLOT = struct.Struct("<I")


class Doorbell:
    """Device of one VM. Make it inside a running loop; :meth:`close` gives everything back."""

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        self._events: list[int] = []
        self._memory = os.memfd_create("cvmig-doorbell", os.MFD_CLOEXEC)
        os.ftruncate(self._memory, SHARED_BYTES)
        self._slots = mmap.mmap(self._memory, SHARED_BYTES)
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._events = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(vectors)]
        self._ours, self.theirs = socket.socketpair()
        self._rung = asyncio.Event()
        self._serve()
        asyncio.get_running_loop().add_reader(self._bell, self._ring)

    def _serve(self) -> None:
        """Everything that QEMU will ask for waits in the socket before QEMU is there."""
        self._tell(PROTOCOL_VERSION)
        self._tell(SELF)
        self._tell(-1, self._memory)
        self._tell(HARNESS, self._bell)
        for event in self._events:
            self._tell(SELF, event)

    def _tell(self, value: int, fd: int | None = None) -> None:
        socket.send_fds(self._ours, [_MESSAGE.pack(value)], [] if fd is None else [fd])

    def raise_vector(self, vector: int, number: int) -> None:
        """Raise *vector*; *number* is what the guest's handler will find as the number of the interrupt."""
        _SLOT.pack_into(self._slots, vector * _SLOT.size, number)
        os.eventfd_write(self._events[vector], 1)

    def take_back(self) -> dict[int, int]:
        """What QEMU has not taken in yet: vector -> how often it was raised. It is the device's again."""
        found = {}
        for vector, event in enumerate(self._events):
            with contextlib.suppress(BlockingIOError):
                found[vector] = os.eventfd_read(event)
        return found

    @property
    def is_taken_in(self) -> bool:
        """True when QEMU has read every eventfd that was written."""
        waiting = select.poll()
        for event in self._events:
            waiting.register(event, select.POLLIN)
        return not waiting.poll(0)

    def set_numbers(self, numbers: Mapping[int, int]) -> None:
        """Write the device's registers, as a device does that goes on where another one has stopped."""
        for vector, number in numbers.items():
            _SLOT.pack_into(self._slots, vector * _SLOT.size, number)

    async def wait_ring(self, deadline: Deadline) -> bool:
        """Wait until the guest has rung since the last call; False when the deadline came first."""
        try:
            async with asyncio.timeout(deadline.left_s):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        self._rung.set()

    def close(self) -> None:
        """Stop listening. Safe to call twice."""
        if self._bell < 0:
            return
        asyncio.get_running_loop().remove_reader(self._bell)
        for fd in (*self._events, self._bell, self._memory):
            os.close(fd)
        self._bell = -1
        self._events = []
        self._slots.close()
        self._ours.close()
        self.theirs.close()
