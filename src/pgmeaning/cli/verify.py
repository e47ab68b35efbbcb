"""pgmeaning model verify: whether a model gives here what it gave when it was registered."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgmeaning.cli.groups import ModelName, model_app
from pgmeaning.cli.output import AsJson, Dsn, connected, print_json, print_rows

if TYPE_CHECKING:
    from pgmeaning.releases.verify import Verification


@model_app.command("verify")
def model_verify(
    name: ModelName,
    location: Annotated[
        str | None, typer.Option("--location", metavar="PLACE", help="Folder, hub name or URL, if not the registry's.")
    ] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="DTYPE", help="Such as float32 or bfloat16.")] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Load a model here, and compare what it gives with the database's probes. Exit status 1 if it is another."""
    from pgmeaning.releases.verify import verify

    options = {key: value for key, value in (("location", location), ("dtype", dtype)) if value is not None}
    with connected(dsn) as client:
        found = verify(client.connection, client.model(name), **options)
    rows = _rows(found)
    if as_json:
        makers = {"then": asdict(found.then), "now": asdict(found.now)}
        print_json({"model": name, "passed": found.passed, **makers, "probes": rows})
    else:
        shown = [{**row, "cosine": f"{row['cosine']:.6f}"} for row in rows]
        print_rows(shown, ("probe", "cosine", "at least", "passed"), as_json=False, nothing="no probes")
        changes = found.then.changes(found.now)
        typer.echo(f"made with {changes}" if changes else "made with the same versions")
        typer.echo(f"{name} {'gives' if found.passed else 'does not give'} the vectors that it was registered with")
    raise typer.Exit(0 if found.passed else 1)


def _rows(found: Verification) -> list[dict[str, Any]]:
    from pgmeaning.models.probes import shown

    return [
        {
            "number": result.probe.number, "probe": shown(result.probe), "cosine": result.cosine,
            "at least": result.tolerance, "passed": result.passed, "error": result.error,
        }
        for result in found.results
    ]  # fmt: skip
