"""The command line, and the composition root: settings in, layers wired together, results out.

Results go to stdout (`--json`: one document), logs and errors to stderr; exit status 0, 1 (the work failed), 2 (usage).
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from pgmeaning.cli.groups import DataDir, Port, model_app, release_app, server_app
from pgmeaning.cli.index import index
from pgmeaning.cli.output import (
    AsJson,
    Collection,
    Dsn,
    abandon_output,
    address,
    common,
    configure_logging,
    connected,
    console,
    expected,
    prepare_streams,
    print_error,
    print_json,
    print_rows,
    settings,
    table,
)
from pgmeaning.cli.search import search
from pgmeaning.errors import ModelError, ModelNotFound

if TYPE_CHECKING:
    from rich.console import Group

    from pgmeaning.client.client import Client
    from pgmeaning.sidecar.process import Sidecar

app = typer.Typer(
    name="pgmeaning", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Search Postgres by meaning.", rich_markup_mode=None,
)  # fmt: skip
app.add_typer(server_app, name="server")
app.add_typer(model_app, name="model")
app.add_typer(release_app, name="release")

STATUS_COLUMNS = (
    "collection",
    "source",
    "state",
    "model",
    "source_rows",
    "vectors",
    "owed",
    "failed",
    "index",
    "problem",
)
SIDECAR_COLUMNS = ("host", "pid", "alive", "models", "rows_done", "claimed", "problems")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console entry point: runs a command, and tells an error in one line."""
    prepare_streams()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="pgmeaning")
    except Exception as error:
        if not expected(error):
            raise
        print_error(error)
        abandon_output()
        raise SystemExit(1) from None
    raise SystemExit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pgmeaning import __version__

        typer.echo(f"pgmeaning {__version__}")
        raise typer.Exit


@app.callback()
def root(
    dsn: Dsn = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Search Postgres by meaning: rows are embedded as they are written, and plain SQL finds them."""
    common.dsn = dsn


@app.command()
def demo(
    data_dir: DataDir = None,
    port: Port = None,
    limit: Annotated[int | None, typer.Option("--limit", min=50, hidden=True, help="Take so many rows only.")] = None,
) -> None:
    """Show the main job: an embedded server, a small model, real rows."""
    configure_logging("text", "error")
    from pgmeaning.demo.tour import run

    run(data_dir, port, limit)


@app.command()
def migrate(
    dsn: Dsn = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it is due: then exit status 1.")] = False,
) -> None:
    """Bring a database to this package's schema; safe to repeat, and for two at once."""
    from pgmeaning.database import migrate

    before = migrate.check(address(dsn)) if check else migrate.upgrade(address(dsn))
    has = f"revision {before.revision}" if before.revision else "no pgmeaning schema"
    if not before.due:
        typer.echo(f"up to date: {has}")
    elif check:
        typer.echo(f"due: the database has {has}, and this package brings {before.head} (run: pgmeaning migrate)")
        raise typer.Exit(1)
    else:
        typer.echo(f"migrated to revision {before.head}; the database had {has}")
    if before.loopback_problem:
        typer.echo(
            f"embed() finds cached queries only, since there is no loopback: {before.loopback_problem}", err=True
        )


@app.command()
def attach(
    source: Annotated[str, typer.Argument(metavar="TABLE", help="The table, quoted as in SQL.", show_default=False)],
    column: Annotated[list[str] | None, typer.Option("--column", help="A column to embed; may be repeated.")] = None,
    template: Annotated[
        str | None, typer.Option("--template", help="The text to embed, such as '{title}: {body}'.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", metavar="NAME", help="The collection's name; else the table's.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="COLUMN", help="A column of images.")] = None,
    video: Annotated[str | None, typer.Option("--video", metavar="COLUMN", help="A column of videos.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model; else the database's default.")] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", min=1, help="Shorter vectors, where the model can.")
    ] = None,
    chunking: Annotated[
        str | None,
        typer.Option(
            "--chunking",
            metavar="JSON",
            help='Cut long texts by tokens, sentences, paragraphs or markdown: \'{"method": "tokens", "size": 512}\'.',
        ),
    ] = None,
    grant_to: Annotated[
        list[str] | None, typer.Option("--grant-to", metavar="ROLE", help="Who may search; may be repeated.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="Keep the words too, for hybrid search: 'english', 'simple', ...")
    ] = None,
    vector_type: Annotated[
        str, typer.Option("--vector-type", help="'vector' takes four bytes a number, 'halfvec' two.")
    ] = "vector",
    allow_deprecated: Annotated[
        bool, typer.Option("--allow-deprecated", help="Take a deprecated model all the same.")
    ] = False,
    dsn: Dsn = None,
) -> None:
    """Embed columns of a table from now on; prints the collection's name. A sidecar embeds the rows there are."""
    with connected(dsn) as client:
        attached = client.attach(
            source, column or None, template, collection, image=image, video=video, model=model, dimensions=dimensions,
            chunking=_chunking(chunking), grant_to=grant_to or None, allow_deprecated=allow_deprecated,
            language=language, vector_type=vector_type,
        )  # fmt: skip
    typer.echo(attached)


def _chunking(text: str | None) -> dict[str, Any] | None:
    """What --chunking says; the database knows what may stand in it."""
    try:
        found = None if text is None else json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--chunking") from error
    if found is not None and not isinstance(found, dict):
        raise typer.BadParameter('not an object such as {"method": "tokens"}', param_hint="--chunking")
    return found


@app.command()
def detach(
    collection: Collection, dsn: Dsn = None,
    keep_vectors: Annotated[bool, typer.Option("--keep-vectors", help="Leave the vector table where it is.")] = False,
) -> None:  # fmt: skip
    """Stop embedding a table; its vectors and its view are dropped."""
    with connected(dsn) as client:
        client.detach(collection, keep_vectors=keep_vectors)
    typer.echo(f"{collection} is detached")


@app.command()
def pause(collection: Collection, dsn: Dsn = None) -> None:
    """Record changes, but embed nothing until resume."""
    with connected(dsn) as client:
        client.pause(collection)
    typer.echo(f"{collection} is paused")


@app.command()
def resume(collection: Collection, dsn: Dsn = None) -> None:
    """Go on after pause."""
    with connected(dsn) as client:
        client.resume(collection)
    typer.echo(f"{collection} goes on")


@app.command()
def refresh(collection: Collection, dsn: Dsn = None) -> None:
    """Ask the sidecar to compare every row with its vector: what is missing, stale or left over is put right."""
    with connected(dsn) as client:
        client.refresh(collection)
    typer.echo(f"{collection} will be compared with its vectors")


@app.command()
def retry(collection: Collection, dsn: Dsn = None) -> None:
    """Try the failed rows once more; prints how many."""
    with connected(dsn) as client:
        count = client.retry(collection)
    typer.echo(f"{count} {'row' if count == 1 else 'rows'} to be tried again")


@app.command()
def sidecar(
    dsn: Dsn = None,
    drain: Annotated[bool, typer.Option("--drain", help="End once nothing is owed: 0, or 1 if rows failed.")] = False,
    model: Annotated[list[str] | None, typer.Option("--model", help="Serve this model only; may be repeated.")] = None,
    log_format: Annotated[
        Literal["text", "json"] | None,
        typer.Option("--log-format", help="Else text for a terminal, JSON lines otherwise."),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="The least to log.")
    ] = "info",
) -> None:
    """Embed what is owed and answer queries, until SIGTERM or Ctrl-C."""
    chosen = settings()
    if model:
        with connected(dsn) as client:
            _check_models(client, model, drain)
    configure_logging(log_format, log_level)
    from pgmeaning.sidecar.process import Sidecar

    process = Sidecar(address(dsn), chosen, model or None)
    _stop_on_signals(process)
    raise typer.Exit(process.run(drain=drain))


def _check_models(client: Client, names: Sequence[str], drain: bool) -> None:
    """Raise ModelError for a name that the registry does not have: nothing would ever be owed to it."""
    kinds = {row["name"]: row["kind"] for row in client.models()}
    unknown = [name for name in names if name not in kinds]
    if unknown:
        known = (
            f"{kind}s: {', '.join(name for name in kinds if kinds[name] == kind)}" for kind in ("embedder", "reranker")
        )
        raise ModelNotFound(f"this database has no model {unknown[0]!r}", hint="; ".join(known))
    if drain and all(kinds[name] == "reranker" for name in names):
        raise ModelError(
            f"there is nothing to drain: {', '.join(names)} makes no vectors",
            hint="name an embedder too; without --drain such a sidecar judges what searches find",
        )


def _stop_on_signals(process: Sidecar) -> None:
    """The first signal stops it cleanly, a second one at once."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        # From a thread: the handler runs in the middle of anything, also of a wait for the event that stop() sets.
        threading.Thread(target=process.stop, name="pgmeaning stop").start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


@app.command()
def status(
    collection: Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="Of this one only.")] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
) -> None:
    """How many rows, vectors, owed and failed, per collection; and the sidecars."""
    if watch and as_json:
        raise typer.BadParameter("--watch and --json exclude each other")
    with connected(dsn) as client:
        if as_json:
            print_json(client.status(collection))
        elif watch:
            _watch(client, collection)
        else:
            console().print(_status(client, collection))


def _watch(client: Client, collection: str | None) -> None:
    from rich.live import Live

    screen = console()
    try:
        if not screen.is_terminal:  # nothing there that could be drawn over
            while True:
                screen.print(_status(client, collection), "")
                time.sleep(1)
        with Live(_status(client, collection), console=screen, auto_refresh=False) as live:
            while True:
                time.sleep(1)
                live.update(_status(client, collection), refresh=True)
    except KeyboardInterrupt:
        return


def _status(client: Client, collection: str | None) -> Group:
    from rich.console import Group

    collections, sidecars = client.status(collection), client.sidecars()
    wanted = [name for name in STATUS_COLUMNS if name != "problem" or any(row["problem"] for row in collections)]
    return Group(
        table(collections, wanted)
        if collections
        else "no collections (make one: pgmeaning attach TABLE --column COLUMN)",
        "",
        table(sidecars, SIDECAR_COLUMNS) if sidecars else "no sidecar runs now (start one: pgmeaning sidecar)",
    )


@app.command()
def failures(
    collection: Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="Of this one only.")] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Rows that could not be embedded, and why."""
    with connected(dsn) as client:
        columns = ("collection", "key", "attempts", "will_retry", "error")
        print_rows(client.failures(collection), columns, as_json=as_json, nothing="no failures")


app.command()(search)
app.command()(index)
