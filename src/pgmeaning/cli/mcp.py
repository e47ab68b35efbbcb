"""pgmeaning mcp: a server of the Model Context Protocol, for agents. What it needs is an extra, loaded by name."""

from __future__ import annotations

import secrets
from importlib import import_module
from typing import Annotated, Any

import typer

from pgmeaning.cli.output import Dsn, address, configure_logging, settings
from pgmeaning.errors import SettingsError
from pgmeaning.secret_values import secret


def mcp(
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP instead of standard input and output.")
    ] = False,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = 8765,
    role: Annotated[
        str | None, typer.Option("--role", metavar="ROLE", help="SET ROLE to it, so that agents have its rights alone.")
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", metavar="NAME", help="Offer this collection only; may be repeated."),
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Let agents search, by the Model Context Protocol. Needs pip install 'pgmeaning[mcp]'.

    All of it reads, with the rights and the row security of the DSN's role. PGMEANING_MCP_* bound rows, text and time.

    With --http an agent must send PGMEANING_MCP_TOKEN, or else the token that is printed on stderr.
    """
    configure_logging("text", "warning")
    server = _loaded()
    with server.Database(address(dsn), settings(), role=role) as database:
        _warn(database.sees_all())
        if http:
            token = secret("PGMEANING_MCP_TOKEN")
            made = token or secrets.token_urlsafe(32)

            def say(url: str) -> None:
                typer.echo(url if token else f"{url} token: {made}", err=True)

            server.serve_http(database, made, host=host, port=port, only=collection, say=say)
        else:
            server.serve_stdio(database, only=collection)


def _loaded() -> Any:
    try:
        return import_module("pgmeaning.integrations.mcp")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pgmeaning"):
            raise
        raise SettingsError(
            f"pgmeaning mcp needs the package {error.name}", hint="pip install 'pgmeaning[mcp]'"
        ) from error


def _warn(everything: str | None) -> None:
    if everything is not None:
        typer.echo(
            f"agents see all rows: row security does not hold for role {everything} (give --role, or another DSN)",
            err=True,
        )
