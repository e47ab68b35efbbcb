"""pgmeaning doctor: looks at vectors that were there before us."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pgmeaning.cli.output import AsJson, Dsn, connected, print_json


def doctor(
    column: Annotated[str, typer.Option("--column", metavar="TABLE.COLUMN", help="Column of type vector or halfvec.")],
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="Model that it should be of.")],
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="COLUMN", help="Column that was embedded; may be repeated.")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", metavar="TEMPLATE", help="Text that was embedded: '{title}: {body}'.")
    ] = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, help="Rows to embed again.")] = 200,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Look at a vector column that nobody manages: of this model, of another, stale, or mixed?

    Embeds a sample of its rows again, in this process, and compares. Exit status 1 unless it is of the model.
    """
    with connected(dsn) as client:
        found = client.doctor(column, model, text or (), template=template, sample=sample)
    facts = {**asdict(found), "passed": found.passed, "verdict": found.verdict, "next": found.next_step}
    if as_json:
        print_json(facts)
    else:
        for name, value in facts.items():
            if value or name in ("rows", "sample", "same"):
                typer.echo(f"{name:13} {value}")
    raise typer.Exit(0 if found.passed else 1)
