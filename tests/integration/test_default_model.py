"""The default model and the reranker that goes with it, from SQL, Python and the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import psycopg
import pytest

import pgmeaning
from pgmeaning.database import migrate
from pgmeaning.errors import DatabaseError, ModelNotFound
from pgmeaning.models.registry import builtin_model, builtin_models, fingerprint
from tests.integration.test_cli import output, run
from tests.types import Connection

SMALL, SMALL_RERANKER = "all-MiniLM-L6-v2", "all-MiniLM-L6-v2-late-interaction"
LARGE_RERANKER = "Qwen3-VL-Reranker-8B"


def defaults(db: Connection) -> tuple[str, ...]:
    """The default embedder and the default reranker."""
    found = db.execute("SELECT name FROM pgmeaning.models WHERE status = 'default' ORDER BY kind").fetchall()
    return tuple(name for (name,) in found)


# SQL


def test_an_embedder_takes_its_reranker_along(db: Connection) -> None:
    assert defaults(db) == ("synthetic-384", LARGE_RERANKER)
    db.execute("SELECT pgmeaning.set_default_model(%s)", (SMALL,))
    assert defaults(db) == (SMALL, SMALL_RERANKER)
    db.execute("SELECT pgmeaning.set_default_model('Qwen3-VL-Embedding-2B')")
    assert defaults(db) == ("Qwen3-VL-Embedding-2B", "Qwen3-VL-Reranker-2B")


def test_an_embedder_without_a_reranker_of_its_own_leaves_the_default_one(db: Connection) -> None:
    db.execute("SELECT pgmeaning.set_default_model(%s)", (SMALL,))
    db.execute("SELECT pgmeaning.set_default_model('synthetic-4096')")
    assert defaults(db) == ("synthetic-4096", SMALL_RERANKER)


def test_a_deprecated_reranker_is_not_taken_along(db: Connection) -> None:
    db.execute("SELECT pgmeaning.deprecate_model(%s)", (SMALL_RERANKER,))
    db.execute("SELECT pgmeaning.set_default_model(%s)", (SMALL,))
    assert defaults(db) == (SMALL, LARGE_RERANKER)


def test_a_reranker_of_ones_choice_goes_along_instead(db: Connection) -> None:
    db.execute("SELECT pgmeaning.set_default_model(%s, reranker => 'ms-marco-MiniLM-L6-v2')", (SMALL,))
    assert defaults(db) == (SMALL, "ms-marco-MiniLM-L6-v2")


def test_the_reranker_is_kept_on_request(db: Connection) -> None:
    db.execute("SELECT pgmeaning.set_default_model(%s, keep_reranker => true)", (SMALL,))
    assert defaults(db) == (SMALL, LARGE_RERANKER)


def test_a_rerankers_name_sets_the_reranker_alone(db: Connection) -> None:
    db.execute("SELECT pgmeaning.set_default_model(%s)", (SMALL_RERANKER,))
    assert defaults(db) == ("synthetic-384", SMALL_RERANKER)


@pytest.mark.parametrize(
    ("arguments", "sqlstate", "said"),
    [
        (f"'{SMALL}', reranker => 'nothing'", "PM005", "no reranker 'nothing'"),
        (f"'{SMALL}', reranker => 'synthetic-384'", "PM005", "no reranker 'synthetic-384'"),
        (f"'{SMALL}', reranker => '{SMALL_RERANKER}', keep_reranker => true", "PM014", "keep_reranker is true"),
        (f"'{LARGE_RERANKER}', reranker => '{SMALL_RERANKER}'", "PM014", "is a reranker itself"),
        ("'nothing'", "PM005", "no embedding model 'nothing'"),
        (f"'bge-m3', reranker => '{SMALL_RERANKER}'", "PM006", "is deprecated and cannot be the default"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    db: Connection, arguments: str, sqlstate: str, said: str
) -> None:
    with pytest.raises(psycopg.Error, match=said) as refusal:
        db.execute(f"SELECT pgmeaning.set_default_model({arguments})")
    assert refusal.value.sqlstate == sqlstate
    assert defaults(db) == ("synthetic-384", LARGE_RERANKER)


# The registry


@pytest.mark.parametrize("model", [model for model in builtin_models().values() if model.reranker])
def test_a_builtin_models_reranker_is_one(model: pgmeaning.types.Model) -> None:
    assert builtin_model(model.reranker or "").kind == "reranker"


def test_the_reranker_that_goes_along_changes_no_vector() -> None:
    model = builtin_model(SMALL)
    assert fingerprint(model) == fingerprint(replace(model, reranker=None))


def test_migrating_again_registers_a_reranker_also_where_vectors_bear_the_models_name(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', ARRAY['body'], model => %s)", (SMALL,))
    db.execute("UPDATE pgmeaning.model SET reranker = NULL WHERE name = %s", (SMALL,))
    db.execute("UPDATE pgmeaning.installation SET functions_hash = ''")
    migrate.upgrade(dsn)
    db.execute("SELECT pgmeaning.set_default_model(%s)", (SMALL,))
    assert defaults(db) == (SMALL, SMALL_RERANKER)


# Python


def test_the_client_takes_the_reranker_along_unless_told_otherwise(db: Connection, dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        client.set_default_model(SMALL, keep_reranker=True)
        assert defaults(db) == (SMALL, LARGE_RERANKER)
        client.set_default_model(SMALL)
        assert defaults(db) == (SMALL, SMALL_RERANKER)
        client.set_default_model(SMALL, reranker="bge-reranker-v2-m3")
        assert defaults(db) == (SMALL, "bge-reranker-v2-m3")
        with pytest.raises(ModelNotFound):
            client.set_default_model(SMALL, reranker="nothing")
        with pytest.raises(DatabaseError, match="Give one of them"):
            client.set_default_model(SMALL, reranker=SMALL_RERANKER, keep_reranker=True)


def test_a_model_of_ones_own_may_name_a_reranker(db: Connection, dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        client.add_model(replace(client.model("synthetic-384"), name="mine", dimensions=128, reranker=SMALL_RERANKER))
        assert client.model("mine").reranker == SMALL_RERANKER
        client.set_default_model("mine")
    assert defaults(db) == ("mine", SMALL_RERANKER)


# The command line


def test_the_command_prints_both_defaults(dsn: str) -> None:
    printed = output("model", "default", SMALL, "--dsn", dsn)
    assert printed == f"default model: {SMALL}\ndefault reranker: {SMALL_RERANKER}\n"
    shown = json.loads(output("model", "show", SMALL, "--json", "--dsn", dsn))
    assert (shown["status"], shown["reranker"]) == ("default", SMALL_RERANKER)


def test_the_command_keeps_or_takes_another_reranker(dsn: str) -> None:
    kept = output("model", "default", SMALL, "--keep-reranker", "--dsn", dsn)
    assert kept == f"default model: {SMALL}\ndefault reranker: {LARGE_RERANKER}\n"
    chosen = output("model", "default", SMALL, "--reranker", "ms-marco-MiniLM-L6-v2", "--dsn", dsn)
    assert chosen == f"default model: {SMALL}\ndefault reranker: ms-marco-MiniLM-L6-v2\n"
    assert run("model", "default", SMALL, "--reranker", SMALL_RERANKER, "--keep-reranker", "--dsn", dsn).returncode == 2


def test_the_command_says_when_a_model_has_no_reranker_of_its_own(dsn: str) -> None:
    printed = output("model", "default", "synthetic-4096", "--dsn", dsn)
    assert printed.splitlines() == [
        "default model: synthetic-4096",
        f"default reranker: {LARGE_RERANKER} (unchanged: synthetic-4096 has none of its own)",
    ]


def test_the_command_sets_the_reranker_alone_by_its_name(dsn: str) -> None:
    printed = output("model", "default", SMALL_RERANKER, "--dsn", dsn)
    assert printed == f"default model: synthetic-384\ndefault reranker: {SMALL_RERANKER}\n"


def test_model_add_names_the_reranker_that_goes_along(dsn: str) -> None:
    output("model", "add", "mine", "--like", "synthetic-384", "--reranker", SMALL_RERANKER, "--dsn", dsn)
    printed = output("model", "default", "mine", "--dsn", dsn)
    assert printed == f"default model: mine\ndefault reranker: {SMALL_RERANKER}\n"
    refused = run("model", "add", "other", "--like", "synthetic-384", "--reranker", "nothing", "--dsn", dsn)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "nothing" in refused.stderr
