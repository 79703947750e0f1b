"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

from harness import __version__
from harness.cli import doctor, list_, plan, report, repro, run, stream
from harness.model.errors import UsageError

INTERRUPTED_STATUS = 130
"""128 + SIGINT, as shells have it."""

app = typer.Typer(
    name="cvmig",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cvmig {__version__}")
        raise typer.Exit


@app.callback()
def _cvmig(
    _: Annotated[bool, typer.Option("--version", callback=_say_version, help="Say which one this is.")] = False,
) -> None:
    """Boot VMs, migrate them live, and prove what survived."""


app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("list")(list_.list_)
app.command("doctor")(doctor.doctor)
app.command("repro")(repro.repro)
app.command("report")(report.report)
app.add_typer(stream.app, name="stream", help="Look into a captured migration stream, or load it again.")


# typer brings its own click, under a private name; the public BadParameter is a child of its UsageError.
_WORDS_ERROR: type[Exception] = typer.BadParameter.__mro__[1]


def invoke(words: list[str]) -> int:
    """Run the command tree on *words*; returns the exit status. Raises UsageError for words it does not know."""
    try:
        status = app(words or ["--help"], standalone_mode=False)
    except _WORDS_ERROR as error:
        told = error.format_message() if hasattr(error, "format_message") else str(error)
        text = " ".join(told.split())
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "cvmig"
        raise UsageError(text or "no command is named", hint=f"see '{command} --help'") from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    if status == INTERRUPTED_STATUS:
        # Typer turns KeyboardInterrupt into a silent exit.
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0
