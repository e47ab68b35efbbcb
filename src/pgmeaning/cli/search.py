"""The command search: the query, and the rows found, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pgmeaning.cli.output import AsJson, Collection, Dsn, connected, print_json, print_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgmeaning.types import Hit

OWN = ("score", "distance")


def search(
    collection: Collection,
    query: Annotated[
        str | None, typer.Argument(metavar="[QUERY]", help="Text to search for.", show_default=False)
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", metavar="FILE", help="Image to search for; may be repeated.")
    ] = None,
    video: Annotated[str | None, typer.Option("--video", metavar="FILE", help="Video to search for.")] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Number of rows to return.")] = 10,
    rerank: Annotated[
        int | None,
        typer.Option("--rerank", metavar="N", min=1, help="Find N rows, and let a reranker choose the best k."),
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option("--reranker", metavar="MODEL", help="Reranker to use; default: the database's default reranker."),
    ] = None,
    filter: Annotated[
        str | None, typer.Option("--filter", metavar="CONDITION", help="SQL condition on the table's columns.")
    ] = None,
    mode: Annotated[
        Literal["exact", "signature", "index", "hybrid"] | None,
        typer.Option("--mode", help="Default: by the index there is; hybrid also matches words."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Seconds to wait for the sidecar.")
    ] = 10,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Find the rows nearest in meaning, best first.

    Search for a text, images or a video, or a text with them; a text alone needs a running sidecar.

    The table shows score and distance, then the row; columns of the row with these names are shown as row.score and
    row.distance. With --json the row's columns are below "row".
    """
    if query is None and not image and video is None:
        raise typer.BadParameter("give a QUERY, --image or --video")
    with connected(dsn) as client:
        hits = client.search(
            collection, query, k, image=image or None, video=video, rerank=rerank, reranker=reranker, filter=filter,
            mode=mode, timeout=timeout,
        )  # fmt: skip
    if as_json:
        print_json([_as_document(hit) for hit in hits])
    else:
        _print_table(hits)


def _print_table(hits: Sequence[Hit]) -> None:
    flat = [_flat(hit) for hit in hits]
    columns = list(flat[0]) if flat else []
    keys = [_column(name) for name in hits[0].key] if hits else []
    own = [name for name in columns if name not in OWN]
    print_rows(flat, columns, as_json=False, nothing="nothing found", keys=keys, exact=own)


def _as_document(hit: Hit) -> dict[str, Any]:
    """The row is below a name of its own, so that no column of the user's hides the search's."""
    names = ("key", "distance", "score", "vector_rank", "text_rank", "chunk", "chunk_text", "model", "row")
    return {name: getattr(hit, name) for name in names}


def _flat(hit: Hit) -> dict[str, Any]:
    """For a table: the search's own columns, then the row's. Keys are shown whole, so that they can be copied."""
    row = {_column(name): value if name in hit.key else _shortened(value) for name, value in hit.row.items()}
    return {"score": hit.score, "distance": hit.distance} | row


def _column(name: str) -> str:
    """The row's columns give way where a name is the same."""
    return f"row.{name}" if name in OWN else name


def _shortened(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return f"{len(value)} bytes"
    return value[:199] + "…" if isinstance(value, str) and len(value) > 200 else value
