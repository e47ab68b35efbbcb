"""The command index: what a collection's vectors have, would get and cost; building it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pgmeaning.cli.output import AsJson, Collection, Dsn, address, connected, print_rows, settings
from pgmeaning.errors import DatabaseError

if TYPE_CHECKING:
    from pgmeaning.indexes.build import Plan

PLAN_COLUMNS = ("model", "present", "kind", "dimensions", "row_count", "bytes", "build_seconds", "reason")
REPORT_COLUMNS = (
    "model", "index", "index_bytes", "build_seconds", "measured", "recall", "recall_goal", "candidates", "milliseconds",
    "exact_milliseconds", "problem",
)  # fmt: skip


def index(
    collection: Collection,
    kind: Annotated[
        Literal["auto", "none", "signature", "prefix", "direct"] | None,
        typer.Option("--kind", help="The kind from now on; else as settled before, or auto."),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option("--dimensions", min=1, help="Of a prefix: how many dimensions it has.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Build nothing: only measure recall, and how many candidates it takes.")
    ] = False,
    goal: Annotated[
        float | None,
        typer.Option("--goal", min=0.01, max=1, help="The recall to reach; else PGMEANING_RECALL_GOAL."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be built, and what it costs.")] = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Build the index of a collection's vectors now, while rows go on being written; measure it and print the report.

    Where vectors are to have no index, it says why ("no_index" with --json); --kind builds one all the same.
    """
    with connected(dsn) as client:
        if plan:
            rows = client.plan_index(collection, kind, dimensions)
            print_rows(rows, PLAN_COLUMNS, as_json=as_json, nothing="nothing to plan")
            return
        if kind is not None and not measure:
            client.want_index(collection, kind, dimensions)
        unbuilt = _bring_about(collection, address(dsn), goal, only_measure=measure)
        rows = [{**row, "no_index": unbuilt.get(row["model"])} for row in client.index_report(collection)]
        print_rows(rows, REPORT_COLUMNS, as_json=as_json, nothing="nothing to report")
        for model, reason in () if as_json else unbuilt.items():
            typer.echo(f"no index for {model}: {reason}")


def _bring_about(collection: str, dsn: str, goal: float | None, *, only_measure: bool) -> dict[str, str]:
    """Build and measure; returns the models whose vectors are to have no index, and why."""
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
        f"the index of collection {plan.collection!r} is being built by somebody else",
        hint="pgmeaning status shows how far it is",
    )
