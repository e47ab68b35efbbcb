"""The release commands: what a team has agreed on, in this database and between databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pgmeaning.cli.output import AsJson, Dsn, connected, print_json, print_rows

if TYPE_CHECKING:
    from pgmeaning.releases.check import Finding

release_app = typer.Typer(no_args_is_help=True, help="Agree on releases: models and dimensions that belong together.")

ReleaseName = Annotated[str, typer.Argument(metavar="RELEASE", help="Name of the release.", show_default=False)]
File = Annotated[str, typer.Argument(metavar="FILE", help="File of a release.", show_default=False)]


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
def release_use(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE|FILE", help="Name of a release, or a file (*.json).", show_default=False)
    ],
    dsn: Dsn = None,
) -> None:
    """Follow a release: its models become the defaults, its dimensions those of new collections.

    From a file that `pgmeaning release export` wrote, its models and their probes are registered first. A damaged file
    is refused, and one with a model or release that this database has under the same name and means otherwise.
    """
    from pathlib import Path

    with connected(dsn) as client:
        if release.endswith(".json") or Path(release).is_file():
            release = client.import_release(release)
        else:
            client.use_release(release)
    typer.echo(f"this database follows {release}")


@release_app.command("export")
def release_export(
    file: File,
    release: Annotated[
        str | None, typer.Option("--release", metavar="RELEASE", help="Name of the release; default: the current one.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Write a release to a file: its models, their fingerprints and probes, who signed it off, and a checksum."""
    with connected(dsn) as client:
        name = client.export_release(file, release)
    typer.echo(f"{name} is in {file}")


@release_app.command("check")
def release_check(file: File, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Compare a file's models with this database's. Exit status 1 unless all are equal or compatible.

    Compatible: the definitions differ in what changes no vector, such as a location, and the probes are alike.
    """
    with connected(dsn) as client:
        found = client.check_release(file)
    _print_findings(found, as_json=as_json)


@release_app.command("compare")
def release_compare(
    other: Annotated[str, typer.Option("--with", metavar="DSN", help="The other database.")],
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Compare another database's release, and the models that its collections use, with this one's.

    Exit status 1 unless all are equal or compatible.
    """
    from pgmeaning.client.connecting import connect

    with connected(dsn) as client, connect(other) as theirs:
        found = client.compare_release(theirs)
    _print_findings(found, as_json=as_json)


def _print_findings(found: Sequence[Finding], *, as_json: bool) -> None:
    rows = [{"subject": f.subject, "verdict": f.verdict, "why": f.why} for f in found]
    passed = all(f.passed for f in found)
    if as_json:
        print_json({"passed": passed, "findings": rows})
    else:
        print_rows(rows, ("subject", "verdict", "why"), as_json=False, nothing="nothing to compare")
    raise typer.Exit(0 if passed else 1)
