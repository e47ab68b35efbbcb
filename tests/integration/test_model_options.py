"""Options that change no vector are set on a model in use; limits of a model are kept by all sidecars together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

import pgmeaning
from pgmeaning.cli.main import app
from pgmeaning.errors import ModelError, ModelUnavailable
from pgmeaning.models import load_embedder, loaded
from pgmeaning.models.registry import SERVING_OPTIONS
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Model
from tests.conftest import running, wait_until
from tests.engine import Engine, serving
from tests.needs import needs_package
from tests.types import Connection, Drain

needs_package("httpx", "http")

ROWS = 20
WAITING = """
SELECT count(*) FROM pgmeaning.sidecars WHERE problems ->> 'served' LIKE '%30 tokens a day is used%'
"""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with serving(Engine(load_embedder("synthetic-384").embed_documents)) as running:
        yield running


@pytest.fixture
def client(dsn: str, db: Connection, engine: Engine) -> Iterator[pgmeaning.Client]:
    """A table of 20 rows that wants vectors of a model behind an endpoint."""
    with pgmeaning.connect(dsn) as client:
        options = {"url": engine.url, "retries": 1, "batch_rows": 5, "concurrency": 1}
        client.add_model(Model("served", "embedder", "http", location="some/model", dimensions=384, options=options))
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        client.attach("docs", columns=["body"], model="served")
        db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) AS i")
        yield client


def vectors(db: Connection) -> int:
    found = db.execute("SELECT count(*) FROM docs_embedding").fetchone()
    assert found is not None
    return int(found[0])


def spent(db: Connection) -> Any:
    return db.execute(
        "SELECT sum(requests), sum(tokens) FROM pgmeaning.model_spending WHERE seconds = 86400"
    ).fetchone()


def let_time_pass(db: Connection, interval: str) -> None:
    """As if what was spent had been spent that much earlier."""
    db.execute("UPDATE pgmeaning.model_spending SET since = since - %s::interval", (interval,))


def begin(client: pgmeaning.Client, db: Connection) -> None:
    """Once the model's probes are over, which are counted: from here on only rows are."""
    client.embed("the model is loaded and probed", model="served")
    let_time_pass(db, "1 day")
    client.resume("docs")


def problems(db: Connection) -> str:
    return str(db.execute("SELECT problems FROM pgmeaning.sidecars ORDER BY heartbeat_at DESC LIMIT 1").fetchone())


# ---------------------------------------------------------------- options


def test_an_option_that_changes_no_vector_is_set_on_a_model_in_use(
    client: pgmeaning.Client, db: Connection, drain: Drain
) -> None:
    assert drain() == 0
    before = client.model("served")
    client.set_model_options("served", {"concurrency": 16, "timeout": 5, "retries": None, "extra_body": {"a": None}})
    assert client.model("served").options == {
        "url": before.options["url"], "batch_rows": 5, "concurrency": 16, "timeout": 5, "extra_body": {"a": None},
    }  # fmt: skip
    noted = db.execute("SELECT decision, subject, details ->> 'concurrency' FROM pgmeaning.registry_log").fetchall()
    assert noted[-1] == ("set_model_options", "served", "16")


@pytest.mark.parametrize("name", ["served", "synthetic-384"])
def test_an_option_that_may_change_vectors_is_refused(client: pgmeaning.Client, name: str) -> None:
    with pytest.raises(ModelError, match=f"option dtype of model '{name}' cannot be set") as refused:
        client.set_model_options(name, {"dtype": "float16"})
    assert refused.value.sqlstate == "PM006"
    assert ("concurrency" in str(refused.value.detail)) == (name == "served")


def test_an_option_of_a_wrong_type_is_refused_before_a_sidecar_stumbles_over_it(client: pgmeaning.Client) -> None:
    with pytest.raises(ModelUnavailable, match="its option concurrency cannot be 'many'"):
        client.set_model_options("served", {"concurrency": "many"})


@pytest.mark.parametrize(
    ("options", "sqlstate"), [("[]", "PM014"), ("null", "PM014"), ('{"url": "http://a:b@c"}', "PM006")]
)
def test_options_that_are_none_are_refused(
    client: pgmeaning.Client, db: Connection, options: str, sqlstate: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        db.execute("SELECT pgmeaning.set_model_options('served', %s)", (options,))
    assert refused.value.sqlstate == sqlstate


def test_the_name_at_a_url_says_which_model_it_is(client: pgmeaning.Client, engine: Engine) -> None:
    client.add_model(Model("by-url", "embedder", "http", location=engine.url, dimensions=384))
    with pytest.raises(ModelError, match="option served_name of model 'by-url' cannot be set"):
        client.set_model_options("by-url", {"served_name": "another"})
    client.set_model_options("served", {"served_name": "another"})


def test_the_database_knows_the_options_that_the_package_knows(db: Connection) -> None:
    row = db.execute(
        'SELECT pgmeaning._serving_options(jsonb_populate_record(NULL::pgmeaning.model, \'{"backend": "http"}\'))'
    ).fetchone()
    assert row is not None
    assert set(row[0]) == SERVING_OPTIONS


def test_a_running_sidecar_takes_it_up(client: pgmeaning.Client, db: Connection, dsn: str, engine: Engine) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.05))):
        wait_until(lambda: vectors(db) == ROWS)
        client.set_model_options("served", {"extra_body": {"user": "me"}})
        numbers = iter(range(1000, 9000))

        def writes() -> bool:
            db.execute("INSERT INTO docs VALUES (%s, 'more')", (next(numbers),))
            return engine.last.get("user") == "me"

        wait_until(writes)


def test_the_command_sets_options(client: pgmeaning.Client, dsn: str) -> None:
    done = CliRunner().invoke(
        app, ["model", "set", "served", "--option", "concurrency=3", "--option", "batch_rows=null", "--dsn", dsn]
    )
    assert done.output == "served: batch_rows, concurrency are set\n"
    options = client.model("served").options
    assert (options["concurrency"], "batch_rows" in options) == (3, False)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limit", "most"), [({"tokens_per_minute": 20}, "20 tokens a minute"), ({"requests_per_minute": 2}, "2 requests a")]
)
def test_what_is_over_a_limit_waits_and_says_so(
    client: pgmeaning.Client, db: Connection, dsn: str, engine: Engine, monkeypatch: pytest.MonkeyPatch,
    limit: dict[str, int], most: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(loaded, "LIMIT_SECONDS", 0.1)
    client.set_model_options("served", limit)
    client.pause("docs")
    with running(Sidecar(dsn, Settings(attempts=1, maintenance=0.05, batch_rows=5))):
        begin(client, db)
        wait_until(lambda: vectors(db) > 0 and f"its limit of {most}" in problems(db))
        held = vectors(db)
        assert held < ROWS
        warning = db.execute("SELECT warning, failed FROM pgmeaning.status").fetchone()
        assert warning is not None
        assert warning[0].startswith("model 'served' waits until ")
        assert warning[1] == 0
        before = len(engine.requests)
        client.embed("a query is let through", model="served")
        assert len(engine.requests) == before + 1
        let_time_pass(db, "70 seconds")
        wait_until(lambda: vectors(db) > held)
        client.set_model_options("served", dict.fromkeys(limit))
        wait_until(lambda: vectors(db) == ROWS)
    assert db.execute("SELECT count(*) FROM pgmeaning.queue").fetchone() == (0,)


def test_a_day_s_tokens_are_shared_by_sidecars_that_come_later(
    client: pgmeaning.Client, db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "LIMIT_SECONDS", 1000)
    client.set_model_options("served", {"tokens_per_day": 30})
    settings = Settings(attempts=1, maintenance=0.05, batch_rows=2)
    client.pause("docs")
    with running(Sidecar(dsn, settings)):
        begin(client, db)
        wait_until(lambda: vectors(db) > 0)
    with running(Sidecar(dsn, settings)), running(Sidecar(dsn, settings)):
        wait_until(lambda: db.execute(WAITING).fetchone() == (2,))
        assert 0 < vectors(db) < ROWS
        client.set_model_options("served", {"tokens_per_day": None})
        wait_until(lambda: vectors(db) == ROWS)


def test_a_drain_does_not_wait_for_the_next_day(
    client: pgmeaning.Client, db: Connection, drain: Drain, capfd: pytest.CaptureFixture[str]
) -> None:
    client.set_model_options("served", {"tokens_per_day": 30})
    assert drain(attempts=1, batch_rows=2) == 1
    assert "tokens a day is used up" in "".join(capfd.readouterr())
    assert db.execute("SELECT max(attempts), count(failed_at) FROM pgmeaning.queue").fetchone() == (0, 0)
    db.execute("DELETE FROM pgmeaning.model_spending")
    client.set_model_options("served", {"tokens_per_day": 100_000})
    assert drain(attempts=1) == 0
    assert spent(db)[1] > 0


def test_a_call_that_is_more_than_a_limit_goes_once_nothing_else_does(db: Connection, client: pgmeaning.Client) -> None:
    def spend(tokens: int) -> Any:
        row = db.execute("SELECT wait, by_limit FROM pgmeaning._spend('served', 1, %s, 0, 100, 500, true)", (tokens,))
        return row.fetchone()

    assert spend(1000) == (None, None)
    assert spend(1)[1] == "tokens_per_day"
    let_time_pass(db, "1 day")
    assert spend(60) == (None, None)
    wait, limit = spend(60)
    assert limit == "tokens_per_minute"
    assert 59 < wait <= 66
    assert spend(40) == (None, None)


def test_a_reranker_has_no_limits(client: pgmeaning.Client, engine: Engine) -> None:
    client.add_model(Model("judge", "reranker", "http", location="some/judge", options={"url": engine.url}))
    with pytest.raises(ModelUnavailable, match="a reranker has no option tokens_per_day"):
        client.set_model_options("judge", {"tokens_per_day": 5})


def test_options_are_json(client: pgmeaning.Client) -> None:
    client.set_model_options("served", json.loads('{"extra_body": {"user": "x"}}'))
    assert client.model("served").options["extra_body"] == {"user": "x"}
