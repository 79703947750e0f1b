"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Cases = Annotated[
    list[str] | None, typer.Argument(metavar="CASE...", help="Case ids or globs, e.g. memory/precopy 'cpu/*'.")
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the case; repeat.")]
Backend = Annotated[
    str | None,
    typer.Option("--backend", metavar="NAME", help="How the guest's memory is protected (default: the case's)."),
]
ArchName = Annotated[
    str | None, typer.Option("--arch", help="The guest's: x86_64 or aarch64 (default: the case's, mostly x86_64).")
]
AccelName = Annotated[str, typer.Option("--accel", help="auto, tcg or kvm.")]
Qemu = Annotated[Path | None, typer.Option("--qemu", metavar="PATH", help="QEMU of the source (default: on PATH).")]
QemuDst = Annotated[Path | None, typer.Option("--qemu-dst", metavar="PATH", help="QEMU of the destination.")]
SeedText = Annotated[str | None, typer.Option("--seed", metavar="N", help="64-bit seed, decimal or 0x hex.")]
Faults = Annotated[
    list[str] | None, typer.Option("--fault", metavar="NAME", help="Switch a known bug on, to see it caught; repeat.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where run folders go.")]
KeepName = Annotated[str, typer.Option("--keep", help="Heavy artefacts stay: never, fail or always.")]
PlanPath = Annotated[Path | None, typer.Option("--file", metavar="YAML", help="A file of runs: ci/nightly.yaml.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, everything else on stderr.")]

RUNS = Path("runs")
