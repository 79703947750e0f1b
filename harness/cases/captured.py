"""A captured stream and what lies beside it: all that is needed to build its machine again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.cases.request import REQUEST_FILE
from harness.cases.wire import sent_devices_path
from harness.migration.stream.devices import decode_tail
from harness.migration.stream.elements import Tail
from harness.migration.stream.parser import StreamParser
from harness.migration.stream.snapshot import Snapshot, SnapshotCollector
from harness.migration.stream.summary import CHUNK_BYTES, survey
from harness.migration.stream.tail import find_description
from harness.model.device_state import DeviceState
from harness.model.errors import UnsupportedError, UsageError
from harness.model.machine import MAIN_RAM_IDS, RAM_IDS, Accel, Arch
from harness.model.wire import BlockAccount, StreamSummary
from harness.report.store import RESULT

_HEADER_BYTES = 8
_PAGE_KIB = 4
_HINT = "give a stream that the relay recorded: cvmig run memory/precopy --set record=true --keep always"


def read_stream(path: Path) -> tuple[StreamSummary, DeviceState]:
    """What is in the stream at *path*, damaged or not.

    Raises UsageError when there is no file to be read, or nothing in it that a migration stream begins with.
    """
    if not path.exists():
        raise UsageError(f"there is no file {path}", hint=_HINT)
    if not path.is_file():
        raise UsageError(f"{path} is no regular file", hint=_HINT)
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint=_HINT) from None
    summary, devices = survey(path)
    if not summary.size_bytes:
        raise UsageError(f"{path} is empty", hint=_HINT)
    if summary.damage_offset is not None and summary.damage_offset < _HEADER_BYTES and not summary.machine:
        why = summary.damage.removeprefix("no migration stream: ")
        raise UsageError(f"{path} is no migration stream: {why}", hint=_HINT)
    return summary, devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A captured stream, gone through once."""

    path: Path
    summary: StreamSummary

    @classmethod
    def read(cls, path: Path) -> Self:
        """Go through the file at *path*. Raises UsageError as :func:`read_stream`."""
        return cls(path=path, summary=read_stream(path)[0])

    @property
    def main(self) -> BlockAccount | None:
        """Main memory on the wire."""
        return next((block for block in self.summary.blocks if block.name in MAIN_RAM_IDS), None)

    @property
    def has_memory(self) -> bool:
        """False when main memory went another way: shared with the destination, or over channels of its own."""
        return self.main is not None and self.main.pages_sent > 0

    @property
    def capabilities(self) -> dict[str, bool]:
        """What the destination has to have switched on. UnsupportedError when the stream needs its source."""
        commands = set(self.summary.commands)
        if commands & {"POSTCOPY_LISTEN", "POSTCOPY_RUN"} or any(word.startswith("PACKAGED") for word in commands):
            raise UnsupportedError(
                "a postcopy stream needs its source, which sends pages on demand", hint="capture a precopy instead"
            )
        advised = {"postcopy-ram": True} if "POSTCOPY_ADVISE" in commands else {}
        return {**dict.fromkeys(self.summary.capabilities, True), **advised}

    def machine_settings(self) -> dict[str, Any]:
        """Machine type, memory and vCPUs as settings; only what the stream tells before any damage."""
        found: dict[str, Any] = {}
        if self.summary.machine:
            found["machine"] = self.summary.machine
        if self.main:
            kib = self.main.pages * _PAGE_KIB
            found["memory_mib"] = -(-kib // 1024)
            found["trim_kib"] = found["memory_mib"] * 1024 - kib
        if vcpus := sum(device.label.startswith("cpu/") for device in self.summary.devices):
            found["vcpus"] = vcpus
        return found

    @property
    def is_protected(self) -> bool:
        """Whether the guest called a host that protects it: it has a third serial port for that."""
        return any(device.label == "serial/2" for device in self.summary.devices)

    @property
    def arch(self) -> Arch:
        """The guest's, by the name of its main memory."""
        ids = {name: arch for arch, name in RAM_IDS.items()}
        return ids[self.main.name] if self.main else Arch.X86_64

    def accel(self) -> Accel:
        """What ran the guest: the kvmclock is there under KVM only."""
        is_kvm = any(device.label.startswith("kvmclock/") for device in self.summary.devices)
        return Accel.KVM if is_kvm else Accel.TCG


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run that a stream is from, when the file still lies in its folder."""

    request: Mapping[str, Any]
    versions: Mapping[str, Any]

    @classmethod
    def beside(cls, stream: Path) -> Self | None:
        """The run of *stream*; None where no request that can be read lies beside it."""
        request = _json(stream.with_name(REQUEST_FILE))
        if not isinstance(request.get("seed"), int) or not isinstance(request.get("settings"), dict):
            return None
        result = _json(stream.with_name(RESULT)).get("result")
        versions = result.get("versions") if isinstance(result, dict) else None
        return cls(request=request, versions=versions if isinstance(versions, dict) else {})

    @property
    def qemu(self) -> Path | None:
        """The destination's binary, when one was named."""
        named = self.request.get("qemu_dst") or self.request.get("qemu")
        return Path(named) if isinstance(named, str) else None

    @property
    def accel(self) -> Accel | None:
        """What really ran the guest."""
        word = str(self.versions.get("accel", "")).partition(" ")[0]
        return Accel(word) if word in set(Accel) else None

    def machine_settings(self) -> dict[str, Any]:
        """Machine type, memory and vCPUs as they were asked for."""
        names = ("machine", "memory_mib", "trim_kib", "below_4g_mib", "vcpus", "firmware")
        return {name: self.request["settings"][name] for name in names if name in self.request["settings"]}


def sent_snapshot(path: Path) -> Snapshot:
    """What the source sent beside main memory, before any fault touched it. Takes a while: call it in a thread.

    Raises StreamError when the stream, or what lies beside it, cannot be decoded.
    """
    collector, parser = SnapshotCollector(), StreamParser()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            for element in parser.feed(chunk):
                collector.add(element)
    for element in parser.close():
        collector.add(element)
    snapshot = collector.snapshot()
    return Snapshot(blocks=snapshot.blocks, devices=_untouched(path) or snapshot.devices)


def _untouched(stream: Path) -> DeviceState | None:
    """The devices as the source sent them, when a run kept them beside its stream."""
    try:
        data = sent_devices_path(stream).read_bytes()
    except OSError:
        return None
    description_at, _ = find_description(data, 0)
    return decode_tail(Tail(data=data, offset=0, description_at=description_at))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
