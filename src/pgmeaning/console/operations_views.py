"""The page of what is going on, which asks for itself anew; and the one thing that it may change."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pgmeaning.console.connections import Connections
from pgmeaning.console.operations import Rates, look
from pgmeaning.console.pages import json_object, page
from pgmeaning.errors import ArgumentError


class OperationsViews:
    """`write`: whether failed rows may be tried again from here."""

    def __init__(self, connections: Connections, *, write: bool) -> None:
        self._connections = connections
        self._rates = Rates()
        self._write = write

    def show(self, _request: Request, _body: bytes) -> Response:
        """The page, still empty: its script asks for what is going on, and for more once the database is back."""
        return page("operations.html", here="operations", write=self._write)

    def now(self, _request: Request, _body: bytes) -> Response:
        """What is going on."""
        with self._connections.reading() as client:
            found = look(client, self._rates)
        return page("now.html", write=self._write, **found)

    def retry(self, _request: Request, body: bytes) -> Response:
        """Try a collection's failed rows again."""
        if not self._write:
            raise ArgumentError("the page is read-only", hint="start it with: pgmeaning ui --write")
        collection = str(json_object(body).get("collection") or "")
        with self._connections.asking() as client:
            count = client.retry(collection)
        return page("told.html", told=f"{count:,} rows of {collection} are tried again")
