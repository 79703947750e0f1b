"""Reading a run back: for ``cvmig report``, ``cvmig repro`` and whoever compares runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.model.errors import UsageError
from harness.model.result import CaseResult
from harness.report.document import parse
from harness.report.store import RESULT

_HINT = "give runs/<run>/<case>, runs/<run>, or runs/last"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCase:
    """One case as its folder tells it."""

    result: CaseResult
    losses: tuple[str, ...]
    path: Path


def load_case(folder: Path) -> StoredCase:
    """The case in *folder*. UsageError when there is none, or none that can be understood."""
    source = folder / RESULT
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no {RESULT}", hint=_HINT) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is damaged: it is no text", hint="run the case again") from error
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}", hint=_HINT) from error
    result, losses = parse(text, run_dir=str(folder), source=str(source))
    return StoredCase(result=result, losses=losses, path=folder)


def load_run(folder: Path) -> tuple[StoredCase, ...]:
    """Every case below *folder*, in the order they began; one case when *folder* is a case's. UsageError as above.

    Folders without a result are passed over: their case was cut short, or still runs.
    """
    if (folder / RESULT).exists():
        return (load_case(folder),)
    cases = [load_case(path) for path in _case_folders(folder)]
    if not cases:
        raise UsageError(f"{folder} holds no case", hint=_HINT)
    return tuple(cases)


def _case_folders(folder: Path) -> Sequence[Path]:
    try:
        found = [(path.stat().st_mtime_ns, path.name, path) for path in folder.iterdir() if (path / RESULT).is_file()]
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}", hint=_HINT) from error
    return [path for _, _, path in sorted(found)]
