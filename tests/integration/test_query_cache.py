"""The cache of query vectors: equal queries are computed once, and what is kept has a bound and an age."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.test_embed import count, embed
from tests.probes import are_probes
from tests.types import Connect, Connection


class Counting(SyntheticEmbedder):
    """An embedder that records the texts of each call, and holds up those with 'hold' in one until it is let go."""

    def __init__(self) -> None:
        super().__init__(384)
        self.calls: list[list[str]] = []
        self.holding = threading.Event()
        self.let_go = threading.Event()
        self.error: Exception | None = None

    def embed_queries(self, queries: Any) -> Any:
        if are_probes(queries):
            return super().embed_queries(queries)
        texts = [query.text for query in queries]
        self.calls.append(texts)
        if any("hold" in text for text in texts):
            self.holding.set()
            assert self.let_go.wait(30)
        if self.error:
            raise self.error
        return super().embed_queries(queries)


@pytest.fixture
def model(dsn: str) -> Iterator[Counting]:
    """A running sidecar's model."""
    model = Counting()
    with running(Sidecar(dsn, Settings(), load=lambda _: model)):
        try:
            yield model
        finally:
            model.let_go.set()


@pytest.fixture
def ask(connect: Connect) -> Iterator[Callable[..., Future[Any]]]:
    """Ask for a text in a session of its own: ask(text) or ask(text, connection)."""
    with ThreadPoolExecutor(16) as pool:

        def _ask(text: str, connection: Connection | None = None, **named: object) -> Future[Any]:
            return pool.submit(embed, connection or connect(), text, **{"timeout": "30 seconds", **named})

        yield _ask


Ask = Callable[..., Future[Any]]


def answers(asked: Sequence[Future[Any]]) -> set[Any]:
    return {future.result(30) for future in asked}


def waiting(db: Connection, number: int) -> None:
    wait_until(lambda: count(db, "pgmeaning.request") == number)


# Once


def test_sessions_that_ask_for_what_is_being_computed_get_that_vector(
    db: Connection, model: Counting, ask: Ask
) -> None:
    first = ask("hold on")
    assert model.holding.wait(10)
    others = [ask("hold on") for _ in range(7)]
    waiting(db, 8)
    model.let_go.set()
    assert len(answers([first, *others])) == 1
    assert model.calls == [["hold on"]]


def test_equal_queries_that_wait_together_are_one_text_for_the_model(db: Connection, model: Counting, ask: Ask) -> None:
    first = ask("hold on")
    assert model.holding.wait(10)
    equal, other = [ask("the same") for _ in range(6)], ask("another")
    waiting(db, 8)
    model.let_go.set()
    assert len(answers([first, other, *equal])) == 3
    assert [sorted(call) for call in model.calls] == [["hold on"], ["another", "the same"]]


def test_what_differs_in_model_or_kind_is_computed_apart(db: Connection, model: Counting, ask: Ask) -> None:
    first = ask("hold on")
    assert model.holding.wait(10)
    asked = [ask("x"), ask("x"), ask("x", as_query=False), ask("X")]
    waiting(db, 5)
    model.let_go.set()
    answers([first, *asked])
    assert count(db, "pgmeaning.query_cache") == 4


def test_another_sidecar_leaves_what_one_computes_and_answers_the_rest(
    db: Connection, dsn: str, model: Counting, ask: Ask
) -> None:
    first = ask("hold on")
    assert model.holding.wait(10)
    second = Counting()
    with running(Sidecar(dsn, Settings(), load=lambda _: second)):
        others = [ask("hold on") for _ in range(4)]
        waiting(db, 5)
        assert ask("something else").result(10) is not None
        model.let_go.set()
        assert len(answers([first, *others])) == 1
    assert (model.calls, second.calls) == ([["hold on"]], [["something else"]])


def test_many_sessions_and_two_sidecars_compute_each_text_once_or_rarely_twice(
    dsn: str, connect: Connect, model: Counting, ask: Ask
) -> None:
    second = Counting()
    connections = [connect() for _ in range(12)]
    with running(Sidecar(dsn, Settings(), load=lambda _: second)):
        for number in range(15):
            assert len(answers([ask(f"question {number}", connection) for connection in connections])) == 1
    wanted = sorted(f"question {number}" for number in range(15))
    # Two sidecars that look at the same instant may both take one: no lock keeps them apart that any role could take.
    assert sorted({text for call in model.calls + second.calls for text in call}) == wanted
    for each in (model, second):
        texts = [text for call in each.calls for text in call]
        assert len(texts) == len(set(texts))


# Whoever goes, the others get theirs


def cancel(db: Connection, asking: Connection) -> None:
    asking.cancel_safe()


def terminate(db: Connection, asking: Connection) -> None:
    db.execute("SELECT pg_terminate_backend(%s)", (asking.info.backend_pid,))


@pytest.mark.parametrize("how", [cancel, terminate])
def test_when_the_first_asker_goes_the_others_still_get_theirs(
    db: Connection, connect: Connect, model: Counting, ask: Ask, how: Callable[[Connection, Connection], None]
) -> None:
    going = connect()
    first = ask("hold on", going)
    assert model.holding.wait(10)
    others = [ask("hold on") for _ in range(3)]
    waiting(db, 4)
    how(db, going)
    with pytest.raises(psycopg.OperationalError):  # cancelled, or cut off
        first.result(10)
    model.let_go.set()
    assert len(answers(others)) == 1
    assert model.calls == [["hold on"]]


def test_when_time_is_up_for_the_first_asker_the_others_still_get_theirs(
    db: Connection, model: Counting, ask: Ask
) -> None:
    first = ask("hold on", timeout="0.2 seconds")
    assert model.holding.wait(10)
    others = [ask("hold on") for _ in range(3)]
    with pytest.raises(psycopg.Error, match="no sidecar answered"):
        first.result(10)
    waiting(db, 3)
    model.let_go.set()
    assert len(answers(others)) == 1
    assert model.calls == [["hold on"]]


def test_who_asks_again_after_a_time_out_finds_what_was_computed_meanwhile(
    db: Connection, model: Counting, ask: Ask
) -> None:
    with pytest.raises(psycopg.Error, match="no sidecar answered"):
        ask("hold on", timeout="0.2 seconds").result(10)
    model.let_go.set()
    assert ask("hold on").result(10) is not None
    assert model.calls == [["hold on"]]


def test_when_the_sidecar_dies_another_computes_it_once_for_all(
    db: Connection, dsn: str, model: Counting, ask: Ask
) -> None:
    asked = [ask("hold on") for _ in range(4)]
    assert model.holding.wait(10)
    waiting(db, 4)
    second = Counting()
    second.let_go.set()
    with running(Sidecar(dsn, Settings(), load=lambda _: second)):
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT claimed_pid FROM pgmeaning.request) AS r (pid)"
        )
        assert len(answers(asked)) == 1
        model.let_go.set()
    assert second.calls == [["hold on"]]


def test_an_error_of_the_model_reaches_all_that_asked(db: Connection, model: Counting, ask: Ask) -> None:
    model.error = ValueError("too odd")
    first = ask("hold on")
    assert model.holding.wait(10)
    others = [ask("odd") for _ in range(3)]
    waiting(db, 4)
    model.let_go.set()
    for asked in (first, *others):
        with pytest.raises(psycopg.Error, match="could not embed the query") as caught:
            asked.result(10)
        assert "too odd" in str(caught.value.diag.message_detail)
    assert model.calls == [["hold on"], ["odd"]]
    model.error = None
    assert ask("odd").result(10) is not None, "an error is not kept"


# Bound and age


def test_the_cache_stays_near_its_bound_and_keeps_the_newest(db: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(cache_rows=20))):
        for number in range(60):
            embed(db, f"question {number}")
            assert count(db, "pgmeaning.query_cache") <= 23
    with running(Sidecar(dsn, Settings(cache_rows=20), load=lambda _: never())):
        assert embed(db, "question 59") is not None


def never() -> Any:
    raise AssertionError("it is in the cache")


def test_a_vector_older_than_its_age_goes(db: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(cache_seconds=0.1, maintenance=0.05))):
        assert embed(db, "soon gone") is not None
        wait_until(lambda: count(db, "pgmeaning.query_cache") == 0)
        assert embed(db, "soon gone") is not None


def test_the_age_is_the_settings(db: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings())):
        embed(db, "gone")
        db.execute("UPDATE pgmeaning.query_cache SET created_at = now() - interval '2 hours'")
        embed(db, "kept")
    with running(Sidecar(dsn, Settings(cache_seconds=3600))):
        wait_until(lambda: count(db, "pgmeaning.query_cache") == 1)


def test_without_a_cache_all_that_wait_still_get_their_vectors(dsn: str, connect: Connect, ask: Ask) -> None:
    model = Counting()
    connections = [connect() for _ in range(8)]
    with running(Sidecar(dsn, Settings(cache_rows=0, cache_seconds=0.001, maintenance=0.01), load=lambda _: model)):
        for _ in range(5):
            asked = [ask(f"question {number % 4}", connection) for number, connection in enumerate(connections)]
            assert len(answers(asked)) == 4
        wait_until(lambda: count(connections[0], "pgmeaning.query_cache") == 0)
