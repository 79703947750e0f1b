"""Guest memory that QEMU and the harness share, in a file without a name: nothing is left by any kind of death."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.hosts.huge_file import open_huge_file
from harness.model.errors import SetupError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
"""A file that cannot shrink cannot raise SIGBUS in whoever has mapped it."""

_POPULATE_CHUNK_BYTES = 4 << 20
_MADV_POPULATE_WRITE = 23
"""Linux 5.14, include/uapi/asm-generic/mman-common.h; it faults pages in and leaves what is in them."""

# Not mmap.madvise, which keeps the interpreter lock.
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_madvise.restype = ctypes.c_int


@dataclass(slots=True)
class SharedRam:
    """Main memory of one VM, in ram_addr order: offset 0 is ram_addr 0."""

    size_bytes: int
    fd: int
    _map: mmap.mmap
    buffer: NDArray[np.uint8] = field(repr=False)
    """Every byte, writable, no copy. Reading a hole through it allocates the page: ask ``data_extents`` first."""

    @classmethod
    def create(cls, size_bytes: int) -> SharedRam:
        """Memory that reads as zero, in huge pages where they can be had. SetupError when the system refuses."""
        try:
            fd = _open_file()
        except OSError as problem:
            raise SetupError(f"no memory for the guest: {problem.strerror}") from None
        try:
            os.ftruncate(fd, size_bytes)
            # A file of a mounted tmpfs takes no seals. Only QEMU has it besides us, and changes no file's size.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            mapped = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            # As QEMU asks for its own mapping of it: what is populated through ours has to come in the same pages.
            with contextlib.suppress(OSError):
                mapped.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, ValueError, OverflowError) as problem:
            os.close(fd)
            raise SetupError(f"cannot map {size_bytes >> 20} MiB of guest memory: {problem}") from None
        return cls(size_bytes, fd, mapped, np.frombuffer(mapped, dtype=np.uint8))

    def data_extents(self) -> Iterator[tuple[int, int]]:
        """Half-open ranges of ram_addr with all that was ever written, ascending. All else reads as zero."""
        end = 0
        while end < self.size_bytes:
            try:
                start = os.lseek(self.fd, end, os.SEEK_DATA)
            except OSError as problem:
                if problem.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(self.fd, start, os.SEEK_HOLE)
            yield start, end

    def populate(self, is_wanted: Callable[[], bool]) -> None:
        """Give every page its place in the host's memory now, as long as *is_wanted*; content stays as it is.

        A destination gets all its pages anyway, else one fault each while the stream is loaded. Any thread may do it,
        also while QEMU writes, but not while :meth:`close` runs. A kernel that cannot do it leaves it to the faults.
        """
        buffer = self.buffer
        for start in range(0, self.size_bytes, _POPULATE_CHUNK_BYTES):
            size_bytes = min(_POPULATE_CHUNK_BYTES, self.size_bytes - start)
            if not is_wanted() or _madvise(buffer.ctypes.data + start, size_bytes, _MADV_POPULATE_WRITE):
                return

    @property
    def view(self) -> memoryview:
        """The same bytes as ``buffer``, for what wants a buffer and no array."""
        return memoryview(self._map)

    @property
    def used_bytes(self) -> int:
        """How much of it takes up the host's memory."""
        return os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        """Give the memory back; arrays that others still hold keep it alive until they go. Safe to call twice."""
        if self.fd < 0:
            return
        os.close(self.fd)
        self.fd = -1
        self.buffer = np.empty(0, dtype=np.uint8)
        with contextlib.suppress(BufferError):
            self._map.close()


def _open_file() -> int:
    try:
        return open_huge_file()
    except OSError:
        return os.memfd_create("cvmig-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
