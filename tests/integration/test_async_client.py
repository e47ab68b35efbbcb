"""The client for asyncio: the same methods, awaited, in threads."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from psycopg_pool import ConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine

import pgmeaning
from pgmeaning import AsyncClient, Client
from pgmeaning.errors import CollectionError, ConnectionFailed
from tests.integration.docs import Docs
from tests.integration.test_connecting import url
from tests.types import Connection

DOCS = Docs(
    columns="id int PRIMARY KEY, body text",
    rows="SELECT i, 'body ' || i FROM generate_series(1, 9) AS i",
    attach="columns => '{body}'",
    embedded=True,
    cached={"seven": "body 7"},
)
# Not a question to the database, or of no use across threads.
OTHERWISE = {"close", "transaction"}


def test_every_method_of_the_client_can_be_awaited() -> None:
    methods = {name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")}
    assert {name for name in vars(AsyncClient) if not name.startswith("_")} - {"run", "close"} == methods - OTHERWISE
    assert all(vars(AsyncClient)[name].__doc__ == getattr(Client, name).__doc__ for name in methods - OTHERWISE)


def test_tasks_share_a_client(docs: Connection, dsn: str) -> None:
    async def _run() -> list[int]:
        async with await pgmeaning.connect_async(dsn) as client:
            answers = await asyncio.gather(*(client.search("docs", "seven", k=1) for _ in range(5)))
            with pytest.raises(CollectionError):
                await client.pause("nope")
            return [hit.key["id"] for [hit] in answers]

    assert asyncio.run(_run()) == [7] * 5


def test_what_comes_page_by_page_is_iterated(docs: Connection, dsn: str) -> None:
    async def _run() -> int:
        async with await pgmeaning.connect_async(dsn) as client:
            return len([match.score async for match in client.matches("docs", "docs", 1)])

    assert asyncio.run(_run()) == 9


def test_several_calls_may_be_one_transaction(docs: Connection, dsn: str) -> None:
    def both(client: Client) -> None:
        with client.transaction():
            client.pause("docs")
            client.detach("nope")

    async def _run() -> object:
        async with await pgmeaning.connect_async(dsn) as client:
            with pytest.raises(CollectionError):
                await client.run(lambda: both(client.client))
            return (await client.status("docs"))[0]["state"]

    assert asyncio.run(_run()) == "ready"


def test_a_pool_and_an_async_engine_are_taken_too(docs: Connection, dsn: str) -> None:
    async def _run() -> int:
        with ConnectionPool(dsn, min_size=1, open=True) as pool:
            found = 0
            for target in (pool, create_async_engine(url(dsn, "asyncpg"))):
                async with await pgmeaning.connect_async(target) as client:
                    found += len(await client.search("docs", "seven", k=2))
            return found

    assert asyncio.run(_run()) == 4


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(ConnectionFailed):
        asyncio.run(pgmeaning.connect_async("host=127.0.0.1 port=1"))
