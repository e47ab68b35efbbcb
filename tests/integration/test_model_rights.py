"""Models: who may see their options, who may have one loaded, and who is told what an endpoint replied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

import pgmeaning
from pgmeaning.models import load_embedder
from pgmeaning.models.registry import fingerprint
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Model
from tests.conftest import running, wait_until
from tests.engine import Answer, Engine, serving
from tests.integration.roles import PASSWORD, Role
from tests.needs import needs_package
from tests.types import Connection

needs_package("httpx", "http")

OTHER = "served"  # in the registry, and not in use
SPARE = "synthetic-4096"
TOKEN = "0123456789abcdef-of-the-gateway"
OPTIONS: dict[str, Any] = {
    "retries": 0, "query_instruction": "Find", "extra_body": {"user": TOKEN, "gateway": [{"X-Api-Key": TOKEN}]},
}  # fmt: skip


@pytest.fixture
def engine() -> Iterator[Engine]:
    with serving(Engine(load_embedder("synthetic-384").embed_documents)) as started:
        yield started


@pytest.fixture
def served(dsn: str, engine: Engine) -> Model:
    model = Model("served", "embedder", "http", location=engine.url, dimensions=384, options=OPTIONS)
    with pgmeaning.connect(dsn) as client:
        client.add_model(model)
    return model


@pytest.fixture
def unused(served: Model, db: Connection) -> None:
    """Whoever adds a model has allowed it: that is taken back."""
    db.execute("SELECT pgmeaning.allow_model(%s, false)", (served.name,))


def refused(connection: Connection, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(statement.encode())
    return caught.value


# Options


def test_nobody_else_sees_the_options_of_a_model(served: Model, db: Connection, role: Role) -> None:
    assert role.refusal("SELECT options FROM pgmeaning.model").sqlstate == "42501"
    assert role.refusal("SELECT m FROM pgmeaning.model AS m").sqlstate == "42501"
    assert role.rows("SELECT count(*) FROM pgmeaning.models WHERE options IS NOT NULL") == [(0,)]
    assert TOKEN not in str(role.rows("SELECT * FROM pgmeaning.models"))
    assert TOKEN not in str(role.rows("SELECT * FROM pgmeaning._model_options"))
    assert TOKEN not in str(role.rows("SELECT pgmeaning._embedder('served')"))


def test_who_manages_models_sees_them_without_what_is_secret(served: Model, db: Connection) -> None:
    ((shown,),) = db.execute("SELECT options FROM pgmeaning.models WHERE name = 'served'").fetchall()
    assert shown["query_instruction"] == "Find"
    assert shown["extra_body"]["gateway"] == [{"X-Api-Key": "***"}]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ('{"api_key": "x", "api_key_env": "PGMEANING_API_KEY"}',
         {"api_key": "***", "api_key_env": "PGMEANING_API_KEY"}),
        ('{"headers": {"Authorization": "Bearer x"}}', {"headers": {"Authorization": "***"}}),
        ('{"note": "Bearer abc", "other": "hf_abc"}', {"note": "***", "other": "***"}),
        ('{"url": "https://me:pw@example.org"}', {"url": "***"}),
        ('{"yes_token": 9693, "min_pixels": 4096, "on": true}', {"yes_token": 9693, "min_pixels": 4096, "on": True}),
        ('{"list": ["a", {"password": "p"}], "none": null, "empty": {}}',
         {"list": ["a", {"password": "***"}], "none": None, "empty": {}}),
    ],
)  # fmt: skip
def test_what_looks_secret_is_not_shown(db: Connection, options: str, shown: object) -> None:
    assert db.execute("SELECT pgmeaning._redacted(%s)", (options,)).fetchone() == (shown,)


def test_a_client_still_gets_what_changes_vectors(served: Model, dsn: str, role: Role) -> None:
    with pgmeaning.connect(psycopg.conninfo.make_conninfo(dsn, user=role.name, password=PASSWORD)) as client:
        found = client.model("served")
    assert found.options == {"retries": 0, "query_instruction": "Find"}
    assert fingerprint(found) == fingerprint(served)


def test_a_sidecar_sends_all_of_them(served: Model, db: Connection, engine: Engine, sidecar: Sidecar) -> None:
    assert db.execute("SELECT pgmeaning.embed('x', model => 'served') IS NULL").fetchone() == (False,)
    assert TOKEN in str(engine.last)


# Replies


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(400, b"raw reply"), "its endpoint refused the input with 400"),
        (Answer(500, b"raw reply"), "its endpoint failed with 500"),
        (Answer(404, b"raw reply"), "has no /v1/embeddings, or no model 'served' (404)"),
        (Answer(200, b"raw reply"), "answered with something other than complete JSON"),
        (Answer(200, b'{"data": "raw reply"}'), "returned something unusable"),
    ],
)
def test_an_endpoints_reply_reaches_the_log_and_no_caller(
    served: Model, dsn: str, engine: Engine, role: Role, answer: Answer, kind: str
) -> None:
    engine.script += [answer] * 3
    with capture_logs() as logged, running(Sidecar(dsn, Settings())):
        error = role.refusal("SELECT pgmeaning.embed('x', model => 'served')")
        assert error.sqlstate == "PM008"
        assert kind in str(error.diag.message_detail)
        assert "raw reply" not in str(error)
        assert engine.url not in str(error)
        problems = role.rows("SELECT problems::text FROM pgmeaning.sidecars")
        assert "raw reply" not in str(problems)
    (refusal,) = [entry for entry in logged if entry["event"] == "query refused"]
    assert f"reference {refusal['reference']} in the sidecar's log" in str(error.diag.message_detail)
    assert engine.url in refusal["error"]


# Loading

ASKS = {
    "embed": f"SELECT pgmeaning.embed('x', model => '{OTHER}')",
    "similarity": f"SELECT pgmeaning.similarity('x', 'y', model => '{OTHER}')",
    "prepare": f"CALL pgmeaning.prepare('x', model => '{OTHER}')",
}


@pytest.mark.usefixtures("unused")
@pytest.mark.parametrize("ask", ASKS)
def test_a_model_that_nothing_uses_is_not_loaded(db: Connection, role: Role, sidecar: Sidecar, ask: str) -> None:
    error = role.refusal(ASKS[ask])
    assert error.sqlstate == "PM006"
    assert f"pgmeaning model allow {OTHER}" in str(error.diag.message_hint)
    assert sidecar.embedders.names == []


def test_nor_is_such_a_reranker(db: Connection, role: Role, sidecar: Sidecar) -> None:
    (other,) = db.execute(
        "SELECT name FROM pgmeaning.model WHERE kind = 'reranker' AND status = 'supported' LIMIT 1"
    ).fetchone() or ("",)
    error = role.refusal(f"SELECT * FROM pgmeaning.rerank('x', '{{a}}', '{other}')")
    assert (error.sqlstate, "model allow" in str(error.diag.message_hint)) == ("PM006", True)
    assert sidecar.rerankers.names == []


@pytest.mark.usefixtures("unused")
def test_a_sidecar_refuses_it_too(db: Connection, role: Role, sidecar: Sidecar) -> None:
    """As where a model was taken out of use after the question was let in."""
    db.execute(
        "INSERT INTO pgmeaning.request (asker, model, as_query, input, input_hash, expires_at) "
        "VALUES (%s::regrole, %s, true, 'x', pgmeaning._input_hash('x'), now() + interval '1 minute')",
        (role.name, OTHER),
    )
    wait_until(lambda: db.execute("SELECT error FROM pgmeaning.request").fetchone() not in ((None,), None))
    assert "is not in use" in str(db.execute("SELECT error FROM pgmeaning.request").fetchone())
    assert sidecar.embedders.names == []
    assert sidecar.embedders.problems == {}


def allow(db: Connection) -> None:
    db.execute("SELECT pgmeaning.allow_model(%s)", (OTHER,))


def use(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}', model => %s)", (OTHER,))


def make_default(db: Connection) -> None:
    db.execute("SELECT pgmeaning.set_default_model(%s)", (OTHER,))


@pytest.mark.usefixtures("unused")
@pytest.mark.parametrize("step", [allow, use, make_default])
def test_a_model_that_is_in_use_or_allowed_is_served(
    db: Connection, role: Role, sidecar: Sidecar, step: Callable[[Connection], None]
) -> None:
    step(db)
    assert role.rows(f"SELECT pgmeaning.embed('x', model => '{OTHER}') IS NULL") == [(False,)]


@pytest.mark.usefixtures("unused")
def test_a_model_that_a_sidecar_was_started_for_is_served(db: Connection, dsn: str, role: Role) -> None:
    with running(Sidecar(dsn, Settings(), [OTHER])):
        assert role.rows(f"SELECT pgmeaning.embed('x', model => '{OTHER}') IS NULL") == [(False,)]


@pytest.mark.usefixtures("unused")
def test_what_was_allowed_may_be_taken_back(db: Connection, role: Role, sidecar: Sidecar) -> None:
    allow(db)
    assert role.rows(f"SELECT pgmeaning.embed('x', model => '{OTHER}') IS NULL") == [(False,)]
    db.execute("SELECT pgmeaning.allow_model(%s, false)", (OTHER,))
    assert role.refusal(ASKS["embed"]).sqlstate == "PM006"


def test_allowing_an_unknown_model_says_so(db: Connection) -> None:
    assert refused(db, "SELECT pgmeaning.allow_model('nope')").sqlstate == "PM005"
    assert refused(db, "SELECT pgmeaning.allow_model(NULL)").sqlstate == "PM005"


# Managing


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    "call",
    [
        f"set_default_model('{SPARE}')",
        f"deprecate_model('{SPARE}')",
        f"allow_model('{SPARE}')",
        '_add_model(\'{"name": "mine"}\')',
        "want_index('docs')",
        "measure_index('docs')",
    ],
)
def test_who_may_not_manage_is_told_who_may(db: Connection, role: Role, call: str) -> None:
    use(db)
    error = role.refusal(f"SELECT pgmeaning.{call}")
    assert error.sqlstate == "PM011"
    assert "Call this as postgres." in str(error.diag.message_hint)
