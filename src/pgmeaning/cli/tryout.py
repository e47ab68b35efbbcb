"""pgmeaning try: from a file to a first search in one command."""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import typer

from pgmeaning.cli.groups import DataDir, Port
from pgmeaning.cli.output import Columns, Template, configure_logging
from pgmeaning.cli.ui import serve_page
from pgmeaning.errors import SettingsError


def tryout(
    source: Annotated[str, typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet.", show_default=False)],
    query: Annotated[str | None, typer.Option("--query", metavar="TEXT", help="Text to search for first.")] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="Name of the table; default: the file's.")
    ] = None,
    column: Columns = None,
    template: Template = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Model to use; default: the small one.")
    ] = None,
    page: Annotated[
        bool | None, typer.Option("--ui/--no-ui", help="Open the page at the end; default: on a terminal.")
    ] = None,
    data_dir: DataDir = None,
    port: Port = None,
) -> None:
    """Search your own rows: embedded PostgreSQL, the file as a table, vectors, a first search, the page.

    Types, key and the text to embed are guessed and shown. Run again, it takes up what changed in the file.
    """
    configure_logging("text", "error")
    from pgmeaning.tryout.run import Wishes, run

    wanted = sys.stdout.isatty() if page is None else page
    go_on = partial(_show_page, insist=bool(page)) if wanted else None
    run(source, Wishes(table, column or None, template, model, query, data_dir, port), go_on)


def _show_page(dsn: str, *, insist: bool) -> None:
    """The page, while the sidecar still answers queries; where its libraries are missing, only if it was asked for."""
    try:
        serve_page(dsn, browser=True)
    except SettingsError as error:
        if insist:
            raise
        typer.echo(f"-- no page: {error} ({error.hint})")
