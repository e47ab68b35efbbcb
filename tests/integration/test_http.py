"""A model behind an endpoint, from the registry to the vectors: the sidecar's side of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import pgmeaning
from pgmeaning.errors import InputError
from pgmeaning.models import load_embedder, loaded
from pgmeaning.models.base import Embedder
from pgmeaning.models.registry import builtin_model, fingerprint
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Model
from tests.conftest import running, wait_until
from tests.engine import Answer, Engine, serving
from tests.needs import needs_package
from tests.types import Connection, Drain

needs_package("httpx", "http")


@pytest.fixture
def engine() -> Iterator[Engine]:
    with serving(Engine(load_embedder("synthetic-384").embed_documents)) as running:
        yield running


@pytest.fixture
def served(dsn: str, db: Connection, engine: Engine) -> str:
    """A model of the database's own, and a table of 20 rows that wants its vectors."""
    with pgmeaning.connect(dsn) as client:
        client.add_model(
            Model(
                "served", "embedder", "http", location="some/model", dimensions=384,
                options={"url": engine.url, "retries": 1, "batch_rows": 8, "concurrency": 2},
            )
        )  # fmt: skip
        db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
        client.attach("docs", columns=["body"], model="served")
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(1, 20) AS i")
    return "served"


def ids(db: Connection) -> list[int]:
    return [row[0] for row in db.execute("SELECT id FROM docs_embedding ORDER BY id")]


def heartbeat(db: Connection) -> object:
    return db.execute("SELECT heartbeat_at FROM pgmeaning.sidecar").fetchone()


def next_heartbeat(db: Connection) -> None:
    last = heartbeat(db)
    wait_until(lambda: heartbeat(db) != last)


class Counted:
    """A function, and how often it was called."""

    def __init__(self, function: Callable[[str], Embedder]) -> None:
        self.count = 0
        self._function = function

    def __call__(self, name: str) -> Embedder:
        self.count += 1
        return self._function(name)


def test_rows_are_embedded_through_the_endpoint_and_found(
    served: str, engine: Engine, db: Connection, dsn: str, drain: Drain
) -> None:
    assert drain() == 0
    assert ids(db) == list(range(1, 21))
    assert sum(len(request.body["input"]) for request in engine.requests) == 20
    assert {request.body["model"] for request in engine.requests} == {"some/model"}
    vector = load_embedder("synthetic-384").embed_documents(["text 7"])[0]
    nearest = db.execute(
        "SELECT id FROM docs_embedding ORDER BY embedding <=> %s::text::vector LIMIT 1", (str(vector.tolist()),)
    )
    assert nearest.fetchone() == (7,)


def test_a_row_that_the_endpoint_refuses_fails_alone_and_says_why(
    served: str, engine: Engine, db: Connection, drain: Drain
) -> None:
    engine.refused.add("text 7")
    assert drain(attempts=1) == 1
    assert ids(db) == [place for place in range(1, 21) if place != 7]
    failures = db.execute("SELECT key, error FROM pgmeaning.failures").fetchall()
    assert [key for key, _ in failures] == [{"id": 7}]
    assert f"{engine.url}/v1/embeddings refused the input with 400" in failures[0][1]
    assert "this input cannot be embedded" in failures[0][1]


def test_an_endpoint_that_is_busy_for_a_moment_costs_no_row_an_attempt(
    served: str, engine: Engine, db: Connection, drain: Drain
) -> None:
    engine.script.append(Answer(503, headers={"Retry-After": "0"}))
    assert drain(attempts=1, batch_rows=8) == 0
    assert ids(db) == list(range(1, 21))


def test_the_key_gets_into_neither_the_database_nor_the_log(
    served: str, engine: Engine, db: Connection, drain: Drain, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("PGMEANING_API_KEY", "sk-very-secret")
    monkeypatch.setenv("PGMEANING_API_KEY_HOSTS", engine.url.removeprefix("http://"))
    engine.script += [lambda request: Answer(401, dict(request.headers))] * 100
    assert drain(attempts=1) == 1
    log = "".join(capfd.readouterr())
    assert "denied access (401)" in log
    kept = db.execute("SELECT string_agg(q::text, ' ') FROM pgmeaning.queue AS q").fetchone()
    assert kept is not None
    assert "sk-very-secret" not in kept[0] + log


def test_an_endpoint_that_is_down_costs_no_row_an_attempt(
    served: str, engine: Engine, db: Connection, drain: Drain
) -> None:
    engine.script += [Answer(503, headers={"Retry-After": "0"})] * 100
    assert drain(attempts=1) == 1
    owed = db.execute(
        "SELECT count(*), max(attempts), count(failed_at), count(claimed_by) FROM pgmeaning.queue"
    ).fetchone()
    assert owed == (20, 0, 0, 0)
    engine.script.clear()
    assert drain(attempts=1) == 0
    assert ids(db) == list(range(1, 21))


def test_rows_are_embedded_once_an_endpoint_is_up_again(
    served: str, engine: Engine, db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "DOWN_SECONDS", 0.05)
    engine.script += [Answer(401)] * 10
    with running(Sidecar(dsn, Settings(attempts=1, batch_rows=8))):
        wait_until(lambda: len(ids(db)) == 20)
    assert db.execute("SELECT count(*) FROM pgmeaning.failures").fetchone() == (0,)


def test_a_sidecar_rests_while_the_endpoint_of_a_backlog_is_down(
    served: str, engine: Engine, db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.execute("INSERT INTO docs SELECT i, 'text ' || i FROM generate_series(21, 200) AS i")
    engine.script += [Answer(503, headers={"Retry-After": "0"})] * 1000
    sidecar = Sidecar(dsn, Settings(batch_rows=8, claim_rows=8, maintenance=0.1))
    rounds = Counted(sidecar.embedders.get)
    monkeypatch.setattr(sidecar.embedders, "get", rounds)
    with running(sidecar):
        wait_until(lambda: sidecar.embedders.is_suspended(served))
        for _ in range(10):
            next_heartbeat(db)
    assert rounds.count < 1000, "it went round and round"


def test_a_status_tells_why_a_model_is_not_served(served: str, engine: Engine, db: Connection, dsn: str) -> None:
    engine.script += [Answer(401)] * 1000
    with running(Sidecar(dsn, Settings(maintenance=0.05))):
        wait_until(lambda: "denied access" in str(db.execute("SELECT problems FROM pgmeaning.sidecars").fetchall()))


def test_a_checkpoint_behind_an_endpoint_is_added_beside_the_local_one(dsn: str) -> None:
    local = builtin_model("bge-m3")
    options = {**local.options, "url": "http://127.0.0.1:1", "timeout": 5}
    with pgmeaning.connect(dsn) as client:
        client.add_model(replace(local, name="bge-on-tei", backend="http", status="supported", options=options))
        prints = {model["name"]: model["fingerprint"] for model in client.models()}
        assert client.model("bge-on-tei").options == options
    assert prints["bge-on-tei"] == prints["bge-m3"] == fingerprint(local)


@pytest.mark.parametrize("options", [{"url": "http://user:secret@host"}, {"api_key": "secret"}], ids=["url", "key"])
def test_a_model_with_a_secret_in_its_options_is_not_added(dsn: str, options: dict[str, Any]) -> None:
    model = Model("served", "embedder", "http", location="some/model", dimensions=384, options=options)
    with pgmeaning.connect(dsn) as client, pytest.raises(InputError, match="PGMEANING_API_KEY"):
        client.add_model(model)
