"""Turns a captured stream and the words of a user into a request."""

from __future__ import annotations

from pathlib import Path

from harness.cases.ask import Words, parse_accel, parse_seed
from harness.cases.captured import Capture, Origin
from harness.cases.case import named_case
from harness.cases.reboot_settings import RebootSettings
from harness.cases.replay import CASE_ID, ReplaySettings
from harness.cases.request import Request
from harness.cases.settings import Settings, parse_settings, validate
from harness.model.errors import UsageError
from harness.model.machine import MachineSpec
from harness.model.seed import Seed
from harness.report.store import Keep

_DEADLINE_S = 60.0
_S_PER_GIB = 60.0
"""Ten times what loading and verifying took under TCG on a busy machine."""


def request_of(file: Path, words: Words) -> Request:
    """The request to replay *file*: the machine as the stream tells it, the rest as its run was, unless *words* differ.

    Raises UsageError when the file is no stream, or so damaged that no machine can be built for it.
    """
    capture, origin = Capture.read(file), Origin.beside(file)
    machine = {**(origin.machine_settings() if origin else {}), **capture.machine_settings()}
    if "machine" not in machine or "memory_mib" not in machine:
        raise UsageError(
            f"{file} does not tell its machine: {capture.summary.damage or 'no configuration or no main memory'}",
            hint="see 'cvmig stream inspect'; a stream in its run's folder can do with less",
        )
    if capture.is_protected:
        raise UsageError(
            f"{file} is of a protected guest: without its host's state and keys nobody answers it",
            hint="play it again with 'cvmig repro RUN_DIR'; 'cvmig stream inspect' shows what is in the stream",
        )
    seed = parse_seed(words.seed) if words.seed else Seed(origin.request["seed"]) if origin else None
    case = _case_of(origin)
    accel = parse_accel(words.accel) or (origin and origin.accel) or capture.accel()
    defaults = {
        **machine,
        "deadline_s": _DEADLINE_S + _S_PER_GIB * capture.summary.size_bytes / (1 << 30),
        "file": str(file.resolve()),
        # A guest that was rebooted has been filled with another pattern since.
        "pattern_seed": None if isinstance(case, RebootSettings) else seed and seed.sub("pattern"),
        "devices": case.machine_for(MachineSpec(arch=capture.arch)).devices if case else (),
        "is_probe": origin is not None and capture.has_memory,
    }
    return Request(
        case=named_case(CASE_ID),
        settings=parse_settings(ReplaySettings, defaults, words.sets),
        seed=seed or Seed(0),
        arch=capture.arch,
        qemu=words.qemu or (origin.qemu if origin else None),
        accel=accel,
        keep=Keep(words.keep),
    )


def _case_of(origin: Origin | None) -> Settings | None:
    """Settings of the case that the stream is from, where they still mean something: its machine had devices for it."""
    if origin is None:
        return None
    try:
        return validate(named_case(str(origin.request.get("case"))).settings, origin.request["settings"])
    except (KeyError, UsageError):
        return None
