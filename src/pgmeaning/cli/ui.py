"""The command ui: the page to look at."""

from __future__ import annotations

import importlib
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from pgmeaning.cli.output import Dsn, address, configure_logging
from pgmeaning.errors import SettingsError


def ui(
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")
    ] = 0,
    write: Annotated[bool, typer.Option("--write", help="Let the page change things: try failed rows again.")] = False,
    judgements: Annotated[
        Path, typer.Option("--judgements", metavar="FOLDER", help="Where thumbs up and down are kept, for evaluate.")
    ] = Path("judgements"),
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    dsn: Dsn = None,
) -> None:
    """Show a page to search, compare and watch at; prints its address, and serves it until Ctrl-C.

    The page is for this machine alone, and for whoever has its address. It changes nothing without --write.
    """
    configure_logging(None, "warning")

    serve_page(address(dsn), browser=browser, port=port, write=write, judgements=judgements)


def serve_page(dsn: str, *, browser: bool, **options: Any) -> None:
    """Serve the page until Ctrl-C; raises SettingsError where its libraries are missing."""

    def opened(url: str) -> None:
        typer.echo(url)
        if browser:
            webbrowser.open(url)

    with suppress(KeyboardInterrupt):
        _console().serve(dsn, opened=opened, **options)


def _console() -> Any:
    """The package of the page, whose libraries are an extra's."""
    try:
        return importlib.import_module("pgmeaning.console.server")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pgmeaning"):
            raise
        raise SettingsError(f"the page needs {error.name}", hint="pip install 'pgmeaning[ui]'") from error
