"""pgmeaning status: how far each collection is, and whether all is well."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgmeaning.cli.output import AsJson, Dsn, connected, console, print_json
from pgmeaning.tables import table

if TYPE_CHECKING:
    from rich.console import Group

    from pgmeaning.client.client import Client

COLUMNS = (
    "collection", "source", "state", "model", "source_rows", "vectors", "owed", "failed", "rows_per_second",
    "time_left", "cost", "cost_left", "index", "problem",
)  # fmt: skip
# Shown where a collection has them.
SOMETIMES = ("rows_per_second", "time_left", "cost", "cost_left", "problem")
SIDECAR_COLUMNS = ("host", "pid", "alive", "models", "rows_done", "claimed", "problems")

# The exit status of --check; of several, the highest.
LAGS, FAILED, BROKEN, NO_SIDECAR = 3, 4, 5, 6
ALIKE = {LAGS: "lag", FAILED: "failures", BROKEN: "broken", NO_SIDECAR: "no sidecar"}


def status(
    collection: Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="Show this collection only.")] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second, until Ctrl-C.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only say what is wrong. Exit status 0: nothing; 3: rows wait for longer than --max-lag; "
            "4: rows failed; 5: a collection is broken; 6: no living sidecar could embed; the highest of several.",
        ),
    ] = False,
    max_lag: Annotated[
        float, typer.Option("--max-lag", metavar="SECONDS", min=0, help="How long a change may wait, with --check.")
    ] = 60,
) -> None:
    """Show the progress of each collection, and the sidecars."""
    from pgmeaning.database.vector_version import vector_advice

    if watch and (as_json or check):
        raise typer.BadParameter("--watch excludes --json and --check")
    with connected(dsn) as client:
        if check:
            raise typer.Exit(_check(client, collection, max_lag, as_json=as_json))
        if old := vector_advice(client.connection):
            typer.echo(old, err=True)
        if as_json:
            print_json(client.status(collection))
        elif watch:
            _watch(client, collection)
        else:
            screen = console()
            screen.print(_status(client, collection, screen.width), soft_wrap=True)


def _check(client: Client, collection: str | None, max_lag: float, *, as_json: bool) -> int:
    found = list(_wrong(client.lags(collection), client.sidecars(), max_lag))
    if as_json:
        print_json([{"kind": ALIKE[kind], "collection": name, "problem": said} for kind, name, said in found])
    else:
        for _, name, said in found:
            typer.echo(f"{name}: {said}" if name else said)
        if not found:
            typer.echo("ok")
    return max((kind for kind, *_ in found), default=0)


def _wrong(
    collections: Sequence[dict[str, Any]], sidecars: Sequence[dict[str, Any]], max_lag: float
) -> Iterator[tuple[int, str | None, str]]:
    """(exit status, collection, what is wrong)."""
    alive = any(row["alive"] for row in sidecars)
    if not alive:
        yield NO_SIDECAR, None, "no sidecar is alive (start one: pgmeaning sidecar)"
    for row in collections:
        name = row["collection"]
        if row["broken"]:
            yield BROKEN, name, row["problem"] or "it is broken"
        if row["failed"]:
            yield FAILED, name, f"{row['failed']} rows failed (see pgmeaning failures, then pgmeaning retry)"
        if row["paused"] or row["broken"]:
            continue
        if row["owed"] and alive and not row["attended"]:
            yield NO_SIDECAR, name, f"no sidecar is alive that can run model {row['model']}"
        if row["owed"] and row["oldest"] > max_lag:
            yield LAGS, name, f"{row['owed']} rows are owed, the oldest for {_duration(row['oldest'])}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _watch(client: Client, collection: str | None) -> None:
    from rich.live import Live

    screen = console()
    try:
        if not screen.is_terminal:  # nothing there that could be drawn over
            while True:
                screen.print(_status(client, collection, screen.width), "", soft_wrap=True)
                time.sleep(1)
        with Live(_status(client, collection, screen.width), console=screen, auto_refresh=False) as live:
            while True:
                time.sleep(1)
                live.update(_status(client, collection, screen.width), refresh=True)
    except KeyboardInterrupt:
        return


def _marked(row: dict[str, Any]) -> dict[str, Any]:
    """For people: estimates with a tilde, no more digits than mean something."""
    numbers = ("source_rows", "vectors", "owed") if row["estimated"] else ()
    shown = {**row, **{name: f"~{row[name]}" for name in numbers if row[name] is not None}}
    if row["rows_per_second"] is not None:
        shown["rows_per_second"] = round(row["rows_per_second"], 1)
    if row["time_left"] is not None:
        shown["time_left"] = _duration(row["time_left"].total_seconds())
    return shown | {name: round(row[name], 2) for name in ("cost", "cost_left") if row[name] is not None}


def _status(client: Client, collection: str | None, width: int) -> Group:
    from rich.console import Group

    collections, sidecars = [_marked(row) for row in client.status(collection)], client.sidecars()
    wanted = [
        name for name in COLUMNS if name not in SOMETIMES or any(row[name] not in (None, 0.0) for row in collections)
    ]
    return Group(
        table(collections, wanted, width)
        if collections
        else "no collections (make one: pgmeaning attach TABLE --column COLUMN)",
        "",
        table(sidecars, SIDECAR_COLUMNS, width) if sidecars else "no sidecar is running (start one: pgmeaning sidecar)",
    )
