"""The map's page, its points, and what is asked of them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pgmeaning.console.connections import Connections
from pgmeaning.console.mapping import Chart, Charts, colours, in_common, values_of
from pgmeaning.console.pages import json_object, page
from pgmeaning.console.projection import NAMES, methods
from pgmeaning.errors import ArgumentError, CollectionError


class MapViews:
    """Points are named by their place in the map, which is made once."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._charts = Charts(connections)

    def show(self, request: Request, _body: bytes) -> Response:
        """The page, with the collections to choose from."""
        with self._connections.reading() as client:
            collections = client._statements.dicts("console/collections", {})
        chosen = {name: request.query_params.get(name, "") for name in ("collection", "method")}
        named = {name: NAMES[name] for name in methods()}
        return page("map.html", here="map", collections=collections, chosen=chosen, methods=named)

    def points(self, _request: Request, body: bytes) -> Response:
        """All points, once they are there; until then, how far it is."""
        given = json_object(body)
        chart = self._chart(given, anew=bool(given.get("anew")))
        if chart.step is not None:
            return JSONResponse({"step": chart.step})
        places = (chart.places * 65535).astype(int)
        sizes = [chart.clusters.count(number) for number in range(max(chart.clusters, default=-1) + 1)]
        groups = [{"size": size, "words": chart.words.get(number, [])} for number, size in enumerate(sizes)]
        return JSONResponse({
            "x": places[:, 0].tolist(), "y": places[:, 1].tolist(), "clusters": chart.clusters, "groups": groups,
            "total": chart.total, "columns": self._columns(given),
        })  # fmt: skip

    def colours(self, _request: Request, body: bytes) -> Response:
        """Each point's colour by a column."""
        given = json_object(body)
        chart, column = self._ready(given), str(given.get("column") or "")
        with self._connections.reading() as client:
            arguments = {"collection": given.get("collection"), "keys": chart.keys, "columns": [column]}
            found = dict(client._statements.execute("console/values", arguments).fetchall())
        labels, at = colours([(found.get(place) or [None])[0] for place in range(1, len(chart.keys) + 1)])
        return JSONResponse({"labels": labels, "of": at})

    def row(self, _request: Request, body: bytes) -> Response:
        """The row of a point."""
        given = json_object(body)
        chart, place, columns = self._ready(given), given.get("place"), self._columns(given)
        if not isinstance(place, int) or not 0 <= place < len(chart.keys):
            raise ArgumentError(f"there is no point {place!r}")
        with self._connections.reading() as client:
            statements = client._statements
            rows = values_of(statements, str(given["collection"]), [chart.keys[place]], columns)
        if not rows:
            raise CollectionError("the row is gone", hint="make the map anew")
        shown = {name: value[:300] for name, value in zip(columns, rows[0], strict=True) if value is not None}
        return page("point.html", row=shown)

    def common(self, _request: Request, body: bytes) -> Response:
        """What the points that were chosen have in common."""
        given = json_object(body)
        chart, places = self._ready(given), given.get("places")
        if not isinstance(places, list) or not all(isinstance(place, int) for place in places):
            raise ArgumentError("places are whole numbers")
        with self._connections.reading() as client:
            found = in_common(client, str(given["collection"]), chart, places, self._columns(given))
        return page("common.html", count=len(places), words=found[0], values=found[1])

    def _chart(self, given: dict[str, Any], *, anew: bool = False) -> Chart:
        return self._charts.chart(str(given.get("collection") or ""), str(given.get("method") or ""), anew=anew)

    def _ready(self, given: dict[str, Any]) -> Chart:
        chart = self._chart(given)
        if chart.step is not None:
            raise ArgumentError("the map is not ready yet", hint="wait a moment")
        return chart

    def _columns(self, given: dict[str, Any]) -> list[str]:
        """The columns of the collection's table."""
        with self._connections.reading() as client:
            known = client._statements.dicts("console/collections", {})
        return next((one["columns"] or [] for one in known if one["name"] == given.get("collection")), [])
