"""``cvmig stream``: look into a captured migration stream, or load it again."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cases.ask import Words
from harness.cases.captured import read_stream
from harness.cases.replay_request import request_of
from harness.cases.session import run_requests
from harness.cli import options as opt
from harness.migration.stream.summary import lines
from harness.model.device_state import Device, DeviceField, DeviceState
from harness.model.errors import UsageError
from harness.model.verdict import exit_status
from harness.model.wire import StreamSummary
from harness.report.document import json_document
from harness.report.events import plain
from harness.report.store import Run
from harness.report.terminal import Terminal

app = typer.Typer()

File = Annotated[Path, typer.Argument(metavar="FILE", help="A captured stream: stream.bin in a case's folder.")]

_SHOWN_BYTES = 32
_DAMAGED_STATUS = 3


@app.command("inspect")
def inspect(
    file: File,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", metavar="GLOB", help="Show the fields of these devices, e.g. cpu/0 or 'apic/*'; repeat."
        ),
    ] = None,
    as_json: opt.AsJson = False,
) -> int:
    """Tell what is in a captured stream: machine, memory, passes, devices.

    Exit status: 0 when the stream is whole, 2 when FILE is none, 3 when it is damaged (what could be read is shown).
    """
    summary, state = read_stream(file)
    chosen = _chosen(state, device or (), summary)
    if as_json:
        sys.stdout.write(json.dumps(_document(summary, chosen), indent=2) + "\n")
    else:
        text = [line for line in lines(summary) if not line.startswith("damage ")]
        text += [line for one in chosen for line in _device_lines(one)]
        sys.stdout.write("".join(f"{line}\n" for line in text))
    if summary.is_complete:
        return 0
    sys.stdout.flush()
    sys.stderr.write(f"error: {file}: {summary.damage}\nhint: {_damage_hint(summary)}\n")
    return _DAMAGED_STATUS


@app.command("replay")
def replay(
    file: File,
    sets: opt.Sets = None,
    accel: opt.AccelName = "auto",
    qemu: Annotated[
        Path | None, typer.Option("--qemu", metavar="PATH", help="QEMU that loads it (default: the run's, or on PATH).")
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option("--seed", metavar="N", help="Seed of the run that it is from (default: told by the guest)."),
    ] = None,
    out: opt.Out = opt.RUNS,
    keep: Annotated[bool, typer.Option("--keep", help="Keep a copy of the stream in the run's folder.")] = False,
    as_json: opt.AsJson = False,
) -> int:
    """Load a captured stream into a fresh QEMU, without its source, and judge what arrives.

    Exit status as 'cvmig run': 0 pass, 1 fail, too-slow or lost, 2 usage, 3 error, 4 blocked or unsupported.
    """
    words = Words(sets=tuple(sets or ()), accel=accel, qemu=qemu, seed=seed, keep="always" if keep else "never")
    request = request_of(file, words)
    folder = Run.create(out)
    with Terminal(sys.stderr) as terminal:
        results = run_requests([request], folder, progress=terminal)
        terminal.summary(results, run_dir=str(folder.path))
    if as_json:
        sys.stdout.write(json_document(results) + "\n")
    return exit_status(result.verdict for result in results)


def _chosen(state: DeviceState, globs: list[str] | tuple[()], summary: StreamSummary) -> list[Device]:
    """The devices that *globs* name. UsageError for a glob that names none in a stream that is whole."""
    for glob in globs:
        if summary.is_complete and not any(fnmatchcase(device.label, glob) for device in state.devices):
            raise UsageError(f"the stream has no device {glob}", hint=f"it has {_labels(state)}")
    return [device for device in state.devices if any(fnmatchcase(device.label, glob) for glob in globs)]


def _labels(state: DeviceState) -> str:
    return ", ".join(device.label for device in state.devices) or f"none: {state.note or 'the stream ends before them'}"


def _device_lines(device: Device) -> list[str]:
    head = f"{device.label}  {device.vmsd or 'no vmstate description'}, version {device.version}"
    width = max((len(field.path) for field in device.fields), default=0)
    return ["", head, *(f"  {field.path:{width}}  {field.type:8}  {_value(field)}" for field in device.fields)]


def _value(field: DeviceField) -> str:
    if field.value is not None:
        sign = "-" if field.value < 0 else ""
        return f"{sign}{abs(field.value):#x}"
    shown = field.raw[:_SHOWN_BYTES].hex()
    return f"{shown} ... ({field.size_bytes} bytes)" if field.size_bytes > _SHOWN_BYTES else shown


def _document(summary: StreamSummary, chosen: list[Device]) -> dict[str, Any]:
    document: dict[str, Any] = plain(asdict(summary))
    document["is_complete"] = summary.is_complete
    if chosen:
        document["fields"] = {device.label: [_field(device, field) for field in device.fields] for device in chosen}
    return document


def _field(device: Device, field: DeviceField) -> dict[str, Any]:
    """As it is, but for the offset, which here counts from the first byte of the file."""
    members: dict[str, Any] = plain(asdict(replace(field, offset=device.offset + field.offset)))
    return members


def _damage_hint(summary: StreamSummary) -> str:
    at, size = summary.damage_offset or 0, summary.size_bytes
    if at >= size:
        return f"the file ends at {size:#x}, before the stream does: was the capture, or a copy of it, cut short?"
    return f"{size - at} bytes from there on were not understood; all before {at:#x} is shown"
