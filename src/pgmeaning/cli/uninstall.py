"""pgmeaning uninstall: nothing is left in the database."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pgmeaning.cli.output import Dsn, address


def uninstall(
    dsn: Dsn = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Drop views and triggers of yours, too, that depend on it.")
    ] = False,
    vector: Annotated[
        bool, typer.Option("--vector", help="Drop the extension vector, too, unless something else needs it.")
    ] = False,
) -> None:
    """Remove pgmeaning from the database: all vectors, triggers and views, the loopback with its login, the roles.

    Your tables stay as they are. Roles that another database needs are kept, as is what this role may not drop.
    Sidecars stop by themselves. It asks first, and works where half of it is gone.
    """
    from pgmeaning.database import uninstall as database
    from pgmeaning.database.migrate import connected

    with connected(address(dsn)) as connection:
        there = database.installed(connection)
        name = connection.info.dbname
        if not there:
            typer.echo(f"database {name} has nothing of pgmeaning")
        elif not yes:
            _ask(name, there)
        for line in database.uninstall(connection, cascade=cascade, vector=vector):
            typer.echo(line)
    if there:
        typer.echo(f"pgmeaning is gone from database {name}")


def _ask(name: str, there: list[str]) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"this would remove {', '.join(there)} and all vectors: say --yes", param_hint="--yes")
    typer.confirm(f"Remove {', '.join(there)} and all vectors from database {name}?", abort=True)
