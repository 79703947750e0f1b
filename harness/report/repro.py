"""How to see a case again: the command line of ``cvmig`` and the script that carries it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.model.result import CaseResult
from harness.report.events import plain

_HEAD = """\
#!/bin/sh
# Runs the case again with the same seed and settings. CVMIG names another cvmig.
exec "${CVMIG:-cvmig}" """


def setting_text(value: Any) -> str:
    """*value* as ``--set name=VALUE`` takes it: YAML's scalars; lists and mappings as JSON, which is YAML too."""
    if isinstance(value, str):
        return str(value)
    return json.dumps(plain(value))


def run_words(result: CaseResult, options: Sequence[str] = ()) -> tuple[str, ...]:
    """The words after ``cvmig`` that run the case again; *options* are added as they are (``--qemu``, PATH ...)."""
    words = ["run", result.case, "--seed", str(result.seed)]
    for name, value in result.settings.items():
        words += ["--set", f"{name}={setting_text(value)}"]
    for fault in result.faults:
        words += ["--fault", fault]
    return (*words, *options)


def script(result: CaseResult, command_lines: Mapping[str, Sequence[str]], options: Sequence[str] = ()) -> str:
    """Text of ``repro.sh``.

    *command_lines* gives the argv of each QEMU by name (``src``, ``dst``); they follow as comments, quoted for a shell,
    for those who want to start one by hand.
    """
    lines = [_HEAD + shlex.join(run_words(result, options))]
    for name, argv in command_lines.items():
        lines += ["", f"# {_one_line(name)}:", *_as_comment(shlex.join(argv))]
    return "\n".join(lines) + "\n"


def repro_line(run_dir: str) -> str:
    """The one line to paste after a failure."""
    return f"cvmig repro {shlex.quote(run_dir)}"


def _as_comment(text: str) -> Iterable[str]:
    # splitlines() knows every line end that an argument could smuggle in to escape the comment.
    return [f"#   {line}" for line in text.splitlines()]


def _one_line(text: str) -> str:
    return " ".join(text.split())
