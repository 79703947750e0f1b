"""The words of a user, from the command line, pytest or a plan file, turned into requests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from harness.cases import library
from harness.cases.binaries import as_named
from harness.cases.case import Case, find_cases
from harness.cases.circumstances import ProtectedCaseSettings, with_needs
from harness.cases.faults import plan_faults
from harness.cases.plan_file import Entry, load_plan
from harness.cases.protection_settings import ProtectionSettings
from harness.cases.reboot_settings import RebootSettings
from harness.cases.request import Request, fresh_seed
from harness.cases.settings import MigrationCaseSettings, Settings, parse_settings
from harness.confidential.backend import BACKENDS, find_backend
from harness.model.errors import UsageError
from harness.model.machine import DEFAULT_MACHINES, Accel, Arch
from harness.model.seed import SEED_MASK, Seed
from harness.report.store import Keep

E = TypeVar("E", bound=StrEnum)

library.load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Options as they were typed."""

    sets: tuple[str, ...] = ()
    backend: str | None = None
    """None: the one of the case."""
    arch: str | None = None
    """None: x86_64."""
    accel: str = "auto"
    qemu: Path | None = None
    qemu_dst: Path | None = None
    seed: str | None = None
    faults: tuple[str, ...] = ()
    keep: str = "fail"
    repeat: int = 1


def requests_of(cases: Iterable[str], words: Words, *, file: Path | None = None) -> list[Request]:
    """Turn *words* into requests for *cases* and for the entries of the plan *file*, which the words overrule.

    Every repeat after the first has a seed of its own. Raises UsageError for anything that cannot be.
    """
    patterns = list(cases)
    entries = load_plan(file).runs if file else ()
    if not patterns and not entries:
        raise UsageError("no case is named", hint="see 'cvmig list cases'")
    asked = [request for pattern in patterns for request in _expand(pattern, words)]
    return [*asked, *(request for entry in entries for request in _expand(entry.case, _over(entry, words)))]


def parse_seed(text: str) -> Seed:
    """Read ``--seed``. UsageError when it is no 64-bit number."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= SEED_MASK:
        raise UsageError(f"bad --seed {text!r}", hint="a seed is a number from 0 to 2**64 - 1, decimal or 0x hex")
    return Seed(value)


def parse_accel(text: str) -> Accel | None:
    """Read ``--accel``; None for ``auto``. UsageError for anything else."""
    return None if text == "auto" else _choice(Accel, text, "--accel", extra="auto")


def parse_arch(text: str | None) -> Arch | None:
    """Read ``--arch``; None, which leaves it to the case, when nobody said. UsageError for anything else."""
    return _choice(Arch, text, "--arch") if text else None


def _expand(pattern: str, words: Words) -> list[Request]:
    arch = parse_arch(words.arch)
    first = parse_seed(words.seed) if words.seed else fresh_seed()
    return [
        Request(
            case=case,
            settings=_settings(case, arch or case.arches[0], words),
            seed=first if number == 0 else Seed(first.sub("repeat", number)),
            arch=arch or case.arches[0],
            qemu=as_named(words.qemu),
            qemu_dst=as_named(words.qemu_dst),
            accel=parse_accel(words.accel),
            backend=words.backend or case.backend,
            faults=words.faults,
            keep=_choice(Keep, words.keep, "--keep"),
        )
        for case in find_cases([pattern])
        for number in range(words.repeat)
    ]


def _settings(case: Case, arch: Arch, words: Words) -> Settings:
    """Settings of *case*, with what the faults need. UsageError for what its backend does not have."""
    defaults = {"machine": DEFAULT_MACHINES[arch], **case.defaults}
    settings = parse_settings(case.settings, defaults, words.sets)
    faults = plan_faults(words.faults).soft
    backend = find_backend(words.backend or case.backend)
    if backend.is_soft and arch is not Arch.X86_64:
        raise UsageError(f"backend {backend.name} protects guests of x86_64 only", hint="take --backend none")
    if not backend.is_soft:
        hint = f"take --backend {', '.join(name for name, other in BACKENDS.items() if other.is_soft)}"
        if find_backend(case.backend).is_soft:
            raise UsageError(f"{case.id} is about protected memory, and backend {backend.name} has none", hint=hint)
        if faults:
            raise UsageError(f"backend {backend.name} cannot play the fault {min(faults)}", hint=hint)
        if isinstance(settings, MigrationCaseSettings) and settings.protection != ProtectionSettings():
            raise UsageError(f"protection is set, and backend {backend.name} protects nothing", hint=hint)
    if isinstance(settings, RebootSettings) and backend.is_soft:
        settings = settings.protected()
    return with_needs(settings, faults) if isinstance(settings, ProtectedCaseSettings) else settings


def _over(entry: Entry, words: Words) -> Words:
    """The entry's words, with the user's own behind them, so that those win."""
    sets = tuple(f"{name}={json.dumps(value)}" for name, value in entry.settings.items())
    return replace(
        words,
        sets=(*sets, *words.sets),
        backend=words.backend or entry.backend,
        arch=words.arch or entry.arch,
        faults=(*entry.faults, *words.faults),
        repeat=entry.repeat * words.repeat,
    )


def _choice(kind: type[E], text: str, option: str, *, extra: str = "") -> E:
    try:
        return kind(text)
    except ValueError:
        words = [extra] if extra else []
        names = ", ".join([*words, *(member.value for member in kind)])
        raise UsageError(f"bad {option} {text!r}", hint=f"one of: {names}") from None
