"""What a VM writes into the run's folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from harness.vm.artefact import ArtefactFile
from harness.vm.transcript import Transcript


@dataclass(slots=True)
class VmFiles:
    """Open files, each named by the VM's role."""

    stderr: ArtefactFile
    console: ArtefactFile
    qmp: Transcript

    @classmethod
    def open(cls, folder: Path, role: str) -> VmFiles:
        """Create them in *folder*. SetupError when that is impossible."""
        with ExitStack() as opened:
            files = cls(
                stderr=opened.enter_context(ArtefactFile(folder / f"{role}.stderr.log")),
                console=opened.enter_context(ArtefactFile(folder / f"{role}.console.log")),
                qmp=opened.enter_context(closing(Transcript(folder / f"{role}.qmp.jsonl"))),
            )
            opened.pop_all()
            return files

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why something is missing in them; empty when nothing is."""
        return tuple(file.trouble for file in (self.stderr, self.console, self.qmp) if file.trouble)

    def close(self) -> None:
        """Safe to call twice."""
        self.stderr.close()
        self.console.close()
        self.qmp.close()


def write_command(path: Path, argv: Sequence[str]) -> None:
    """The command line for people; it inherits descriptors, so it is no script."""
    with ArtefactFile(path) as file:
        file.write(shlex.join(argv).encode() + b"\n")
