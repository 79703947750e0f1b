"""The device that the harness plays, and the ledger that the guest keeps of it."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest

from harness.guest.interrupts import MAGIC, LedgerReader, Opened
from harness.model.deadline import Deadline
from harness.model.errors import PreconditionError, ProtocolError
from harness.model.guest import RamLayout
from harness.model.machine import Arch
from harness.vm.doorbell import Doorbell


def messages(sock: socket.socket, count: int) -> list[tuple[int, list[int]]]:
    found = []
    for _ in range(count):
        data, fds, _, _ = socket.recv_fds(sock, 8, 1)
        found.append((struct.unpack("<q", data)[0], fds))
    return found


def test_all_that_qemu_asks_for_waits_in_the_socket() -> None:
    async def look() -> None:
        bell = Doorbell(3)
        told = messages(bell.theirs, 7)
        assert [value for value, _ in told] == [0, 0, -1, 1, 0, 0, 0]
        assert [len(fds) for _, fds in told] == [0, 0, 1, 1, 1, 1, 1]
        memory, rings, first, second, _ = (fds[0] for _, fds in told if fds)
        bell.raise_vector(1, 7)
        assert not bell.is_taken_in
        assert os.eventfd_read(second) == 1
        assert bell.is_taken_in
        assert os.pread(memory, 12, 0) == struct.pack("<3I", 0, 7, 0)
        bell.raise_vector(0, 1)
        assert bell.take_back() == {0: 1}
        with pytest.raises(BlockingIOError):
            os.eventfd_read(first)
        assert not await bell.wait_ring(Deadline.after(0))
        os.eventfd_write(rings, 1)
        assert await bell.wait_ring(Deadline.after(5))
        for _, fds in told:
            for fd in fds:
                os.close(fd)
        bell.close()
        bell.close()

    asyncio.run(look())


CPU_BYTES = 64 + 4 * 32
OPENED = Opened(page_gpa=0, page_bytes=640 + 8 * CPU_BYTES, features=0, vcpus=2, vectors=1, ticks_per_s=1)
LAYOUT = RamLayout.of(Arch.X86_64, 1 << 20)


def page(*counts: int) -> bytearray:
    """A ledger with room for four records per vCPU; record *n* of vCPU *v* has number 10 v + n and order 2 n + v."""
    ram = bytearray(640 + 8 * CPU_BYTES)
    struct.pack_into("<QIIIIQ", ram, 0, MAGIC, 1, len(counts), 4, 0, 99)
    for vcpu, count in enumerate(counts):
        at = 640 + vcpu * CPU_BYTES
        struct.pack_into("<4Q", ram, at, count, 0, 0, 0)
        for index in range(max(0, count - 4), count):
            place = at + 64 + index % 4 * 32
            order = 2 * index + vcpu
            struct.pack_into("<QQIHBBII", ram, place, order, 5, 10 * vcpu + index, 3, vcpu, 10, 0x41, 1)
    return ram


def test_each_record_is_read_once_and_in_order() -> None:
    reader = LedgerReader(LAYOUT, OPENED)
    assert [record.number for record in reader.read(memoryview(page(2, 1)))] == [0, 10, 1]
    assert [record.number for record in reader.read(memoryview(page(5, 1)))] == [2, 3, 4]
    assert reader.received[0].is_nested
    assert reader.received[0].is_deferred
    assert not reader.received[0].is_spurious
    assert reader.last_order(memoryview(page(1, 1))) == 99


def test_a_ledger_that_ran_over_proves_nothing() -> None:
    reader = LedgerReader(LAYOUT, OPENED)
    reader.read(memoryview(page(1, 0)))
    with pytest.raises(PreconditionError, match="ran over"):
        reader.read(memoryview(page(6, 0)))


def test_memory_without_a_ledger_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no ledger"):
        LedgerReader(LAYOUT, OPENED).last_order(memoryview(bytearray(4096)))
