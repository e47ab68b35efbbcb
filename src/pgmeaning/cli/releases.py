"""The release commands: what a team has agreed on, in this database and between databases."""

from __future__ import annotations

from typing import Annotated

import typer

from pgmeaning.cli.output import AsJson, Dsn, connected, print_rows

release_app = typer.Typer(no_args_is_help=True, help="Agree on releases: models and dimensions that belong together.")

ReleaseName = Annotated[str, typer.Argument(metavar="RELEASE", help="Name of the release.", show_default=False)]


@release_app.command("list")
def release_list(dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the releases, the one this database follows, and whether its models are the defaults."""
    with connected(dsn) as client:
        columns = ("name", "embedder", "reranker", "dimensions", "current", "defaults", "signed_off_by")
        print_rows(client.releases(), columns, as_json=as_json, nothing="no releases")


@release_app.command("create")
def release_create(
    name: ReleaseName,
    embedder: Annotated[str, typer.Option("--embedder", metavar="MODEL", help="Embedding model.")],
    reranker: Annotated[str | None, typer.Option("--reranker", metavar="MODEL", help="Reranker.")] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", metavar="N", min=1, help="Length of vectors; default: the model's.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Name models and dimensions that belong together. Follow it with: pgmeaning release use RELEASE."""
    with connected(dsn) as client:
        client.create_release(name, embedder=embedder, reranker=reranker, dimensions=dimensions)
    typer.echo(f"{name} is created")


@release_app.command("sign")
def release_sign(
    name: ReleaseName,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who signs it off.")],
    dsn: Dsn = None,
) -> None:
    """Record who has signed a release off, once and for all."""
    with connected(dsn) as client:
        client.sign_release(name, by)
    typer.echo(f"{name} is signed off by {by}")


@release_app.command("use")
def release_use(name: ReleaseName, dsn: Dsn = None) -> None:
    """Follow a release: its models become the defaults, its dimensions those of new collections."""
    with connected(dsn) as client:
        client.use_release(name)
    typer.echo(f"this database follows {name}")
