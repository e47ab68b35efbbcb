"""The commands that come in groups: server, model, release."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgmeaning.cli.output import AsJson, Dsn, connected, print_json, print_rows, shown
from pgmeaning.errors import ModelNotFound

if TYPE_CHECKING:
    from pgmeaning.embedded_server.server import EmbeddedServer
    from pgmeaning.types import Model

server_app = typer.Typer(
    no_args_is_help=True, help="The embedded PostgreSQL: one data folder, one server on 127.0.0.1."
)
model_app = typer.Typer(no_args_is_help=True, help="The models that this database knows.")
release_app = typer.Typer(no_args_is_help=True, help="Releases: which models and dimensions belong together.")

# Not a Path, to which an empty name would be the current folder.
DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", metavar="FOLDER", help="The data folder; else one below the user's data folder."),
]
Port = Annotated[
    int | None, typer.Option("--port", min=1, max=65535, help="The port; else the last one, or a free one.")
]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.", show_default=False)]


def embedded_server(data_dir: str | None, port: int | None = None) -> EmbeddedServer:
    from pgmeaning.embedded_server.server import EmbeddedServer

    return EmbeddedServer(data_dir, port)


@server_app.command("start")
def server_start(data_dir: DataDir = None, port: Port = None) -> None:
    """Start the server, making its data folder if there is none, and print its DSN; one that runs is left running."""
    typer.echo(embedded_server(data_dir, port).start())


@server_app.command("stop")
def server_stop(data_dir: DataDir = None) -> None:
    """Stop the server, ending its sessions; no server is no error."""
    embedded_server(data_dir).stop()


@server_app.command("status")
def server_status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Whether the server runs, and where; exit status 0 also when it does not."""
    from dataclasses import asdict

    status = asdict(embedded_server(data_dir).status())
    if as_json:
        print_json(status)
        return
    for name, value in status.items():
        if value is not None:
            typer.echo(f"{name:9} {value if name in ('pid', 'port') else shown(value)}")


@server_app.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def server_psql(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[PSQL ARGUMENTS]...", help="Handed to psql as they are.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Open psql on the running server; further arguments are psql's, such as -c 'SELECT 1'."""
    server = embedded_server(data_dir)
    environment, command = server.psql_environment(), server.psql_command()
    os.execve(command[0], [*command, *(arguments or [])], environment)


@model_app.command("list")
def model_list(dsn: Dsn = None, as_json: AsJson = False) -> None:
    """The registry: what each model is, and how many collections bear its vectors."""
    with connected(dsn) as client:
        columns = ("name", "kind", "status", "dimensions", "modalities", "collections")
        print_rows(client.models(), columns, as_json=as_json, nothing="no models")


@model_app.command("show")
def model_show(name: ModelName, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """All that the registry says of one model."""
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
        str | None, typer.Option(metavar="MODEL", help="A model to take all from that is not said here.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="embedder or reranker.")] = None,
    backend: Annotated[str | None, typer.Option(help="What runs it, such as http or sentence_transformers.")] = None,
    location: Annotated[str | None, typer.Option(help="A folder, a hub name, or an endpoint's base URL.")] = None,
    revision: Annotated[str | None, typer.Option(help="A revision of the hub's.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="The length of its vectors.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="What is beyond is not read.")] = None,
    template: Annotated[str | None, typer.Option(help="A named template.")] = None,
    query_prompt: Annotated[str | None, typer.Option(help="With {text} where the query goes.")] = None,
    document_prompt: Annotated[str | None, typer.Option(help="With {text} where the document goes.")] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The reranker that `model default` takes along with it.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=JSON", help="An option of its backend's; may be repeated.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Add a model of your own, such as one that an endpoint serves. It stays as it is once a vector bears its name."""
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
        raise typer.BadParameter(f"say --{' and --'.join(missing)}, or --like a model that has it")
    said = dict(_option(text) for text in options)
    return Model(**{**fields, "name": name, "status": "supported", "options": {**fields.get("options", {}), **said}})


def _option(text: str) -> tuple[str, Any]:
    """KEY=JSON; what is no JSON is a string."""
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
        str | None, typer.Option("--reranker", metavar="MODEL", help="The default reranker; else the model's own.")
    ] = None,
    keep_reranker: Annotated[
        bool, typer.Option("--keep-reranker", help="Leave the default reranker as it is.")
    ] = False,
    dsn: Dsn = None,
) -> None:
    """Set the default model, and with it the default reranker; a reranker's name sets the reranker only.

    attach uses the default model, search --rerank the default reranker. Prints both.
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


@model_app.command("deprecate")
def model_deprecate(name: ModelName, dsn: Dsn = None) -> None:
    """Serve a model, but refuse it for new collections."""
    with connected(dsn) as client:
        client.deprecate_model(name)
    typer.echo(f"{name} is deprecated")


@release_app.command("list")
def release_list(dsn: Dsn = None, as_json: AsJson = False) -> None:
    """The releases, and which one this database follows."""
    with connected(dsn) as client:
        columns = ("name", "embedder", "reranker", "dimensions", "current")
        print_rows(client.releases(), columns, as_json=as_json, nothing="no releases")
