"""Save a stopped VM once more, without its shared RAM: devices, vCPUs and the small RAM blocks (firmware, ACPI tables).

Two such streams, one of the source after it completed and one of the destination before it ran, are compared field by
field; no guest is needed for that. ``x-ignore-shared`` leaves the memory backend out (QEMU: ram_save_setup), so a
re-save is about a megabyte.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.migration.capabilities import set_capabilities
from harness.migration.hold import set_parameters
from harness.migration.watch import TERMINAL
from harness.model.deadline import Deadline
from harness.model.errors import HarnessError
from harness.vm.vm import Vm

LIMIT_BYTES = 256 << 20
"""A re-save larger than this is not one: x-ignore-shared did not take."""

_COMMAND_S = 10.0


async def save_devices(vm: Vm, folder: Path, *, deadline: Deadline) -> bytes:
    """Return the stream of *vm*, which must be stopped; it stays so, in run state ``postmigrate``.

    Capabilities and parameters stay as the re-save needs them; a migration sets its own.
    *folder* is private and on the same machine; a socket lives there for the time of the call.

    Raises UnsupportedError when the binary has no ``x-ignore-shared``, HarnessError when saving failed.
    """
    await _prepare(vm, deadline)
    socket_path = folder / f"resave-{vm.role}.sock"
    chunks: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            chunks.set_result(await _read_all(reader))
        except (HarnessError, ConnectionError) as problem:
            chunks.set_exception(problem)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(collect, path=socket_path, limit=1 << 20)
    try:
        seen = vm.qmp.cursor
        await vm.qmp.execute("migrate", {"uri": f"unix:{socket_path}"}, deadline=deadline.within(_COMMAND_S))
        data = await vm.guarded(asyncio.shield(chunks), deadline, what=f"{vm.role}: saving the device state")
        end = await vm.qmp.wait_event("MIGRATION", where=_is_end, since=seen, deadline=deadline)
        if end.data["status"] != "completed":
            raise HarnessError(f"{vm.role}: saving the device state ended {end.data['status']}: {vm.last_words}")
    finally:
        server.close()
        chunks.cancel()
        with contextlib.suppress(FileNotFoundError):
            socket_path.unlink()
    return data


def _is_end(data: Mapping[str, Any]) -> bool:
    return data.get("status") in TERMINAL


async def _prepare(vm: Vm, deadline: Deadline) -> None:
    soon = deadline.within(_COMMAND_S)
    # A stopped VM has nothing left to send after its first pass, whatever the downtime may be.
    await asyncio.gather(
        set_capabilities(vm, {"events": True, "x-ignore-shared": True}, soon),
        set_parameters(vm, {"max-bandwidth": 0}, soon),
    )


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    parts = bytearray()
    while chunk := await reader.read(1 << 20):
        parts += chunk
        if len(parts) > LIMIT_BYTES:
            raise HarnessError(f"the re-save exceeds {LIMIT_BYTES >> 20} MiB: x-ignore-shared did not take")
    return bytes(parts)
