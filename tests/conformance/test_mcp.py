"""The Model Context Protocol's own checker, where there is one: `make test` installs nothing of npm's.

    npm install @modelcontextprotocol/conformance@0.2.0-alpha.12    (it needs Node 22)
    PGMEANING_MCP_CONFORMANCE="node node_modules/.../conformance/dist/index.js" pytest tests/conformance

Scenarios that want tools, prompts or resources of its own example server are left out.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from psycopg.conninfo import make_conninfo

from pgmeaning.integrations.mcp import Database, application
from pgmeaning.integrations.mcp.http import listening
from tests.conftest import wait_until

CHECKER = os.environ.get("PGMEANING_MCP_CONFORMANCE", "")
TOKEN = "of-the-checker-and-long-enough"
SCENARIOS = [
    *(("2025-11-25", name) for name in ("server-initialize", "ping", "tools-list", "dns-rebinding-protection")),
    *(("2026-07-28", name) for name in ("tools-list", "dns-rebinding-protection", "http-header-validation")),
    ("2026-07-28", "sep-2164-resource-not-found"),
]

pytestmark = pytest.mark.skipif(not CHECKER, reason="PGMEANING_MCP_CONFORMANCE does not name the protocol's checker")


@pytest.fixture(scope="module")
def url(server_dsn: str, template: str) -> Iterator[str]:
    """A server's address. The checker cannot send a token, so it is put into its requests here."""
    database = Database(make_conninfo(server_dsn, dbname=template))
    served = application(database, TOKEN)

    async def with_token(scope: Any, receive: Any, send: Any) -> None:
        headers = [*scope.get("headers", ()), (b"authorization", f"Bearer {TOKEN}".encode())]
        await served({**scope, "headers": headers}, receive, send)

    server = uvicorn.Server(uvicorn.Config(with_token, log_level="warning"))
    with listening("127.0.0.1", 0) as opened:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
        thread.start()
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{opened.getsockname()[1]}/mcp"
        server.should_exit = True
        thread.join(30)
        database.close()  # the template is dropped after this


@pytest.mark.parametrize(("revision", "scenario"), SCENARIOS)
def test_the_protocols_checker_is_satisfied(url: str, revision: str, scenario: str) -> None:
    options = ["server", "--url", url, "--spec-version", revision, "--scenario", scenario]
    done = subprocess.run([*shlex.split(CHECKER), *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
