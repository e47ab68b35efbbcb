"""Who may talk to the page: its owner's browser alone, by a cookie that the address with the token was exchanged for.

Other programs on the machine do not know the token; pages of other sites do not get the cookie (SameSite=Strict), and
a name of theirs that leads here (DNS rebinding) is no name of ours.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STRANGER = """<!doctype html><html lang="en"><title>pgmeaning</title><p>This page is its owner's.
Open the whole address that <code>pgmeaning ui</code> printed, with its token.</p></html>"""


class Guard:
    """Around an application: turns strangers away, and adds the headers that keep a page to itself."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token
        self._cookie = f"pgmeaning_{port}"  # cookies are of a host, whatever the port
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = self._refusal(Request(scope))
        await (refused or self._app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        """What a stranger gets; None: it is none."""
        if _host(request) not in NAMES:
            return HTMLResponse("this name is not the page's", 421)
        if (token := request.query_params.get("token")) is not None:
            return self._exchanged(request, token)
        if not _same(request.cookies.get(self._cookie, ""), self._session):
            return HTMLResponse(STRANGER, 401)
        if request.method not in ("GET", "HEAD") and not _is_own(request):
            return HTMLResponse("another site's page may not do this", 403)
        return None

    def _exchanged(self, request: Request, token: str) -> Response:
        """The cookie for the token, and the address without it."""
        if not _same(token, self._token):
            return HTMLResponse(STRANGER, 401)
        others = "&".join(part for part in request.url.query.split("&") if not part.startswith("token="))
        # Not an address of another host: its path may begin with two slashes.
        answer = RedirectResponse("/" + request.url.path.lstrip("/") + (f"?{others}" if others else ""), 303)
        answer.set_cookie(self._cookie, self._session, httponly=True, samesite="strict", path="/")
        return answer


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


def _is_own(request: Request) -> bool:
    """Whether it comes from the page itself. Browsers say so; another program with the cookie is its owner's."""
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _host(request: Request) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:  # such as "["
        return None
