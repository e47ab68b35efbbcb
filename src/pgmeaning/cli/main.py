"""The command line: reads settings, connects the layers, prints results.

Results go to stdout (`--json`: one document), logs and errors to stderr; exit status 0, 1 (the work failed), 2 (usage).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from pgmeaning.cli.doctor import doctor
from pgmeaning.cli.evaluate import evaluate
from pgmeaning.cli.gpu import print_gpu_advice
from pgmeaning.cli.groups import DataDir, Port, model_app, server_app
from pgmeaning.cli.index import index
from pgmeaning.cli.mcp import mcp
from pgmeaning.cli.model_options import model_set  # noqa: F401  it adds itself to the models' commands
from pgmeaning.cli.output import (
    AsJson,
    Collection,
    Columns,
    Dsn,
    DsnFile,
    Template,
    abandon_output,
    address,
    common,
    configure_logging,
    connected,
    expected,
    json_object,
    prepare_streams,
    print_error,
    print_rows,
    settings,
)
from pgmeaning.cli.releases import release_app
from pgmeaning.cli.search import search
from pgmeaning.cli.status import status
from pgmeaning.cli.swap import swap_app
from pgmeaning.cli.tryout import tryout
from pgmeaning.cli.ui import ui
from pgmeaning.cli.uninstall import uninstall
from pgmeaning.cli.vectors import vectors_app
from pgmeaning.cli.verify import model_verify  # noqa: F401  it adds itself to the models' commands
from pgmeaning.errors import ModelError, ModelNotFound
from pgmeaning.tables import as_json_text

if TYPE_CHECKING:
    from pgmeaning.client.client import Client
    from pgmeaning.database.migrate import State
    from pgmeaning.sidecar.process import Sidecar

app = typer.Typer(
    name="pgmeaning", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Search Postgres by meaning.", rich_markup_mode=None,
)  # fmt: skip
app.add_typer(server_app, name="server")
app.add_typer(model_app, name="model")
app.add_typer(vectors_app, name="vectors")
app.add_typer(release_app, name="release")
app.add_typer(swap_app, name="swap")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console entry point: runs a command, and prints an error as one line."""
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
    dsn_file: DsnFile = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Search Postgres by meaning: rows are embedded as they are written, and plain SQL finds them."""
    if dsn and dsn_file:
        raise typer.BadParameter("--dsn and --dsn-file exclude each other")
    common.dsn, common.dsn_file = dsn, dsn_file


@app.command()
def demo(
    data_dir: DataDir = None,
    port: Port = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=50, hidden=True, help="Take so many rows only.")
    ] = None,
) -> None:
    """Take a tour: embedded PostgreSQL, small model, real rows."""
    configure_logging("text", "error")
    from pgmeaning.demo.tour import run

    run(data_dir, port, limit)


@app.command()
def migrate(
    dsn: Dsn = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit status 1 if a migration is due.")
    ] = False,
    roles: Annotated[
        bool,
        typer.Option(
            "--roles",
            help="Make the roles pgmeaning_admin, _sidecar, _reader and _user, each with no more rights than it needs; "
            "what this role may not do is printed, and the exit status is 1.",
        ),
    ] = False,
    owner: Annotated[
        str | None, typer.Option("--owner", help="The role that pgmeaning belongs to, if it is not this one.")
    ] = None,
    as_sql: Annotated[
        bool, typer.Option("--sql", help="Change nothing; print what would be run in this database, for psql.")
    ] = False,
) -> None:
    """Install or upgrade the pgmeaning schema. Safe to repeat, and to run from two places at once."""
    from pgmeaning.database import migrate

    if as_sql:
        return _print_script(dsn, alone=not (check or roles or owner))
    if check:
        before = migrate.check(address(dsn))
    else:
        before = migrate.upgrade(address(dsn), settings().loopback_hosts, roles=roles, owner=owner)
    _say_outcome(before, check=check)
    if before.vector_advice:
        typer.echo(before.vector_advice, err=True)
    if before.loopback_problem:
        typer.echo(f"the dblink loopback, by which embed() asks a sidecar: {before.loopback_problem}", err=True)
    if not check:
        print_gpu_advice(address(dsn))
        _say_about_roles(before, roles=roles)
    return None


def _print_script(dsn: str | None, *, alone: bool) -> None:
    """What would be run in a database."""
    from pgmeaning.database.script import script

    if not alone:
        raise typer.BadParameter("--sql goes with no other option")
    typer.echo(script(address(dsn)), nl=False)


def _say_outcome(before: State, *, check: bool) -> None:
    """Say what was done, or with `check` what is due, which exits 1."""
    has = f"revision {before.revision}" if before.revision else "no pgmeaning schema"
    if not before.due:
        typer.echo(f"up to date: {has}")
    elif check:
        typer.echo(f"migration due: the database has {has}, this package has {before.head} (run: pgmeaning migrate)")
        if before.missing:
            typer.echo(f"missing or altered: {_some(before.missing)}")
        raise typer.Exit(1)
    else:
        typer.echo(f"migrated to revision {before.head}; before: {has}")
        if before.missing:
            typer.echo(f"made again: {_some(before.missing)}")


def _say_about_roles(before: State, *, roles: bool) -> None:
    """Say what they take; exits 1 if somebody else must make them."""
    if before.for_others:
        typer.echo("the roles are not complete: let a role that may run these, then migrate --roles again:", err=True)
        for statement in before.for_others:
            typer.echo(f"    {statement};", err=True)
        raise typer.Exit(1)
    if roles:
        typer.echo(
            "it belongs to pgmeaning_admin; give pgmeaning_sidecar and pgmeaning_reader a password each: \\password"
        )
    elif before.revision is None:
        typer.echo(
            "one role: whoever owns an attached table can do what the sidecar can; pgmeaning migrate --roles makes "
            "roles for each",
            err=True,
        )


def _some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


@app.command()
def attach(
    source: Annotated[
        str, typer.Argument(metavar="TABLE", help="Name of the table, quoted as in SQL.", show_default=False)
    ],
    column: Columns = None,
    template: Template = None,
    collection: Annotated[
        str | None, typer.Option("--collection", metavar="NAME", help="Name of the collection; default: the table's.")
    ] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="COLUMN", help="Column of images.")] = None,
    video: Annotated[str | None, typer.Option("--video", metavar="COLUMN", help="Column of videos.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="Model to use; default: the database's default model."),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            "--dimensions", metavar="N", min=1, help="Length of the vectors, if shorter than the model's own."
        ),
    ] = None,
    chunking: Annotated[
        str | None,
        typer.Option(
            "--chunking",
            metavar="JSON",
            help='Split long texts by tokens, sentences, paragraphs or markdown: {"method": "tokens", "size": 512}.',
        ),
    ] = None,
    grant_to: Annotated[
        list[str] | None, typer.Option("--grant-to", metavar="ROLE", help="Role that may search; may be repeated.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            metavar="CONFIG",
            help="Text search configuration for hybrid search, such as english or simple.",
        ),
    ] = None,
    vector_type: Annotated[
        str, typer.Option("--vector-type", metavar="TYPE", help="vector (4 bytes a dimension) or halfvec (2 bytes).")
    ] = "vector",
    always: Annotated[
        bool, typer.Option("--always", help="See writes by logical replication too; as the table's owner.")
    ] = False,
    allow_deprecated: Annotated[bool, typer.Option("--allow-deprecated", help="Accept a deprecated model.")] = False,
    adopt: Annotated[
        str | None,
        typer.Option("--adopt", metavar="COLUMN", help="Take up the vectors of this column, if they are the model's."),
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Start embedding a table; prints the collection's name. A sidecar embeds the rows, and later every change."""
    with connected(dsn) as client:
        attached = client.attach(
            source, column or None, template, collection, image=image, video=video, model=model, dimensions=dimensions,
            chunking=json_object(chunking, "--chunking"), grant_to=grant_to or None, always=always,
            allow_deprecated=allow_deprecated, language=language, vector_type=vector_type, adopt=adopt,
        )  # fmt: skip
    typer.echo(attached)


@app.command()
def detach(
    collection: Collection, dsn: Dsn = None,
    keep_vectors: Annotated[
        bool, typer.Option("--keep-vectors", help="Keep vectors and view; attach takes them up again.")
    ] = False,
) -> None:  # fmt: skip
    """Stop embedding a table, and drop its vectors and view."""
    with connected(dsn) as client:
        client.detach(collection, keep_vectors=keep_vectors)
    typer.echo(f"{collection} is detached")


@app.command()
def pause(collection: Collection, dsn: Dsn = None) -> None:
    """Stop embedding until resume; changes are still recorded."""
    with connected(dsn) as client:
        client.pause(collection)
    typer.echo(f"{collection} is paused")


@app.command()
def resume(collection: Collection, dsn: Dsn = None) -> None:
    """Continue embedding after pause."""
    with connected(dsn) as client:
        client.resume(collection)
    typer.echo(f"{collection} is resumed")


@app.command()
def refresh(collection: Collection, dsn: Dsn = None) -> None:
    """Have the sidecar check every row against its vector.

    It embeds rows whose vector is missing or stale, and removes vectors whose row is gone.
    """
    with connected(dsn) as client:
        client.refresh(collection)
    typer.echo(f"{collection} will be checked by the sidecar")


@app.command()
def retry(collection: Collection, dsn: Dsn = None) -> None:
    """Retry the failed rows; prints how many."""
    with connected(dsn) as client:
        count = client.retry(collection)
    typer.echo(f"{count} {'row' if count == 1 else 'rows'} will be retried")


@app.command()
def rename(
    collection: Collection,
    new_name: Annotated[str, typer.Argument(metavar="NEW_NAME", help="Its new name.", show_default=False)],
    dsn: Dsn = None,
) -> None:  # fmt: skip
    """Give a collection and its view another name."""
    with connected(dsn) as client:
        client.rename_collection(collection, new_name)
    typer.echo(f"{collection} is now {new_name}")


@app.command()
def sidecar(
    dsn: Dsn = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Exit once every row is embedded: status 0, or 1 if rows failed.")
    ] = False,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Serve this model only; may be repeated.")
    ] = None,
    allow_superuser: Annotated[
        bool,
        typer.Option("--allow-superuser", help="Run even as a superuser: whoever owns an attached table is one, too."),
    ] = False,
    log_format: Annotated[
        Literal["text", "json"] | None,
        typer.Option("--log-format", help="Default: text on a terminal, else JSON lines."),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option("--log-level", help="Lowest level to log.")
    ] = "info",
) -> None:
    """Embed rows and answer queries until SIGTERM or Ctrl-C."""
    chosen = settings()
    chosen.allow_superuser = chosen.allow_superuser or allow_superuser
    if model:
        with connected(dsn) as client:
            _check_models(client, model, drain)
    configure_logging(log_format, log_level)
    from pgmeaning.sidecar.process import Sidecar
    from pgmeaning.sidecar.watch import end_when_frozen

    beat = partial(end_when_frozen, chosen.model_timeout)
    process = Sidecar(address(dsn), chosen, model or None, beat=beat)
    _stop_on_signals(process)
    raise typer.Exit(process.run(drain=drain))


def _check_models(client: Client, names: Sequence[str], drain: bool) -> None:
    """Raise ModelError for a name that the registry does not have: no row would ever be owed its vector."""
    kinds = {row["name"]: row["kind"] for row in client.models()}
    unknown = [name for name in names if name not in kinds]
    if unknown:
        known = (
            f"{kind}s: {', '.join(name for name in kinds if kinds[name] == kind)}" for kind in ("embedder", "reranker")
        )
        raise ModelNotFound(f"this database has no model {unknown[0]!r}", hint="; ".join(known))
    if drain and all(kinds[name] == "reranker" for name in names):
        raise ModelError(
            f"nothing to drain: {', '.join(names)} makes no vectors",
            hint="name an embedder too, or leave out --drain: such a sidecar answers rerank requests",
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
def failures(
    collection: Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="Show this collection only.")] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """List the rows that could not be embedded, and why."""
    with connected(dsn) as client:
        columns = ("collection", "key", "attempts", "will_retry", "error")
        rows = client.failures(collection)
    if not as_json:
        rows = [{**row, "key": as_json_text(row["key"])} for row in rows]
    print_rows(rows, columns, as_json=as_json, nothing="no failures", keys=["key"])


app.command()(status)
app.command()(search)
app.command()(index)
app.command()(evaluate)
app.command()(doctor)
app.command()(uninstall)
app.command()(mcp)
app.command()(ui)
app.command("try")(tryout)
