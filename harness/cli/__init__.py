"""How people ask: ``cvmig``. One module per verb; this one only joins them and turns our errors into one line."""

from __future__ import annotations

import sys

from harness.model.errors import HarnessError, UsageError

USAGE_STATUS = 2
ERROR_STATUS = 3


def main() -> None:
    """Entry point of the ``cvmig`` command."""
    sys.exit(status_of(sys.argv[1:]))


def status_of(words: list[str]) -> int:
    """Run ``cvmig`` with *words*; returns the exit status. Trouble is one line and a hint on stderr."""
    # Imported late: 'cvmig --help' must not pay for numpy, pydantic and the cases.
    from harness.cli.app import INTERRUPTED_STATUS, invoke  # noqa: PLC0415

    try:
        return invoke(words)
    except HarnessError as trouble:
        complain(trouble)
        return USAGE_STATUS if isinstance(trouble, UsageError) else ERROR_STATUS
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        return ERROR_STATUS


def complain(trouble: HarnessError) -> None:
    """Say *trouble* on stderr: one line, and one for the hint."""
    sys.stderr.write(f"error: {trouble}\n")
    if trouble.hint:
        sys.stderr.write(f"hint: {trouble.hint}\n")
