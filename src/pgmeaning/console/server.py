"""Serves the page on this machine alone, at a free port, to whoever has the address with its token."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import uvicorn

from pgmeaning.client.connecting import connect
from pgmeaning.console.app import application
from pgmeaning.console.connections import Connections
from pgmeaning.console.guard import Guard
from pgmeaning.console.judgements import Judgements
from pgmeaning.errors import SettingsError

HOST = "127.0.0.1"
JUDGEMENTS = Path("judgements")


def serve(
    dsn: str = "", *, port: int = 0, write: bool = False, judgements: Path = JUDGEMENTS,
    opened: Callable[[str], object] | None = None,
) -> None:  # fmt: skip
    """Serve the page until SIGINT or SIGTERM. `opened` is told its address, with the token, once it answers.

    `port` 0: a free one. `write`: the page may change things, such as trying failed rows again. Raises DatabaseError if
    there is no such database, SchemaOutdated, SettingsError for a port that is taken.
    """
    with _page(dsn, port, judgements, write=write) as (address, page, server):
        if opened is not None:
            opened(address)  # the socket listens: a browser that is early waits
        server.run(sockets=[page])


@contextmanager
def serving(dsn: str = "", *, port: int = 0, write: bool = False, judgements: Path = JUDGEMENTS) -> Iterator[str]:
    """The same on a thread, for as long as the body runs; gives the page's address."""
    with _page(dsn, port, judgements, write=write) as (address, page, server):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [page]}, name="pgmeaning ui")
        thread.start()
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _page(dsn: str, port: int, judgements: Path, *, write: bool) -> Iterator[tuple[str, socket.socket, uvicorn.Server]]:
    """The address to open, a socket that listens, and the server for it."""
    connect(dsn).close()  # what is wrong is said at once, and not on the page
    token = secrets.token_urlsafe(32)
    with _listening(port) as page, closing(Connections(dsn)) as connections:
        number = page.getsockname()[1]
        app = Guard(application(connections, Judgements(judgements), write=write), token, number)
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, ws="none", server_header=False,
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        yield f"http://{HOST}:{number}/?token={token}", page, uvicorn.Server(config)


def _listening(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise SettingsError(f"port {port} cannot be used: {error.strerror}", hint="leave --port out") from error
