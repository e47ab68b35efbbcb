"""pgmeaning try: from a file to a first search in one command."""

from __future__ import annotations

from typing import Annotated

import typer

from pgmeaning.cli.groups import DataDir, Port
from pgmeaning.cli.output import configure_logging


def tryout(
    source: Annotated[str, typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet.", show_default=False)],
    query: Annotated[str | None, typer.Option("--query", metavar="TEXT", help="Text to search for first.")] = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="Name of the table; default: the file's.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="COLUMN", help="Column to embed; may be repeated.")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", metavar="TEMPLATE", help="Text to embed, such as '{title}: {body}'.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Model to use; default: the small one.")
    ] = None,
    data_dir: DataDir = None,
    port: Port = None,
) -> None:
    """Search your own rows: embedded PostgreSQL, the file as a table, vectors, a first search.

    Types, key and the text to embed are guessed and shown. Run again, it takes up what changed in the file.
    """
    configure_logging("text", "error")
    from pgmeaning.tryout.run import Wishes, run

    run(source, Wishes(table, column or None, template, model, query, data_dir, port))
