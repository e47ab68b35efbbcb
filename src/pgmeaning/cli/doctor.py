"""pgmeaning doctor: what is wrong with an installation, and whose vectors a column holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pgmeaning.cli.output import AsJson, Dsn, address, configure_logging, connected, print_json

if TYPE_CHECKING:
    from pgmeaning.client.checkup import Finding


def doctor(
    column: Annotated[
        str | None,
        typer.Option(
            "--column", metavar="TABLE.COLUMN",
            help="Look at this column of type vector or halfvec instead, which nobody manages: of --model, or not?",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Model that the column should be of.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="COLUMN", help="Column that was embedded; may be repeated.")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", metavar="TEMPLATE", help="Text that was embedded: '{title}: {body}'.")
    ] = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", min=1, help="Rows to embed again.")] = 200,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without harm.")] = False,
    max_lag: Annotated[
        float, typer.Option("--max-lag", metavar="SECONDS", min=0, help="How long a change may wait for its vector.")
    ] = 60,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Look for what is wrong: schema, extensions, rights, settings, sidecars, collections. Exit status 1: something is.

    With --column, look at vectors that were there before: a sample of their rows is embedded again, in this process,
    and compared. Exit status 1 unless they are of the model.
    """
    if column is None:
        if model or text or template:
            raise typer.BadParameter("--model, --text and --template go with --column")
        raise typer.Exit(_check_up(address(dsn), max_lag, fix=fix, as_json=as_json))
    if model is None:
        raise typer.BadParameter("--column needs --model")
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


def _check_up(dsn: str, max_lag: float, *, fix: bool, as_json: bool) -> int:
    configure_logging(None, "warning")
    from pgmeaning.client import checkup

    with checkup.directly(dsn) as connection:
        found = checkup.examine(connection, dsn, max_lag=max_lag)
        if fix:
            found = checkup.mend(connection, dsn, found)
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        _print(found, fix=fix)
    return int(any(not (each.fixed or "").startswith("mended") for each in found))


def _print(found: Sequence[Finding], *, fix: bool) -> None:
    for each in found:
        typer.echo(f"{each.kind}: {each.thing}: {each.problem}")
        typer.echo(f"    {each.fixed or 'to do: ' + each.remedy}")
    if not found:
        typer.echo("all is well")
    elif not fix and any(each.fix for each in found):
        typer.echo("pgmeaning doctor --fix mends some of it")
