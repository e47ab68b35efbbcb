"""The server over HTTP: streamable, stateless, on this machine, for who has the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import closing
from socket import AF_INET, AF_INET6, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket
from typing import Any

from mcp.server.transport_security import TransportSecuritySettings

from pgmeaning.errors import SettingsError
from pgmeaning.integrations.mcp.database import Database
from pgmeaning.integrations.mcp.server import build

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

PATH = "/mcp"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16


def application(
    database: Database, token: str, *, only: Sequence[str] | None = None, hosts: Sequence[str] = LOOPBACK
) -> Application:
    """The ASGI application, at /mcp. `hosts`: the names by which it may be called, against DNS rebinding.

    Raises SettingsError for a token that could be guessed.
    """
    if len(token) < SHORTEST_TOKEN:
        raise SettingsError(f"the token has fewer than {SHORTEST_TOKEN} characters", hint="openssl rand -hex 32")
    names = [f"[{host}]:*" if ":" in host else f"{host}:*" for host in hosts]
    security = TransportSecuritySettings(allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names])
    served = build(database, only=only).streamable_http_app(
        streamable_http_path=PATH, json_response=True, stateless_http=True, transport_security=security
    )
    return guarded(served, token)


def guarded(application: Any, token: str) -> Application:
    """Refuses every request without `Authorization: Bearer TOKEN`."""
    expected = f"Bearer {token}".encode()

    async def checked(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        shown = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or hmac.compare_digest(shown, expected):
            await application(scope, receive, send)
            return
        headers = [(b"www-authenticate", b'Bearer realm="pgmeaning"'), (b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        body = b"send the header Authorization: Bearer TOKEN, with the token that the server was started with\n"
        await send({"type": "http.response.body", "body": body})

    return checked


def listening(host: str, port: int) -> socket:
    """A socket that listens; port 0: any free one. Raises OSError if it cannot."""
    opened = socket(AF_INET6 if ":" in host else AF_INET, SOCK_STREAM)
    try:
        opened.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen()
    except OSError as error:
        opened.close()
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror}", hint="--port 0: any") from error
    return opened


def serve_http(
    database: Database, token: str, *, host: str, port: int, only: Sequence[str] | None = None,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Serve until SIGINT or SIGTERM; `say` is told the URL once it is listened at."""
    import uvicorn

    hosts = LOOPBACK if host in LOOPBACK else (*LOOPBACK, host)
    served = application(database, token, only=only, hosts=hosts)
    with closing(listening(host, port)) as opened:
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{opened.getsockname()[1]}{PATH}")
        config = uvicorn.Config(served, log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
        try:
            uvicorn.Server(config).run(sockets=[opened])
        finally:
            database.close()
