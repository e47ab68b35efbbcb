"""The commands that come in groups: server, model, release."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgmeaning.cli.gpu import print_gpu_advice
from pgmeaning.cli.output import AsJson, Dsn, connected, print_json, print_rows
from pgmeaning.errors import ModelNotFound
from pgmeaning.tables import shown

if TYPE_CHECKING:
    from pgmeaning.embedded_server.server import EmbeddedServer
    from pgmeaning.types import Model

server_app = typer.Typer(no_args_is_help=True, help="Run the embedded PostgreSQL, on 127.0.0.1.")
model_app = typer.Typer(no_args_is_help=True, help="Manage the models that a database knows.")

# Not a Path, which takes an empty name for the current folder.
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir", metavar="FOLDER", help="Data folder; default: pgmeaning/server in the user's data folder."
    ),
]
Port = Annotated[
    int | None,
    typer.Option("--port", metavar="PORT", min=1, max=65535, help="Port; default: the last one used, or a free one."),
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", show_default=False)]


def embedded_server(data_dir: str | None, port: int | None = None) -> EmbeddedServer:
    from pgmeaning.embedded_server.server import EmbeddedServer

    return EmbeddedServer(data_dir, port)


@server_app.command("start")
def server_start(data_dir: DataDir = None, port: Port = None) -> None:
    """Start the server and print its DSN.

    Creates the data folder if there is none. A server that runs already is left as it is.
    """
    dsn = embedded_server(data_dir, port).start()
    typer.echo(dsn)
    print_gpu_advice(dsn)


@server_app.command("stop")
def server_stop(data_dir: DataDir = None) -> None:
    """Stop the server and end its sessions. No error if it is not running."""
    embedded_server(data_dir).stop()


@server_app.command("status")
def server_status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show whether the server runs, and where. Exit status 0 in either case."""
    from dataclasses import asdict

    status = asdict(embedded_server(data_dir).status())
    if as_json:
        print_json(status)
        return
    for name, value in status.items():
        if value is not None:
            typer.echo(f"{name:9} {shown(value)}")


@server_app.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def server_psql(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[PSQL ARGUMENTS]...", help="Passed to psql unchanged.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Run psql on the server. Further arguments go to psql, such as -c 'SELECT 1'."""
    server = embedded_server(data_dir)
    environment, command = server.psql_environment(), server.psql_command()
    os.execve(command[0], [*command, *(arguments or [])], environment)


@model_app.command("list")
def model_list(dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the models, and how many collections use each."""
    with connected(dsn) as client:
        columns = ("name", "kind", "status", "dimensions", "modalities", "collections")
        print_rows(client.models(), columns, as_json=as_json, nothing="no models")


@model_app.command("show")
def model_show(name: ModelName, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Show all that the registry has about a model."""
    with connected(dsn) as client:
        model = _the_model(client.models(), name)
    if as_json:
        print_json(model)
        return
    for field, value in model.items():
        typer.echo(f"{field:16} {shown(value)}".rstrip())


def _the_model(models: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = [model for model in models if model["name"] == name]
    if not found:
        raise ModelNotFound(f"this database has no model {name!r}", hint="see: pgmeaning model list")
    return found[0]


@model_app.command("add")
def model_add(
    name: ModelName,
    like: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model to start from; the other options replace its values.")
    ] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="embedder or reranker.")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="What runs it, such as http or sentence_transformers.")
    ] = None,
    location: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Folder, hub name, or base URL of an endpoint.")
    ] = None,
    revision: Annotated[str | None, typer.Option(metavar="REVISION", help="Revision on the hub.")] = None,
    dimensions: Annotated[int | None, typer.Option(metavar="N", min=1, help="Length of its vectors.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Longest input, in tokens; the rest is cut off.")
    ] = None,
    template: Annotated[str | None, typer.Option(metavar="NAME", help="Name of a built-in template.")] = None,
    query_prompt: Annotated[
        str | None, typer.Option(metavar="PROMPT", help="Prompt for queries, with {text} where the query goes.")
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option(metavar="PROMPT", help="Prompt for documents, with {text} where the document goes.")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Reranker that becomes the default along with it.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=JSON", help="Option of the backend; may be repeated.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Add a model of your own, such as one behind an endpoint.

    Once vectors are made with it, it cannot be changed.
    """
    from dataclasses import asdict

    given = {
        "kind": kind, "backend": backend, "location": location, "revision": revision, "dimensions": dimensions,
        "max_tokens": max_tokens, "template": template, "query_prompt": query_prompt,
        "document_prompt": document_prompt, "reranker": reranker,
    }  # fmt: skip
    with connected(dsn) as client:
        base = asdict(client.model(like)) if like is not None else {}
        fields = {**base, **{field: value for field, value in given.items() if value is not None}}
        client.add_model(_new_model(name, fields, option or []))
    typer.echo(f"{name} is added")


def _new_model(name: str, fields: dict[str, Any], options: list[str]) -> Model:
    from pgmeaning.types import Model

    missing = [field for field in ("kind", "backend") if not fields.get(field)]
    if fields.get("kind") == "embedder" and not fields.get("dimensions"):
        missing.append("dimensions")
    if missing:
        raise typer.BadParameter(f"give --{' and --'.join(missing)}, or --like MODEL to copy from")
    said = dict(option_of(text) for text in options)
    return Model(**{**fields, "name": name, "status": "supported", "options": {**fields.get("options", {}), **said}})


def option_of(text: str) -> tuple[str, Any]:
    """KEY=JSON; a value that is not JSON is a string."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


@model_app.command("default")
def model_default(
    name: ModelName,
    reranker: Annotated[
        str | None,
        typer.Option(
            "--reranker", metavar="MODEL", help="Reranker to make the default instead of the one that goes with it."
        ),
    ] = None,
    keep_reranker: Annotated[
        bool, typer.Option("--keep-reranker", help="Leave the default reranker unchanged.")
    ] = False,
    dsn: Dsn = None,
) -> None:
    """Set the default model and the reranker that goes with it.

    attach uses the default model, search --rerank the default reranker. The name of a reranker sets the default
    reranker only. Prints both defaults.
    """
    if reranker is not None and keep_reranker:
        raise typer.BadParameter("--reranker and --keep-reranker exclude each other")
    with connected(dsn) as client:
        client.set_default_model(name, reranker=reranker, keep_reranker=keep_reranker)
        models = client.models()
    chosen = _the_model(models, name)
    unchanged = chosen["kind"] == "embedder" and not (chosen["reranker"] or reranker or keep_reranker)
    for kind, title in (("embedder", "default model"), ("reranker", "default reranker")):
        for model in models:
            if (model["kind"], model["status"]) == (kind, "default"):
                note = f" (unchanged: {name} has none of its own)" if unchanged and kind == "reranker" else ""
                typer.echo(f"{title}: {model['name']}{note}")


Replacement = Annotated[
    str | None,
    typer.Option("--replacement", metavar="MODEL", help="Model to move to; without it, the default of that kind."),
]


@model_app.command("deprecate")
def model_deprecate(name: ModelName, replacement: Replacement = None, dsn: Dsn = None) -> None:
    """Refuse a model for new collections; it is still served.

    `pgmeaning status` names its replacement to whoever uses it, and the command to move to it.
    """
    with connected(dsn) as client:
        client.deprecate_model(name, replacement=replacement)
    typer.echo(f"{name} is deprecated")


@model_app.command("retire")
def model_retire(name: ModelName, replacement: Replacement = None, dsn: Dsn = None) -> None:
    """Serve a model no more: its rows stay owed, and queries get an error that says what to do."""
    with connected(dsn) as client:
        client.retire_model(name, replacement=replacement)
    typer.echo(f"{name} is retired")


@model_app.command("support")
def model_support(name: ModelName, dsn: Dsn = None) -> None:
    """Take back that a model was deprecated or retired."""
    with connected(dsn) as client:
        client.support_model(name)
    typer.echo(f"{name} is supported")


@model_app.command("allow")
def model_allow(
    name: ModelName,
    no_longer: Annotated[bool, typer.Option("--no-longer", help="Take it back.")] = False,
    dsn: Dsn = None,
) -> None:
    """Let everybody ask for a model that no collection uses and that is no default.

    Sidecars load no other: models take much memory. One that you added is allowed already.
    """
    with connected(dsn) as client:
        client.allow_model(name, allowed=not no_longer)
    typer.echo(f"{name} is {'no longer allowed' if no_longer else 'allowed'}")
