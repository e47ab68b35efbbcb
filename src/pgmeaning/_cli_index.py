"""The command index: what a collection's vectors have, would get and cost; building it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pgmeaning._cli_context import AsJson, Collection, Dsn, address, connected, print_rows, settings
from pgmeaning.errors import DatabaseError

if TYPE_CHECKING:
    from pgmeaning.indexing import Plan

PLAN_COLUMNS = ("model", "present", "kind", "dimensions", "row_count", "bytes", "build_seconds", "reason")
REPORT_COLUMNS = (
    "model", "index", "index_bytes", "build_seconds", "tested", "recall", "target", "candidates", "milliseconds",
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
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be built, and what it costs.")] = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Build the index of a collection's vectors now, while rows go on being written; prints the report."""
    with connected(dsn) as client:
        if plan:
            rows = client.plan_index(collection, kind, dimensions)
            print_rows(rows, PLAN_COLUMNS, as_json=as_json, nothing="nothing to plan")
            return
        if kind is not None:
            client.want_index(collection, kind, dimensions)
        _bring_about(collection, address(dsn))
        rows = client.index_report(collection)
        print_rows(rows, REPORT_COLUMNS, as_json=as_json, nothing=f"there is no collection {collection!r}")


def _bring_about(collection: str, dsn: str) -> None:
    from pgmeaning import indexing
    from pgmeaning.client import translated_errors

    with translated_errors(), indexing.connected(dsn) as connection:
        for plan in indexing.plans(connection, settings(), collection):
            with indexing.only_builder(connection, plan) as held:
                if not held:
                    raise _busy(plan)
                if plan.due:
                    indexing.build(connection, plan, settings())


def _busy(plan: Plan) -> DatabaseError:
    return DatabaseError(
        f"the index of collection {plan.collection!r} is being built by somebody else",
        hint="pgmeaning status shows how far it is",
    )
