"""The command evaluate: how good the results are, for people, for programs, and as a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgmeaning.cli.output import AsJson, Collection, Dsn, connected, print_json, print_rows
from pgmeaning.tables import printable

if TYPE_CHECKING:
    from pgmeaning.evaluation import Evaluation
    from pgmeaning.evaluation.compare import Estimate

DIFFERENCE_COLUMNS = ("way", "beside", "measure", "tag", "n", "value", "beside_value", "change", "interval")
CHANGED_COLUMNS = ("query", "change", "overlap", "way", "beside")
SHOWN_QUERY = 80


def evaluate(
    collection: Collection,
    queries: Annotated[
        str,
        typer.Option(
            "--queries", metavar="FILE", help="JSON lines, CSV, TREC topics (with --qrels) or a BEIR folder.",
            show_default=False,
        ),
    ],
    qrels: Annotated[str | None, typer.Option("--qrels", metavar="FILE", help="Judgements in TREC's format.")] = None,
    generation: Annotated[
        list[str] | None,
        typer.Option(
            "--generation", metavar="NAME",
            help="Compare with this one of the same table; may be repeated; default: what a swap of COLLECTION fills.",
        ),
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option(
            "--way", metavar="WAY",
            help="vectors (the default), words, hybrid, reranked or hybrid-reranked; may be repeated.",
        ),
    ] = None,
    recall: Annotated[
        list[int] | None,
        typer.Option("--recall", metavar="K", min=1, help="Depth of recall; may be repeated; default: 10."),
    ] = None,
    rerank: Annotated[int, typer.Option("--rerank", metavar="N", min=1, help="Rows that a reranker judges.")] = 50,
    reranker: Annotated[
        str | None,
        typer.Option("--reranker", metavar="MODEL", help="Reranker to use; default: the database's default reranker."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="V,W", help="Weights of vectors and words in hybrid search; default: 1,1."),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--candidates", metavar="N", min=1, help="Candidates that an index yields.")
    ] = None,
    filter: Annotated[
        str | None, typer.Option("--filter", metavar="CONDITION", help="SQL condition on the table's columns.")
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Choose weights, candidates and rerank depth on half of the queries, and report on the other half.",
        ),
    ] = False,
    changed: Annotated[
        int, typer.Option("--changed", metavar="N", min=0, help="Queries to show of those that changed most.")
    ] = 10,
    fail_below: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-below", metavar="MEASURE=VALUE",
            help="Exit with status 1 if the last generation is below, such as nDCG@10=0.5; may be repeated.",
        ),
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE.html", help="Write the result as one HTML file, too.")
    ] = None,
    record: Annotated[
        bool | None,
        typer.Option(
            "--record/--no-record",
            help="Keep the result in pgmeaning.evaluations; default: if generations are compared.", show_default=False,
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Load the models in this process instead of asking a sidecar.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="For intervals and halves.")] = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Seconds to wait for a sidecar's reply.")
    ] = 60,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure how good the results of searches are, and compare.

    A line of the queries' file is {"query": "...", "relevant": [keys]}. Prints nDCG@10, recall, MRR and milliseconds of
    each way to search; differences come with 95 % intervals. Without judgements it says how alike the lists are.
    """
    depths, ways = recall or [10], way or ["vectors"]
    _check_ways(ways)
    goals = _goals(fail_below or [], depths)
    _check_folder(report)
    with connected(dsn) as client:
        found = client.evaluate(
            collection, queries, qrels=qrels, generations=generation or None, ways=ways, recall=depths, rerank=rerank,
            reranker=reranker, weights=_weights(weights), candidates=candidates, filter=filter, tune=tune,
            changed=changed, seed=seed, record=record, local=local, timeout=timeout, progress=_progress(),
        )  # fmt: skip
    below = found.falls_below(goals) if goals else []
    if as_json:
        print_json({**found.as_document(), "below": below})
    else:
        _print(found)
    _write_report(found, report)
    for line in below:
        typer.echo(printable(line), err=True)
    if below:
        raise typer.Exit(1)


# ---------------------------------------------------------------- what was asked for


def _check_ways(ways: Sequence[str]) -> None:
    from pgmeaning.evaluation.results import KINDS

    for way in ways:
        if way not in KINDS:
            raise typer.BadParameter(f"{way!r} is none of {', '.join(KINDS)}", param_hint="--way")


def _goals(given: Sequence[str], depths: Sequence[int]) -> dict[str, float]:
    from pgmeaning.evaluation.measures import measure_names

    goals: dict[str, float] = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            goals[name] = float(value)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not like nDCG@10=0.5", param_hint="--fail-below") from None
        if name not in measure_names(depths):
            known = ", ".join(measure_names(depths))
            raise typer.BadParameter(f"{name!r} is none of {known}", param_hint="--fail-below")
    return goals


def _weights(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        vectors, words = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like 2,1", param_hint="--weights") from None
    return [vectors, words]


def _check_folder(report: str | None) -> None:
    """Before anything is measured, since that may take long."""
    if report is not None and (not report or not Path(report).absolute().parent.is_dir() or Path(report).is_dir()):
        raise typer.BadParameter(f"{report!r} is no file in a folder that is there", param_hint="--report")


def _progress() -> Any:
    """On a terminal, one line that is written over."""
    if not sys.stderr.isatty():
        return None

    def tell(what: str, done: int, of: int) -> None:
        typer.echo(f"\r\x1b[K{printable(what)} {done}/{of}", err=True, nl=False)
        if done >= of - 1:
            typer.echo("\r\x1b[K", err=True, nl=False)

    return tell


# ---------------------------------------------------------------- what came out


def _print(found: Evaluation) -> None:
    for warning in found.warnings:
        typer.echo(f"note: {printable(warning)}", err=True)
    typer.echo(f"{found.queries:,} queries, {found.judged:,} judged")
    for title, rows, columns in _tables(found):
        if rows:
            typer.echo(f"\n{title}")
            print_rows(rows, columns, as_json=False, nothing="")
    for one in found.tuned:
        typer.echo(
            f"\n{printable(one.way.label)}, tuned on {one.chosen_on} queries: nDCG@10 {_with_interval(one.value)} "
            f"on the other {one.value.n}, by default {one.default_value.mean:.3f}, change {one.change.mean:+.3f} "
            f"{_bounds(one.change)}\n{printable(one.statement)};\n{printable(one.call)}"
        )
    if found.recorded:
        typer.echo(f"\n{found.recorded} measures are recorded in pgmeaning.evaluations")


def _tables(found: Evaluation) -> Iterator[tuple[str, list[Mapping[str, Any]], Sequence[str]]]:
    measures: list[Mapping[str, Any]] = [
        {
            "way": one.way.label, **{name: _with_interval(value) for name, value in one.measures.items()},
            "p50 ms": round(one.p50, 1), "p95 ms": round(one.p95, 1),
        }
        for one in found.measured
    ]  # fmt: skip
    yield "measures", measures, list(measures[0])
    yield "differences", [_difference(one) for one in found.differences], DIFFERENCE_COLUMNS
    likenesses: list[Mapping[str, Any]] = [
        {
            "way": one.way.label, "beside": one.base.label, "overlap@10": _with_interval(one.overlap),
            "rank-biased overlap": _with_interval(one.rank_biased_overlap),
        }
        for one in found.likenesses
    ]  # fmt: skip
    yield "how alike the lists are", likenesses, list(likenesses[0]) if likenesses else []
    yield "queries that changed most", [_changed(one) for one in found.changed], CHANGED_COLUMNS


def _difference(one: Any) -> dict[str, Any]:
    return {
        "way": one.way.label, "beside": one.base.label, "measure": one.measure, "tag": one.tag or "all",
        "n": one.change.n, "value": f"{one.value:.3f}", "beside_value": f"{one.base_value:.3f}",
        "change": f"{one.change.mean:+.3f}", "interval": _bounds(one.change),
    }  # fmt: skip


def _changed(one: Any) -> dict[str, Any]:
    query = one.query if len(one.query) <= SHOWN_QUERY else one.query[: SHOWN_QUERY - 1] + "…"
    change = "" if one.change is None else f"{one.change:+.3f}"
    return {
        "query": query, "change": change, "overlap": f"{one.rank_biased_overlap:.2f}", "way": one.way.label,
        "beside": one.base.label,
    }  # fmt: skip


def _with_interval(value: Estimate) -> str:
    return f"{value.mean:.3f} {_bounds(value)}".strip()


def _bounds(value: Estimate) -> str:
    return "" if value.low is None else f"[{value.low:.3f}, {value.high:.3f}]"


def _write_report(found: Evaluation, report: str | None) -> None:
    if report is not None:
        from pgmeaning.evaluation.report import html

        Path(report).write_text(html(found), encoding="utf-8", errors="replace")
        typer.echo(f"the report is in {report}", err=True)
