"""rerank() and search(..., rerank => ...): a sidecar's second model judges what was found."""

# ruff: noqa: E501  a statement of SQL reads better on one line

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pytest

import pgmeaning
from pgmeaning.errors import DatabaseError
from pgmeaning.models.vectors import Vectors
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from pgmeaning.types import Document, Model
from tests.conftest import running, wait_until
from tests.integration.docs import Docs
from tests.integration.test_cli import output
from tests.types import Connect, Connection, Drain


class Judge:
    """Scores a document by its number of letters that the query has; records what it was given, and may wait."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.queries: list[str] = []
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.opened.set()

    def load(self, _: Model) -> Judge:
        return self

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        texts = [document.text or "" for document in documents]
        self.batches.append(texts)
        self.queries.append(query.text or "")
        self.reached.set()
        assert self.opened.wait(60)
        if "poison" in texts:
            raise ValueError("cannot stand poison")
        return np.array([text.count(query.text or " ") / 100 for text in texts], np.float32)


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def judging(dsn: str, judge: Judge) -> Iterator[Sidecar]:
    with running(Sidecar(dsn, Settings(), load_reranker=judge.load)) as sidecar:
        yield sidecar


# Thirty rows; the query 'x' is cached; row i has i letters x.
DOCS = Docs(
    columns="id int PRIMARY KEY, title text, body text",
    rows="SELECT i, 'title ' || i, repeat('x', i) FROM generate_series(1, 30) AS i",
    attach="template => '{title} {{it''s}}: {body}'",
    embedded=True,
    cached={"x": "title 7 {it's}: xxxxxxx"},
)


def ids(db: Connection, statement: str) -> list[int]:
    return [row[0] for row in db.execute(statement).fetchall()]


def refused(db: Connection, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        db.execute(statement)
    return caught.value


def test_documents_come_in_the_order_of_their_scores(db: Connection, judging: Sidecar) -> None:
    found = db.execute(
        "SELECT index, score FROM pgmeaning.rerank('x', ARRAY['x', 'xxx', NULL, 'xx', 'xxx'])"
    ).fetchall()
    assert [index for index, _ in found] == [2, 5, 4, 1, 3]
    assert [score for _, score in found] == pytest.approx([0.03, 0.03, 0.02, 0.01, 0])


def test_nothing_to_judge_takes_no_model(db: Connection) -> None:
    assert ids(db, "SELECT index FROM pgmeaning.rerank('x', '{}')") == []


def test_any_text_reaches_the_model_as_it_is(db: Connection, judging: Sidecar, judge: Judge) -> None:
    odd = ["it's", 'say "x"', "a\\b", "{,}", "NULL", "", "é 漢 \n\t", "%s %L $1"]
    db.execute("SELECT * FROM pgmeaning.rerank(%s, %s)", ("o'x\\", odd))
    assert judge.batches == [odd]
    assert judge.queries == ["o'x\\"]


def test_many_documents_are_judged_in_bounded_batches(db: Connection, judging: Sidecar, judge: Judge) -> None:
    found = ids(
        db, "SELECT index FROM pgmeaning.rerank('x', ARRAY(SELECT repeat('x', i) FROM generate_series(1, 50) AS i))"
    )
    assert found == list(range(50, 0, -1))
    assert [len(batch) for batch in judge.batches] == [16, 16, 16, 2]


def test_a_query_for_a_vector_goes_through_between_batches(
    db: Connection, connect: Connect, judging: Sidecar, judge: Judge
) -> None:
    judge.opened.clear()
    question = "SELECT count(*) FROM pgmeaning.rerank('x', ARRAY(SELECT 'x' FROM generate_series(1, 64)), timeout => '1 minute')"
    thread = threading.Thread(target=db.execute, args=(question,))
    thread.start()
    assert judge.reached.wait(30)
    asker = connect()
    answered = threading.Thread(target=asker.execute, args=("SELECT pgmeaning.embed('y', timeout => '1 minute')",))
    answered.start()
    watcher = connect()
    wait_until(
        lambda: watcher.execute(
            "SELECT 1 FROM pgmeaning.request WHERE input = 'y' AND claimed_by IS NOT NULL"
        ).fetchall()
    )
    judge.opened.set()
    for each in (answered, thread):
        each.join(60)
        assert not each.is_alive()
    assert len(judge.batches) == 4


def test_the_callers_timeout_ends_the_wait_and_the_judging(
    db: Connection, connect: Connect, judging: Sidecar, judge: Judge
) -> None:
    judge.opened.clear()
    error = refused(
        db,
        "SELECT * FROM pgmeaning.rerank('x', ARRAY(SELECT 'x' FROM generate_series(1, 64)), timeout => '1 second')",
    )
    assert (error.sqlstate, "pgmeaning sidecar" in str(error.diag.message_hint)) == ("PM007", True)
    assert db.execute("SELECT count(*) FROM pgmeaning.request").fetchone() == (0,), "nobody waits for it any more"
    # The sidecar began to count a moment after the caller did.
    ended = time.monotonic()
    wait_until(lambda: time.monotonic() > ended + 0.5)
    judge.opened.set()
    db.execute("SELECT * FROM pgmeaning.rerank('y', '{y}')")
    assert judge.queries == ["x", "y"]


def test_without_a_sidecar_the_error_says_what_to_do(db: Connection) -> None:
    error = refused(db, "SELECT * FROM pgmeaning.rerank('x', '{a}', timeout => '10 milliseconds')")
    assert (error.sqlstate, "pgmeaning sidecar" in str(error.diag.message_hint)) == ("PM007", True)


def test_a_model_that_fails_is_the_reason_given(db: Connection, judging: Sidecar) -> None:
    error = refused(db, "SELECT * FROM pgmeaning.rerank('x', '{poison}')")
    assert (error.sqlstate, "could not rerank" in str(error)) == ("PM008", True)
    assert "cannot stand poison" in str(error.diag.message_detail)
    assert len(ids(db, "SELECT index FROM pgmeaning.rerank('x', '{a}')")) == 1


def test_an_unknown_reranker_is_refused_with_those_there_are(docs: None, db: Connection) -> None:
    for call in (
        "rerank('x', '{a}', 'nope')",
        "search('docs', 'x', rerank => 5, reranker => 'nope')",
        "rerank('x', '{a}', 'synthetic-384')",
    ):
        error = refused(db, f"SELECT * FROM pgmeaning.{call}")
        assert error.sqlstate == "PM005"
        assert "Rerankers: " in str(error.diag.message_detail)


def test_a_null_query_is_refused(db: Connection) -> None:
    assert refused(db, "SELECT * FROM pgmeaning.rerank(NULL, '{a}')").sqlstate == "PM014"


def test_the_reply_is_kept_nowhere(db: Connection, judging: Sidecar) -> None:
    db.execute("SELECT * FROM pgmeaning.rerank('x', '{secret}')")
    assert db.execute("SELECT count(*) FROM pgmeaning.request").fetchone() == (0,)


def test_it_works_in_a_read_only_and_a_repeatable_read_transaction(connect: Connect, judging: Sidecar) -> None:
    strict = connect(autocommit=False)
    strict.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    assert ids(strict, "SELECT index FROM pgmeaning.rerank('x', '{a,x}')") == [2, 1]


def test_a_reader_without_rights_may_rerank(db: Connection, connect: Connect, judging: Sidecar) -> None:
    role = f"stranger_{db.info.dbname}"
    db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'stranger'")
    try:
        stranger = connect(user=role, password="stranger")
        assert ids(stranger, "SELECT index FROM pgmeaning.rerank('x', '{a,x}')") == [2, 1]
        assert refused(stranger, "SELECT reply FROM pgmeaning.request").sqlstate == "42501"
        stranger.close()
    finally:
        db.execute(f"DROP ROLE {role}")


# Search


def test_a_search_finds_the_candidates_and_the_reranker_orders_them(
    docs: None, db: Connection, judging: Sidecar, judge: Judge
) -> None:
    nearest = ids(db, "SELECT (key->>'id')::int FROM pgmeaning.search('docs', 'x', 12)")
    found = ids(db, "SELECT (key->>'id')::int FROM pgmeaning.search('docs', 'x', 5, rerank => 12)")
    assert found == sorted(nearest, reverse=True)[:5]
    assert sorted(judge.batches[0]) == sorted(f"title {i} {{it's}}: {'x' * i}" for i in nearest)


def test_the_score_is_the_rerankers_and_the_rank_is_the_searchs(docs: None, db: Connection, judging: Sidecar) -> None:
    key, score, rank, distance = db.execute(
        "SELECT key, score, vector_rank, distance FROM pgmeaning.search('docs', 'x', 1, rerank => 30)"
    ).fetchall()[0]
    assert key == {"id": 30}
    assert score == pytest.approx(0.30)
    assert rank > 1
    assert distance > 0.1


def test_asking_to_rerank_fewer_than_are_returned_reranks_all(docs: None, db: Connection, judging: Sidecar) -> None:
    assert len(ids(db, "SELECT 1 FROM pgmeaning.search('docs', 'x', 8, rerank => 2)")) == 8


def test_the_typed_search_keeps_the_rerankers_order(docs: None, db: Connection, judging: Sidecar) -> None:
    typed = ids(db, "SELECT (hit).id FROM pgmeaning.search(NULL::docs, 'x', 4, filter => 'id < 20', rerank => 30)")
    assert typed == [19, 18, 17, 16]


def test_columns_without_a_template_are_judged_as_they_were_embedded(
    db: Connection, drain: Drain, judging: Sidecar, judge: Judge
) -> None:
    db.execute("CREATE TABLE notes (id int PRIMARY KEY, title text, body text)")
    db.execute("INSERT INTO notes VALUES (1, 'a', 'b'), (2, NULL, 'c')")
    db.execute("SELECT pgmeaning.attach('notes', '{title,body}')")
    db.execute("CALL pgmeaning.wait_for('notes')")
    db.execute("SELECT * FROM pgmeaning.search('notes', 'q', rerank => 5)")
    assert sorted(judge.batches[0]) == ["a\n\nb", "c"]


# From Python


def test_the_client_reranks_in_a_sidecar_in_one_round_trip(
    docs: None, dsn: str, judging: Sidecar, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgmeaning.client.client.loaded_reranker", None)
    with pgmeaning.connect(dsn) as client:
        statements: list[str] = []
        execute = client.connection.execute

        def counted(query: Any, *arguments: Any, **more: Any) -> Any:
            statements.append(str(query))
            return execute(query, *arguments, **more)

        monkeypatch.setattr(client.connection, "execute", counted)
        hits = client.search("docs", "x", k=2, rerank=30)
        assert len(statements) == 1
    assert [hit.key["id"] for hit in hits] == [30, 29]
    assert [hit.score for hit in hits] == pytest.approx([0.3, 0.29])
    assert hits[0].row == {"id": 30, "title": "title 30", "body": "x" * 30}
    assert hits[0].text == "title 30 {it's}: " + "x" * 30


def test_python_and_sql_judge_the_same_text(
    db: Connection, dsn: str, drain: Drain, judging: Sidecar, judge: Judge
) -> None:
    db.execute(
        "CREATE TABLE odd (id int PRIMARY KEY, yes bool, list text[], day timestamptz, raw bytea, letter char(5), "
        "price numeric, data jsonb, none text)"
    )
    db.execute(
        "INSERT INTO odd VALUES (1, true, '{a,NULL,\"b c\"}', '2024-01-02 03:04Z', '\\x01ff', 'q', 1.50, "
        "'{\"a\": [1, null]}', NULL)"
    )
    db.execute("SELECT pgmeaning.attach('odd', columns => '{yes,list,day,raw,letter,price,data,none}')")
    db.execute("CALL pgmeaning.wait_for('odd')")
    with pgmeaning.connect(dsn) as client:
        in_sidecar = client.search("odd", "x", rerank=5)
        texts = [batch[0] for batch in judge.batches]
        client.search("odd", "x", rerank=5, reranker=judge)
        db.execute("SELECT * FROM pgmeaning.search('odd', 'x', rerank => 5)")
    assert [batch[0] for batch in judge.batches] == texts * 3
    assert in_sidecar[0].text == texts[0]
    assert texts[0].startswith("true\n\n{a,NULL")


def test_a_loaded_reranker_judges_in_this_process(docs: None, dsn: str, judge: Judge) -> None:
    with pgmeaning.connect(dsn) as client:
        hits = client.search("docs", "x", k=2, rerank=30, reranker=judge, columns=["title"])
    assert [(hit.key["id"], hit.row) for hit in hits] == [(30, {"title": "title 30"}), (29, {"title": "title 29"})]
    assert judge.batches


def test_a_row_deleted_while_the_reranker_works_is_still_among_k(
    docs: None, db: Connection, dsn: str, judging: Sidecar, judge: Judge
) -> None:
    judge.opened.clear()
    found: list[Any] = []
    with pgmeaning.connect(dsn) as client:
        search = threading.Thread(target=lambda: found.extend(client.search("docs", "x", k=5, rerank=10)))
        search.start()
        assert judge.reached.wait(30)
        db.execute("DELETE FROM docs")
        judge.opened.set()
        search.join(30)
    assert len(found) == 5


def test_the_client_asks_without_a_loopback(
    docs: None, db: Connection, dsn: str, judging: Sidecar, judge: Judge
) -> None:
    db.execute("DROP EXTENSION dblink CASCADE")
    with pgmeaning.connect(dsn) as client:
        assert [len(hits) for hits in client.search_many("docs", ["new", "newer", "x"], k=2)] == [2, 2, 2]
        assert len(client.search("docs", "another", k=3)) == 3
        assert len(client.embed("a third", collection="docs")) == 384
        assert len(client.embed("a fourth", collection="docs", as_query=False)) == 384
        assert client.similarity("one text", "one text") == pytest.approx(1)
        hits = client.search("docs", "x", k=2, rerank=30)
        assert [hit.key["id"] for hit in hits] == [30, 29]
        assert [hit.score for hit in hits] == pytest.approx([0.3, 0.29])
        assert [hit.key["id"] for hit in client.search("docs", "xx", k=1, rerank=30)] == [30]
        with client.connection.transaction(), pytest.raises(DatabaseError, match="no dblink loopback"):
            client.search("docs", "in a transaction")


def test_the_command_line_searches_without_a_loopback(docs: None, db: Connection, dsn: str, judging: Sidecar) -> None:
    db.execute("DROP EXTENSION dblink CASCADE")
    assert len(json.loads(output("search", "docs", "a new query", "-k", "4", "--json", "--dsn", dsn))) == 4


def test_a_rerank_of_none_is_refused(docs: None, db: Connection) -> None:
    assert refused(db, "SELECT * FROM pgmeaning.search('docs', 'x', rerank => 0)").sqlstate == "PM014"
