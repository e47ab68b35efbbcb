"""The playground's page and its parts: a column, a document, a picture."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pgmeaning.client.client import Client
from pgmeaning.client.rows import loading
from pgmeaning.console.asked import KINDS, Asked, asked
from pgmeaning.console.connections import Connections
from pgmeaning.console.judgements import Judgements, same_key
from pgmeaning.console.marking import in_document
from pgmeaning.console.pages import json_object, key_of, page
from pgmeaning.console.playground import Column, column, short
from pgmeaning.console.thumbnails import thumbnail
from pgmeaning.errors import ArgumentError, CollectionError

TITLES = {
    "vectors": ("Vectors", "nearest in meaning"),
    "words": ("Words", "that contain words of the query"),
    "hybrid": ("Hybrid", "both, fused by rank"),
    "reranked": ("Reranked", "a second model judges the nearest"),
}


class PlaygroundViews:
    """What the browser asks for while it searches."""

    def __init__(self, connections: Connections, judgements: Judgements) -> None:
        self._connections = connections
        self._judgements = judgements

    def show(self, request: Request, _body: bytes) -> Response:
        """The page, with the collections to choose from."""
        with self._connections.reading() as client:
            collections = known(client)
        chosen = request.query_params.get("collection", "")
        first = next((c for c in collections if c["name"] == chosen), collections[0] if collections else None)
        return page("playground.html", collections=collections, chosen=first, titles=TITLES, here="playground")

    def column(self, _request: Request, body: bytes) -> Response:
        """One kind of search."""
        given = json_object(body)
        wanted = asked(given)
        kind = given.get("kind")
        if kind not in KINDS:
            raise ArgumentError(f"there is no search of kind {kind!r}", hint=", ".join(KINDS))
        made = column(self._connections, kind, wanted)
        return page(
            "column.html", column=made, wanted=wanted, title=TITLES[kind][0], image=self._image(wanted),
            grades=self._grades(wanted, made),
        )  # fmt: skip

    def document(self, _request: Request, body: bytes) -> Response:
        """A row, whole, with the chunk that was found marked in it."""
        given = json_object(body)
        collection, key, chunk = (str(given.get(name) or "") for name in ("collection", "key", "chunk"))
        with self._connections.reading() as client:
            arguments = {"collection": collection, "key": key_of(key), "columns": None}
            cursor = client._statements.execute("console/row", arguments)
            found = cursor.fetchone()
            if found is None:
                raise CollectionError("the row is gone", hint="search again")
            names, types, contents, text = found
            load = loading(cursor)
            row = {
                name: short(load(type, value), 2000) for name, type, value in zip(names, types, contents, strict=True)
            }
        pieces = in_document(text or "", chunk) if text is not None else []
        return page("document.html", row=row, pieces=pieces, key=key)

    def image(self, request: Request, _body: bytes) -> Response:
        """A row's picture, small."""
        told = request.query_params
        made = thumbnail(self._connections, told.get("collection", ""), key_of(told.get("key", "")))
        return Response(made, media_type="image/jpeg")

    def _grades(self, wanted: Asked, made: Column) -> list[int | None] | None:
        """Of each row that was found; None where there is no text, which a judged query must have."""
        if wanted.image is not None or not wanted.query:
            return None
        judged = self._judgements.of(wanted.collection, wanted.query)
        return [judged.get(same_key(one.hit.key)) for one in made.found]

    def _image(self, wanted: Asked) -> str | None:
        """The column of images of the collection."""
        with self._connections.reading() as client:
            return next((c["image"] for c in known(client) if c["name"] == wanted.collection), None)


def known(client: Client) -> list[dict[str, Any]]:
    """The collections that a person may choose from."""
    return client._statements.dicts("console/collections", {})
