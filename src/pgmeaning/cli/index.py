"""The command index: plans, builds and measures a collection's vector index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pgmeaning.cli.output import AsJson, Collection, Dsn, address, connected, print_rows, settings
from pgmeaning.errors import DatabaseError

if TYPE_CHECKING:
    from pgmeaning.indexes.build import Plan

PLAN_COLUMNS = ("model", "present", "kind", "dimensions", "row_count", "bytes", "memory", "build_seconds", "reason")
REPORT_COLUMNS = (
    "model", "index", "index_bytes", "build_seconds", "measured", "recall", "recall_goal", "candidates", "milliseconds",
    "exact_milliseconds", "problem",
)  # fmt: skip


def index(
    collection: Collection,
    kind: Annotated[
        Literal["auto", "none", "signature", "prefix", "direct", "diskann", "vchordrq"] | None,
        typer.Option("--kind", help="Kind of index from now on; default: as chosen before, or auto."),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", metavar="N", min=1, help="Length of the prefix, for --kind prefix.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Only measure recall, and how many candidates it takes; build nothing.")
    ] = False,
    goal: Annotated[
        float | None,
        typer.Option(
            "--goal", metavar="RECALL", min=0.01, max=1, help="Recall to reach; default: PGMEANING_RECALL_GOAL."
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would be built, and what it costs.")] = False,
    trial: Annotated[
        bool, typer.Option("--trial", help="With --plan: build a small index first, to foretell the time by it.")
    ] = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Build and measure the vector index of a collection.

    Writes go on meanwhile. Prints the report of the index. Where an index would not pay, it says why ("no_index" with
    --json); --kind builds one anyway.
    """
    with connected(dsn) as client:
        if plan:
            rows = client.plan_index(collection, kind, dimensions)
            if trial:
                rows = _tried(rows, collection, address(dsn), kind, dimensions)
            print_rows(rows, PLAN_COLUMNS, as_json=as_json, nothing="nothing to plan")
            return
        if kind is not None and not measure:
            client.want_index(collection, kind, dimensions)
        unbuilt = _bring_about(collection, address(dsn), goal, only_measure=measure)
        rows = [{**row, "no_index": unbuilt.get(row["model"])} for row in client.index_report(collection)]
        print_rows(rows, REPORT_COLUMNS, as_json=as_json, nothing="nothing to report")
        for model, reason in () if as_json else unbuilt.items():
            typer.echo(f"no index for {model}: {reason}")


def _tried(
    rows: list[dict[str, Any]], collection: str, dsn: str, kind: str | None, dimensions: int | None
) -> list[dict[str, Any]]:
    """The plans, with the seconds that a trial foretells."""
    from pgmeaning.database.values import translated_errors
    from pgmeaning.indexes import build, trial

    with translated_errors(), build.connected(dsn) as connection:
        plans = build.plans(connection, settings(), collection, kind, dimensions)
        seconds = {plan.model: trial.foretold(connection, plan) for plan in plans}
    return [{**row, "build_seconds": seconds.get(row["model"])} for row in rows]


def _bring_about(collection: str, dsn: str, goal: float | None, *, only_measure: bool) -> dict[str, str]:
    """Build and measure; returns the models whose vectors get no index, and why."""
    from pgmeaning.database.values import translated_errors
    from pgmeaning.indexes import build

    chosen = settings() if goal is None else settings().model_copy(update={"recall_goal": goal})
    with translated_errors(), build.connected(dsn) as connection:
        plans = build.plans(connection, chosen, collection)
        for plan in plans:
            with build.only_builder(connection, plan) as held:
                if not held:
                    raise _busy(plan)
                if plan.due and not only_measure:
                    build.build(connection, plan, chosen)
                if only_measure or (plan.due and plan.kind != "none"):
                    build.measure(connection, plan, chosen)
    return {plan.model: plan.reason for plan in plans if plan.kind == "none"}


def _busy(plan: Plan) -> DatabaseError:
    return DatabaseError(
        f"another process is building the index of collection {plan.collection!r}",
        hint="pgmeaning status shows its progress",
    )
