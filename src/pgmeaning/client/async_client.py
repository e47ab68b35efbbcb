"""The client for asyncio: each call runs in a thread of the client's own, so the event loop goes on meanwhile.

There is no second implementation: a name below is the method of Client of that name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from pgmeaning.client.client import Client
from pgmeaning.client.connecting import connect
from pgmeaning.client.links import Shared

if TYPE_CHECKING:
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncEngine

    from pgmeaning.client.links import Pool

P = ParamSpec("P")
T = TypeVar("T")
END = object()


class Awaited(Generic[P, T]):
    """A method of Client that is awaited."""

    def __init__(self, method: Callable[Concatenate[Client, P], T]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: AsyncClient, _: type[AsyncClient]) -> Callable[P, Coroutine[Any, Any, T]]:
        def call(*arguments: P.args, **named: P.kwargs) -> Coroutine[Any, Any, T]:
            return owner.run(partial(self._method, owner.client, *arguments, **named))

        return call


class Iterated(Generic[P, T]):
    """A method of Client that gives one thing after another, fetched page by page."""

    def __init__(self, method: Callable[Concatenate[Client, P], Iterator[T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: AsyncClient, _: type[AsyncClient]) -> Callable[P, AsyncIterator[T]]:
        async def call(*arguments: P.args, **named: P.kwargs) -> AsyncIterator[T]:
            found = await owner.run(lambda: self._method(owner.client, *arguments, **named))
            while (each := await owner.run(partial(next, found, END))) is not END:
                yield each

        return call


class AsyncClient:
    """A Client whose methods are awaited. Tasks may share it: over one connection they take turns.

    A task that is cancelled leaves its statement running, until its own timeout.
    """

    def __init__(self, client: Client, threads: int) -> None:
        self.client = client
        self._threads = ThreadPoolExecutor(threads, "pgmeaning client")

    async def run(self, work: Callable[[], T]) -> T:
        """Run something in a thread of the client's: a function that makes several calls of `client`, say."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """Close the client's own connection."""
        await self.run(self.client.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    attach = Awaited(Client.attach)
    detach = Awaited(Client.detach)
    pause = Awaited(Client.pause)
    resume = Awaited(Client.resume)
    refresh = Awaited(Client.refresh)
    retry = Awaited(Client.retry)
    rename_collection = Awaited(Client.rename_collection)
    wait_for = Awaited(Client.wait_for)
    status = Awaited(Client.status)
    lags = Awaited(Client.lags)
    failures = Awaited(Client.failures)
    sidecars = Awaited(Client.sidecars)
    models = Awaited(Client.models)
    releases = Awaited(Client.releases)
    plan_index = Awaited(Client.plan_index)
    want_index = Awaited(Client.want_index)
    index_report = Awaited(Client.index_report)
    add_model = Awaited(Client.add_model)
    model = Awaited(Client.model)
    set_default_model = Awaited(Client.set_default_model)
    deprecate_model = Awaited(Client.deprecate_model)
    retire_model = Awaited(Client.retire_model)
    support_model = Awaited(Client.support_model)
    use_release = Awaited(Client.use_release)
    create_release = Awaited(Client.create_release)
    export_release = Awaited(Client.export_release)
    check_release = Awaited(Client.check_release)
    compare_release = Awaited(Client.compare_release)
    import_release = Awaited(Client.import_release)
    sign_release = Awaited(Client.sign_release)
    allow_model = Awaited(Client.allow_model)
    set_model_options = Awaited(Client.set_model_options)
    embed = Awaited(Client.embed)
    similarity = Awaited(Client.similarity)
    prepare = Awaited(Client.prepare)
    search = Awaited(Client.search)
    search_many = Awaited(Client.search_many)
    nearest = Awaited(Client.nearest)
    similar = Awaited(Client.similar)
    evaluate = Awaited(Client.evaluate)
    evaluations = Awaited(Client.evaluations)
    doctor = Awaited(Client.doctor)
    matches = Iterated(Client.matches)
    duplicates = Awaited(Client.duplicates)
    clusters = Awaited(Client.clusters)
    classify = Iterated(Client.classify)
    explain_swap = Awaited(Client.explain_swap)
    swap_start = Awaited(Client.swap_start)
    swap_adjust = Awaited(Client.swap_adjust)
    swap_activate = Awaited(Client.swap_activate)
    swap_rollback = Awaited(Client.swap_rollback)
    swap_finish = Awaited(Client.swap_finish)
    swap_cancel = Awaited(Client.swap_cancel)
    swaps = Awaited(Client.swaps)
    export_vectors = Awaited(Client.export_vectors)
    import_vectors = Awaited(Client.import_vectors)
    upsert_rows = Awaited(Client.upsert_rows)
    get_rows = Awaited(Client.get_rows)
    embedded_texts = Awaited(Client.embedded_texts)
    find_keys = Awaited(Client.find_keys)
    count_rows = Awaited(Client.count_rows)
    distinct_values = Awaited(Client.distinct_values)
    delete_rows = Awaited(Client.delete_rows)
    merge_rows = Awaited(Client.merge_rows)
    wait_for_rows = Awaited(Client.wait_for_rows)
    embed_many = Awaited(Client.embed_many)
    stored_vectors = Awaited(Client.stored_vectors)
    embed_rows = Awaited(Client.embed_rows)
    diverse = Awaited(Client.diverse)


async def connect_async(
    target: str | sqlalchemy.URL | Pool | sqlalchemy.Engine | AsyncEngine | None = None, *, threads: int = 4,
    connect_timeout: float = 10, reconnect_timeout: float = 5, statement_timeout: float | None = None,
) -> AsyncClient:  # fmt: skip
    """A client whose methods are awaited: the client that `connect` gives, in threads of its own.

    With a pool or an engine up to `threads` calls run at once; of an AsyncEngine the URL is taken, since the client's
    own connection is psycopg's, and tasks take turns. Raises as `connect` does.
    """
    opening = partial(
        connect, target, connect_timeout=connect_timeout, reconnect_timeout=reconnect_timeout,
        statement_timeout=statement_timeout,
    )  # fmt: skip
    client = await asyncio.get_running_loop().run_in_executor(None, opening)
    return AsyncClient(client, threads if isinstance(client._link, Shared) else 1)
