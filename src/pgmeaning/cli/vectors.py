"""The commands of vectors: what was embedded in one database leaves it, and enters another one."""

from __future__ import annotations

from typing import Annotated

import typer

from pgmeaning.cli.output import AsJson, Collection, Dsn, connected, print_json

vectors_app = typer.Typer(no_args_is_help=True, help="Move stored vectors between databases, as Parquet.")

VectorsFile = Annotated[str, typer.Argument(metavar="FILE", help="Parquet file.", show_default=False)]


@vectors_app.command("export")
def vectors_export(collection: Collection, file: VectorsFile, dsn: Dsn = None) -> None:
    """Write the vectors of a collection to a file, with the model that made them; prints how many."""
    with connected(dsn) as client:
        count = client.export_vectors(collection, file)
    typer.echo(f"{count} {'vector' if count == 1 else 'vectors'} written to {file}")


@vectors_app.command("import")
def vectors_import(collection: Collection, file: VectorsFile, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Take up the vectors of a file, for rows that are what they were when these were made.

    No model runs. The other rows stay owed. Refuses a file that is damaged, or of another model, template or columns.
    """
    with connected(dsn) as client:
        done = client.import_vectors(collection, file)
    if as_json:
        print_json({"taken": done.taken, "fresh": done.fresh, "other": done.other})
    else:
        typer.echo(f"taken: {done.taken}; had theirs: {done.fresh}; changed or gone, left as they are: {done.other}")
