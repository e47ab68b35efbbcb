"""The registry: models on their way out, releases, and who may change either."""

from __future__ import annotations

import json

import psycopg
import pytest

import pgmeaning
from pgmeaning.errors import ModelError
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.test_cli import output, run
from tests.types import Connection, Drain

SMALL = "synthetic-384"
LARGE = "synthetic-4096"


@pytest.fixture
def docs(db: Connection) -> Connection:
    """A collection of three rows under SMALL, while LARGE is the default."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 3) AS i")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    db.execute("SELECT pgmeaning.set_default_model(%s)", (LARGE,))
    return db


def refused(connection: Connection, statement: str, *arguments: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(statement.encode(), arguments)
    return caught.value


def warning(db: Connection, collection: str = "docs") -> str:
    row = db.execute("SELECT warning FROM pgmeaning.status WHERE collection = %s", (collection,)).fetchone()
    return str(row and row[0])


def owed(db: Connection) -> int:
    return int((db.execute("SELECT owed FROM pgmeaning.status").fetchone() or (0,))[0])


# Retired


def test_a_retired_model_embeds_no_query_and_says_what_to_do(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.retire_model(%s)", (SMALL,))
    for call in ("embed('x', collection => 'docs')", f"embed('x', model => '{SMALL}')", "search('docs', 'x')"):
        error = refused(docs, f"SELECT pgmeaning.{call}")
        assert error.sqlstate == "PM006"
        assert f"{LARGE}" in str(error.diag.message_detail)
        assert f"pgmeaning swap start docs --model {LARGE}" in str(error.diag.message_hint)


def test_a_retired_model_is_refused_for_a_new_collection(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.retire_model(%s)", (SMALL,))
    statement = "SELECT pgmeaning.attach('docs', '{body}', collection => 'other', model => %s)"
    assert "is retired" in str(refused(docs, statement, SMALL))


def test_a_retired_reranker_is_refused_as_such(db: Connection, dsn: str) -> None:
    db.execute("SELECT pgmeaning.retire_model('ms-marco-MiniLM-L6-v2')")
    error = refused(db, "SELECT * FROM pgmeaning.rerank('x', '{a}', 'ms-marco-MiniLM-L6-v2')")
    assert (error.sqlstate, "Qwen3-VL-Reranker-8B" in str(error.diag.message_hint)) == ("PM006", True)


def test_a_retired_reranker_is_not_loaded_by_a_client_either(docs: Connection, dsn: str, drain: Drain) -> None:
    assert drain() == 0
    docs.execute("SELECT pgmeaning.retire_model('ms-marco-MiniLM-L6-v2')")
    with pgmeaning.connect(dsn) as client, pytest.raises(ModelError, match="retired"):
        client._reranker("ms-marco-MiniLM-L6-v2")


def test_a_sidecar_embeds_no_row_with_a_retired_model(docs: Connection, drain: Drain) -> None:
    docs.execute("SELECT pgmeaning.retire_model(%s)", (SMALL,))
    assert drain() == 1
    assert owed(docs) == 3
    assert docs.execute("SELECT count(*) FROM docs_embedding").fetchone() == (0,)


def test_a_sidecar_that_has_the_model_loaded_stops_serving_it_and_begins_again(docs: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.05))) as sidecar:
        wait_until(lambda: owed(docs) == 0)
        docs.execute("SELECT pgmeaning.retire_model(%s)", (SMALL,))
        wait_until(lambda: SMALL not in sidecar.embedders.names)
        docs.execute("INSERT INTO docs VALUES (4, 'late')")
        wait_until(lambda: SMALL in sidecar.embedders.problems)
        assert "is retired" in sidecar.embedders.problems[SMALL]
        assert owed(docs) == 1
        docs.execute("SELECT pgmeaning.support_model(%s)", (SMALL,))
        wait_until(lambda: owed(docs) == 0)


def test_vectors_of_a_retired_model_can_still_be_compared(docs: Connection, drain: Drain) -> None:
    assert drain() == 0
    docs.execute("SELECT pgmeaning.retire_model(%s)", (SMALL,))
    assert len(docs.execute("SELECT * FROM pgmeaning.similar('docs', '1', 2)").fetchall()) == 2


# What the status says


def test_the_status_names_the_default_as_replacement_and_the_command(docs: Connection) -> None:
    assert warning(docs) == "None"
    docs.execute("SELECT pgmeaning.deprecate_model(%s)", (SMALL,))
    assert warning(docs) == (
        f"model {SMALL} is deprecated, its replacement is {LARGE}: pgmeaning swap start docs --model {LARGE}"
    )


def test_the_status_names_the_replacement_that_was_given(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.deprecate_model(%s, replacement => 'all-MiniLM-L6-v2')", (SMALL,))
    assert "pgmeaning swap start docs --model all-MiniLM-L6-v2" in warning(docs)
    docs.execute("SELECT pgmeaning.retire_model('all-MiniLM-L6-v2')")
    assert f"--model {LARGE}" in warning(docs)


def test_a_collection_with_an_odd_name_is_quoted_in_the_command(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.rename_collection('docs', 'my ''docs')")
    docs.execute("SELECT pgmeaning.deprecate_model(%s)", (SMALL,))
    assert "swap start 'my '\\''docs' --model" in warning(docs, "my 'docs")


def test_a_retired_models_status_says_that_nothing_is_embedded(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.retire_model(%s)", (SMALL,))
    assert "no rows and no queries are embedded, its replacement is" in warning(docs)


def test_a_model_that_a_sidecar_cannot_run_shows_in_the_status(docs: Connection, dsn: str) -> None:
    def load(_: object) -> None:
        raise RuntimeError("no such weights")

    with running(Sidecar(dsn, Settings(maintenance=0.05), load=load)):  # type: ignore[arg-type]
        wait_until(lambda: "a sidecar cannot run its model" in warning(docs))
        assert "no such weights" in warning(docs)


@pytest.mark.parametrize("name", ["nope", SMALL, "Qwen3-VL-Reranker-8B", "bge-m3"])
def test_what_cannot_replace_a_model_is_refused(docs: Connection, name: str) -> None:
    error = refused(docs, "SELECT pgmeaning.deprecate_model(%s, replacement => %s)", SMALL, name)
    assert (error.sqlstate, "cannot replace" in str(error)) == ("PM006", True)


@pytest.mark.parametrize("call", ["deprecate_model", "retire_model"])
def test_the_default_model_cannot_be_withdrawn(docs: Connection, call: str) -> None:
    assert refused(docs, f"SELECT pgmeaning.{call}(%s)", LARGE).sqlstate == "PM006"
    assert refused(docs, f"SELECT pgmeaning.{call}('nope')").sqlstate == "PM005"


# What cannot change


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE pgmeaning.model SET template = 'x' WHERE name = '{SMALL}'",
        f"UPDATE pgmeaning.model SET name = 'y' WHERE name = '{SMALL}'",
        f"UPDATE pgmeaning.model SET fingerprint = 'x' WHERE name = '{SMALL}'",
        f"DELETE FROM pgmeaning.model WHERE name = '{SMALL}'",
        "TRUNCATE pgmeaning.model CASCADE",
        "TRUNCATE pgmeaning.release",
    ],
)
def test_a_model_with_vectors_cannot_change(docs: Connection, statement: str) -> None:
    assert refused(docs, statement).sqlstate == "PM006"


def test_a_model_of_vectors_that_were_kept_cannot_change(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.detach('docs', keep_vectors => true)")
    error = refused(docs, f"UPDATE pgmeaning.model SET name = 'y' WHERE name = '{SMALL}'")
    assert "kept" in str(error.diag.message_detail)
    docs.execute('DROP TABLE pgmeaning_data."docs__synthetic-384" CASCADE')
    docs.execute(f"UPDATE pgmeaning.model SET name = 'y' WHERE name = '{SMALL}'")


def test_a_model_of_the_release_that_is_followed_cannot_change(db: Connection) -> None:
    for name in ("Qwen3-VL-Embedding-8B", "Qwen3-VL-Reranker-8B"):
        error = refused(db, "UPDATE pgmeaning.model SET template = 'x' WHERE name = %s", name)
        assert "26.02" in str(error.diag.message_detail)


def test_the_query_vectors_of_a_changed_model_are_forgotten(db: Connection) -> None:
    db.execute("SELECT pgmeaning._answer(%s, true, 'x', '[1]')", (LARGE,))
    db.execute("UPDATE pgmeaning.model SET location = 'elsewhere' WHERE name = %s", (LARGE,))
    assert db.execute("SELECT count(*) FROM pgmeaning.query_cache").fetchone() == (0,)


def test_a_model_that_a_sidecar_has_loaded_cannot_change(docs: Connection, dsn: str) -> None:
    change = "UPDATE pgmeaning.model SET location = 'another' WHERE name = %s"
    with running(Sidecar(dsn, Settings(maintenance=0.05))):
        docs.execute("SELECT pgmeaning.embed('x', model => %s)", (LARGE,))
        assert "Sidecars" in str(refused(docs, change, LARGE).diag.message_detail)
    docs.execute(change.encode(), (LARGE,))
    assert docs.execute("SELECT FROM pgmeaning.model_probe WHERE model = %s", (LARGE,)).fetchall() == []


def test_a_model_that_changes_under_a_sidecar_all_the_same_is_loaded_anew(docs: Connection, dsn: str) -> None:
    with running(Sidecar(dsn, Settings(maintenance=0.05))) as sidecar:
        docs.execute("SELECT pgmeaning.embed('x', model => %s)", (LARGE,))
        before = sidecar.embedders.get(LARGE)
        docs.execute("SET session_replication_role = replica")
        docs.execute("UPDATE pgmeaning.model SET fingerprint = 'another' WHERE name = %s", (LARGE,))
        wait_until(lambda: LARGE not in sidecar.embedders.names)
        assert sidecar.embedders.get(LARGE) is not before


# Releases


def make_release(db: Connection, name: str = "ours", embedder: str = LARGE, dimensions: int | None = 512) -> None:
    db.execute("SELECT pgmeaning.create_release(%s, %s, 'Qwen3-VL-Reranker-2B', %s)", (name, embedder, dimensions))


def test_using_a_release_sets_the_defaults_and_the_dimensions_of_new_collections(db: Connection) -> None:
    make_release(db)
    db.execute("SELECT pgmeaning.use_release('ours')")
    assert db.execute("SELECT name FROM pgmeaning.releases WHERE current AND defaults").fetchall() == [("ours",)]
    assert db.execute("SELECT name FROM pgmeaning.models WHERE status = 'default' ORDER BY kind").fetchall() == [
        (LARGE,), ("Qwen3-VL-Reranker-2B",),
    ]  # fmt: skip
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert db.execute("SELECT model, dimensions FROM pgmeaning.status").fetchone() == (LARGE, 512)


def test_a_database_that_left_its_release_shows_it(db: Connection) -> None:
    assert db.execute("SELECT name, defaults FROM pgmeaning.releases WHERE current").fetchone() == ("26.02", False)


def test_a_release_whose_model_is_retired_cannot_be_used(db: Connection) -> None:
    make_release(db)
    db.execute("SELECT pgmeaning.retire_model(%s)", (LARGE,))
    error = refused(db, "SELECT pgmeaning.use_release('ours')")
    assert (error.sqlstate, "support_model" in str(error.diag.message_hint)) == ("PM006", True)
    assert db.execute("SELECT name FROM pgmeaning.releases WHERE current").fetchone() == ("26.02",)


CHANGES = [
    "UPDATE pgmeaning.release SET dimensions = 64 WHERE name = 'ours'",
    "UPDATE pgmeaning.release SET embedder = 'bge-m3' WHERE name = 'ours'",
    "UPDATE pgmeaning.release SET reranker = NULL WHERE name = 'ours'",
    "UPDATE pgmeaning.release SET name = 'theirs' WHERE name = 'ours'",
    "DELETE FROM pgmeaning.release WHERE name = 'ours'",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_a_release_that_nobody_uses_may_change(db: Connection, statement: str) -> None:
    make_release(db)
    assert db.execute(statement.encode()).rowcount == 1


@pytest.mark.parametrize("statement", CHANGES)
def test_a_release_that_is_followed_cannot_change(db: Connection, statement: str) -> None:
    make_release(db)
    db.execute("SELECT pgmeaning.use_release('ours')")
    assert refused(db, statement).sqlstate == "PM006"


@pytest.mark.parametrize("statement", CHANGES)
def test_a_release_that_has_vectors_cannot_change(docs: Connection, statement: str) -> None:
    make_release(docs, embedder=SMALL, dimensions=None)
    assert refused(docs, statement).sqlstate == "PM006"


def test_a_release_is_signed_off_once(db: Connection) -> None:
    make_release(db)
    db.execute("SELECT pgmeaning.sign_release('ours', 'Ada')")
    assert refused(db, "SELECT pgmeaning.sign_release('ours', 'Bob')").sqlstate == "PM006"
    assert refused(db, CHANGES[0]).sqlstate == "PM006"
    found = db.execute("SELECT signed_off_by, signed_off_at IS NULL FROM pgmeaning.releases WHERE name = 'ours'")
    assert found.fetchone() == ("Ada", False)


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ("'26.02', 'synthetic-384'", "PM006"),
        ("'x', 'nope'", "PM005"),
        ("'x', 'synthetic-384', 'synthetic-4096'", "PM014"),
        ("'x', 'synthetic-384', NULL, 7777", "PM014"),
        ("'  ', 'synthetic-384'", "PM014"),
        ("NULL, NULL", "PM005"),
    ],
)
def test_a_release_that_makes_no_sense_is_refused(db: Connection, arguments: str, state: str) -> None:
    assert refused(db, f"SELECT pgmeaning.create_release({arguments})").sqlstate == state


def test_decisions_are_recorded_with_who_made_them(docs: Connection) -> None:
    docs.execute("SELECT pgmeaning.retire_model(%s)", (SMALL,))
    make_release(docs)
    docs.execute("SELECT pgmeaning.use_release('ours')")
    found = docs.execute("SELECT decision, subject, decided_by = current_user FROM pgmeaning.registry_log").fetchall()
    assert found == [("retired", SMALL, True), ("release created", "ours", True), ("release used", "ours", True)]


# The command line


def test_the_command_line_does_the_same(docs: Connection, dsn: str) -> None:
    output("model", "deprecate", SMALL, "--replacement", "all-MiniLM-L6-v2", "--dsn", dsn)
    assert json.loads(output("model", "show", SMALL, "--json", "--dsn", dsn))["replacement"] == "all-MiniLM-L6-v2"
    output("model", "retire", SMALL, "--dsn", dsn)
    output("model", "support", SMALL, "--dsn", dsn)
    output("release", "create", "ours", "--embedder", LARGE, "--dimensions", "512", "--dsn", dsn)
    output("release", "sign", "ours", "--by", "Ada", "--dsn", dsn)
    output("release", "use", "ours", "--dsn", dsn)
    (ours,) = [r for r in json.loads(output("release", "list", "--json", "--dsn", dsn)) if r["name"] == "ours"]
    assert (ours["current"], ours["dimensions"], ours["signed_off_by"]) == (True, 512, "Ada")
    assert run("release", "use", "nope", "--dsn", dsn).returncode == 1
