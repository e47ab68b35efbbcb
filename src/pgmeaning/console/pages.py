"""Templates and answers: every value is escaped by the templates, which have no other way to write one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from pgmeaning import json_values
from pgmeaning.errors import ArgumentError, CollectionError, DatabaseError, PgmeaningError, SchemaOutdated
from pgmeaning.version import __version__

MOST_BYTES = 16 * 1024 * 1024  # of a request: a picture, in base64
AWAY = 503

View = Callable[[Request], Awaitable[Response]]


def plainly(error: PgmeaningError) -> dict[str, str | None]:
    """An error in its parts."""
    return {"message": str(error.args[0]), "detail": error.detail, "hint": error.hint}


def number(value: float | None) -> str:
    """With thousands apart; None is a dash."""
    return "–" if value is None else f"{value:,.0f}"


def duration(milliseconds: float) -> str:
    """For people."""
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:,.0f} ms"


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("pgmeaning.console"), autoescape=True, undefined=jinja2.StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
ENVIRONMENT.filters |= {"plainly": plainly, "number": number, "duration": duration}
ENVIRONMENT.globals |= {"version": __version__}


def static_folder() -> str:
    """Where scripts and styles are."""
    return str(files("pgmeaning.console") / "static")


def page(name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A template, filled in."""
    return HTMLResponse(ENVIRONMENT.get_template(name).render(**values), status)


def problem(error: PgmeaningError) -> HTMLResponse:
    """What is wrong, as a part of a page; its status says whether to try again."""
    is_away = isinstance(error, DatabaseError) and not isinstance(error, SchemaOutdated) and error.sqlstate is None
    status = AWAY if is_away else 404 if isinstance(error, CollectionError) else 400
    return page("problem.html", status=status, problem=error)


def view(answer: Callable[[Request, bytes], Response]) -> View:
    """A view of a function that may wait for the database: it runs on a thread, and its errors become answers."""

    def _answered(request: Request, body: bytes) -> Response:
        try:
            return answer(request, body)
        except PgmeaningError as error:
            return problem(error)
        except (ValueError, OverflowError, RecursionError, OSError) as error:  # NUL, half a character, 1e999 rows
            return problem(ArgumentError(f"this cannot be asked: {error}"))

    async def _view(request: Request) -> Response:
        try:
            body = await _body(request)
        except PgmeaningError as error:
            return problem(error)
        return await run_in_threadpool(_answered, request, body)

    return _view


def json_object(body: bytes) -> dict[str, Any]:
    """What a script sent; raises ArgumentError."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ArgumentError("not a JSON object")
    return given


def key_of(text: str) -> str:
    """A key as JSON, with all digits of its numbers; raises ArgumentError."""
    try:
        return json_values.dumps(json_values.loads(text))
    except (ValueError, RecursionError):
        raise ArgumentError(f"{text[:200]!r} is no key", hint='a key is JSON, such as {"id": 5}') from None


async def _body(request: Request) -> bytes:
    """All of it, unless it is too long: that is known before it is kept."""
    kept = bytearray()
    async for piece in request.stream():
        kept += piece
        if len(kept) > MOST_BYTES:
            raise ArgumentError(f"more than {MOST_BYTES:,} bytes", hint="drop a smaller picture")
    return bytes(kept)
