"""pgmeaning swap: change a collection's model or definition while it serves."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pgmeaning.cli.output import AsJson, Collection, Dsn, connected, json_object, print_json, print_rows
from pgmeaning.tables import shown

swap_app = typer.Typer(no_args_is_help=True, help="Change a collection's model or definition while it serves.")

Model = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="New model.")]
Dimensions = Annotated[int | None, typer.Option("--dimensions", metavar="N", min=1, help="New length of the vectors.")]
VectorType = Annotated[str | None, typer.Option("--vector-type", metavar="TYPE", help="vector or halfvec.")]
Column = Annotated[
    list[str] | None, typer.Option("--column", metavar="COLUMN", help="Columns to embed instead; may be repeated.")
]
Template = Annotated[str | None, typer.Option("--template", metavar="TEMPLATE", help="New template; '': none.")]
Image = Annotated[str | None, typer.Option("--image", metavar="COLUMN", help="New column of images; '': none.")]
Video = Annotated[str | None, typer.Option("--video", metavar="COLUMN", help="New column of videos; '': none.")]
Chunking = Annotated[str | None, typer.Option("--chunking", metavar="JSON", help="New chunking; '{}': none.")]
Language = Annotated[
    str | None, typer.Option("--language", metavar="CONFIG", help="New text search configuration; '': none.")
]
Price = Annotated[float | None, typer.Option("--price", metavar="PRICE", help="Price of a million tokens.")]
Deprecated = Annotated[bool, typer.Option("--allow-deprecated", help="Accept a deprecated model.")]
Until = Annotated[
    float | None, typer.Option("--until", metavar="PART", min=0, max=1, help="Fill a part only: 0.5 is half.")
]
Rate = Annotated[
    float | None, typer.Option("--rows-per-second", metavar="N", help="Take no more of the present rows a second.")
]
Share = Annotated[
    float | None, typer.Option("--share", metavar="PART", help="Take no more than this part of a sidecar's model.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=0, help="Stop once the model has read so many.")
]
Overrule = Annotated[
    str | None,
    typer.Option("--overrule", metavar="REASON", help="Let it serve though it is judged worse; recorded."),
]
Patience = Annotated[
    float, typer.Option("--patience", metavar="SECONDS", min=0, help="Wait so long for rows that are owed.")
]


def _chunking(text: str | None) -> dict[str, Any] | None:
    """None: as it is; an empty text takes it away."""
    return json_object("{}" if text == "" else text, "--chunking")


@swap_app.command("explain")
def swap_explain(
    collection: Collection, model: Model = None, dimensions: Dimensions = None, vector_type: VectorType = None,
    column: Column = None, template: Template = None, image: Image = None, video: Video = None,
    chunking: Chunking = None, language: Language = None, price: Price = None, allow_deprecated: Deprecated = False,
    dsn: Dsn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show what a swap would take: rows, tokens, disk, hours, cost, locks. Changes nothing."""
    with connected(dsn) as client:
        found = client.explain_swap(
            collection, model=model, dimensions=dimensions, vector_type=vector_type, columns=column or None,
            template=template, image=image, video=video, chunking=_chunking(chunking), language=language, price=price,
            allow_deprecated=allow_deprecated,
        )  # fmt: skip
    print_rows(found, ("item", "value", "note"), as_json=as_json, nothing="nothing")


@swap_app.command("start")
def swap_start(
    collection: Collection, model: Model = None, dimensions: Dimensions = None, vector_type: VectorType = None,
    column: Column = None, template: Template = None, image: Image = None, video: Video = None,
    chunking: Chunking = None, language: Language = None, until: Until = None, rows_per_second: Rate = None,
    share: Share = None, max_tokens: MaxTokens = None, price: Price = None,
    require_evaluation: Annotated[
        bool, typer.Option("--require-evaluation", help="Refuse to activate it until it was evaluated.")
    ] = False,
    allow_deprecated: Deprecated = False, dsn: Dsn = None,
) -> None:  # fmt: skip
    """Start filling a new generation; prints its name."""
    with connected(dsn) as client:
        name = client.swap_start(
            collection, model=model, dimensions=dimensions, vector_type=vector_type, columns=column or None,
            template=template, image=image, video=video, chunking=_chunking(chunking), language=language, until=until,
            rows_per_second=rows_per_second, share=share, max_tokens=max_tokens, price=price,
            require_evaluation=require_evaluation, allow_deprecated=allow_deprecated,
        )  # fmt: skip
    typer.echo(name)
    typer.echo(f"see: pgmeaning swap status {collection}", err=True)


@swap_app.command("adjust")
def swap_adjust(
    collection: Collection, until: Until = None, rows_per_second: Rate = None, share: Share = None,
    max_tokens: MaxTokens = None, price: Price = None, dsn: Dsn = None,
) -> None:  # fmt: skip
    """Set how fast and how far a swap fills. What is left out has no limit any more."""
    with connected(dsn) as client:
        client.swap_adjust(
            collection, until=until, rows_per_second=rows_per_second, share=share, max_tokens=max_tokens, price=price
        )
    typer.echo(f"see: pgmeaning swap status {collection}")


@swap_app.command("status")
def swap_status(
    collection: Annotated[
        str | None, typer.Argument(metavar="[COLLECTION]", help="Name of the collection; default: all swaps.")
    ] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Show both generations, how far the new one is, what must hold before it serves, and the next command."""
    with connected(dsn) as client:
        found = client.swaps(collection)
    if as_json:
        print_json(found)
        return
    for swap in found:
        _print_swap(swap)
    if not found:
        typer.echo("no swaps")


def _print_swap(swap: dict[str, Any]) -> None:
    typer.echo(f"{swap['collection']}: {swap['state']}")
    for field, value in swap.items():
        if field not in ("collection", "state", "gates", "next", "swap") and value is not None:
            typer.echo(f"  {field:16} {shown(value)}".rstrip())
    for gate in swap["gates"] or ():
        passes = {True: "holds", False: "does not hold", None: "not known"}[gate["passes"]]
        typer.echo(f"  gate {gate['gate']:11} {passes}: {gate['finding']}")
    if swap["next"]:
        typer.echo(f"  next: {swap['next']}")


@swap_app.command("activate")
def swap_activate(collection: Collection, overrule: Overrule = None, patience: Patience = 10, dsn: Dsn = None) -> None:
    """Let the new generation serve. Refuses while it lacks a row's vector, or a gate is closed."""
    with connected(dsn) as client:
        client.swap_activate(collection, overrule=overrule, patience=patience)
    typer.echo(f"the new generation of {collection} serves; next: pgmeaning swap finish {collection}")


@swap_app.command("rollback")
def swap_rollback(collection: Collection, overrule: Overrule = None, patience: Patience = 10, dsn: Dsn = None) -> None:
    """Let the previous generation serve again."""
    with connected(dsn) as client:
        client.swap_rollback(collection, overrule=overrule, patience=patience)
    typer.echo(f"the previous generation of {collection} serves again")


@swap_app.command("finish")
def swap_finish(collection: Collection, dsn: Dsn = None) -> None:
    """Drop the previous generation. There is no way back."""
    with connected(dsn) as client:
        client.swap_finish(collection)
    typer.echo(f"the swap of {collection} is finished")


@swap_app.command("cancel")
def swap_cancel(collection: Collection, dsn: Dsn = None) -> None:
    """Give a swap up, and drop what it embedded."""
    with connected(dsn) as client:
        client.swap_cancel(collection)
    typer.echo(f"the swap of {collection} is cancelled")
