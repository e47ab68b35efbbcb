"""Thumbs up and down, and the file that they go to."""

from __future__ import annotations

import shlex

from starlette.requests import Request
from starlette.responses import Response

from pgmeaning import json_values
from pgmeaning.console.judgements import Judgements
from pgmeaning.console.pages import json_object, key_of, page
from pgmeaning.errors import ArgumentError, SettingsError

GRADES = {"up": 1, "down": 0, "": None}


class JudgementViews:
    """Over the files of one folder."""

    def __init__(self, judgements: Judgements) -> None:
        self._judgements = judgements

    def judge(self, _request: Request, body: bytes) -> Response:
        """Keep one judgement, or take it back; says how many there are."""
        given = json_object(body)
        collection, query, key = (str(given.get(name) or "") for name in ("collection", "query", "key"))
        if not query.strip() or given.get("grade") not in GRADES:
            raise ArgumentError("a judgement is of a query and a row", hint="up, down, or nothing")
        try:
            self._judgements.judge(collection, query.strip(), json_values.loads(key_of(key)), GRADES[given["grade"]])
        except OSError as error:
            file = self._judgements.file(collection)
            raise SettingsError(f"{file} cannot be written: {error.strerror}", hint="--judgements FOLDER") from error
        return self._told(collection)

    def told(self, request: Request, _body: bytes) -> Response:
        """How many there are, and what to do with them."""
        return self._told(request.query_params.get("collection", ""))

    def export(self, request: Request, _body: bytes) -> Response:
        """The file."""
        file = self._judgements.file(request.query_params.get("collection", ""))
        content = file.read_bytes() if file.exists() else b""
        headers = {"Content-Disposition": "attachment; filename=judgements.jsonl"}
        return Response(content, media_type="application/x-ndjson", headers=headers)

    def _told(self, collection: str) -> Response:
        file = self._judgements.file(collection).absolute()
        command = f"pgmeaning evaluate {shlex.quote(collection)} --queries {shlex.quote(str(file))}"
        return page("judged.html", collection=collection, count=self._judgements.count(collection), command=command)
