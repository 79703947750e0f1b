"""One case as somebody asked for it: everything that is needed to run it again."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cases.case import Case, named_case
from harness.cases.settings import Settings, validate
from harness.model.errors import UsageError
from harness.model.machine import Accel, Arch
from harness.model.seed import Seed
from harness.report.store import Keep

REQUEST_FILE = "request.json"
"""In the folder of a case: what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A case, its settings and its surroundings."""

    case: Case
    settings: Settings
    seed: Seed
    arch: Arch = Arch.X86_64
    """Of the guest."""
    qemu: Path | None = None
    """None: the one on PATH."""
    qemu_dst: Path | None = None
    """None: the same as *qemu*."""
    accel: Accel | None = None
    """None: KVM where a 64-bit guest really ran under it, else TCG."""
    backend: str = "none"
    faults: tuple[str, ...] = ()
    keep: Keep = Keep.FAIL

    def as_json(self) -> dict[str, Any]:
        """Plain JSON for ``request.json``, read back by :func:`request_from_json`."""
        return {
            "case": self.case.id,
            "settings": self.settings.model_dump(mode="json"),
            "seed": self.seed.value,
            "arch": self.arch.value,
            "qemu": str(self.qemu) if self.qemu else None,
            "qemu_dst": str(self.qemu_dst) if self.qemu_dst else None,
            "accel": self.accel.value if self.accel else None,
            "backend": self.backend,
            "faults": list(self.faults),
        }

    def options(self) -> tuple[str, ...]:
        """Words of ``cvmig run`` that are neither the seed, nor a setting, nor a fault."""
        arch = None if self.arch is self.case.arches[0] else self.arch
        chosen = {
            "--arch": arch,
            "--qemu": self.qemu,
            "--qemu-dst": self.qemu_dst,
            "--accel": self.accel,
            "--backend": self.backend,
        }
        return tuple(word for option, value in chosen.items() if value for word in (option, str(value)))


def fresh_seed() -> Seed:
    """A seed for a run that asked for none."""
    return Seed(secrets.randbits(64))


def request_from_json(data: Mapping[str, Any]) -> Request:
    """Read :meth:`Request.as_json` back.

    Raises UsageError when the data is not one.
    """
    try:
        case = named_case(data["case"])
        return Request(
            case=case,
            settings=validate(case.settings, data["settings"]),
            seed=Seed(int(data["seed"])),
            arch=Arch(data.get("arch", Arch.X86_64)),
            qemu=Path(data["qemu"]) if data["qemu"] else None,
            qemu_dst=Path(data["qemu_dst"]) if data["qemu_dst"] else None,
            accel=Accel(data["accel"]) if data["accel"] else None,
            backend=str(data["backend"]),
            faults=tuple(data["faults"]),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise UsageError(f"request.json is damaged: {problem!r}", hint="run the case by name instead") from None
