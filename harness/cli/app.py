"""The command tree."""

from __future__ import annotations

import click
import typer

from harness.cli import doctor, list_, plan, report, repro, run, stream
from harness.model.errors import UsageError

app = typer.Typer(
    name="cvmig",
    help="Boot VMs, migrate them live, and prove what survived.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("list")(list_.list_)
app.command("doctor")(doctor.doctor)
app.command("repro")(repro.repro)
app.command("report")(report.report)
app.add_typer(stream.app, name="stream", help="Look into a captured migration stream, or load it again.")


def invoke(words: list[str]) -> int:
    """Run the command tree on *words*; returns the exit status. Raises UsageError for words it does not know."""
    try:
        status = app(words, standalone_mode=False)
    except click.UsageError as error:
        raise UsageError(
            " ".join(error.format_message().split()),
            hint=f"see '{error.ctx.command_path} --help'" if error.ctx else "see 'cvmig --help'",
        ) from None
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    return status if isinstance(status, int) else 0
