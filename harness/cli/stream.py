"""``cvmig stream``: look into a captured migration stream, or load it again."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True)
