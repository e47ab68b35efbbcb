"""Vectors that leave a database as Parquet, and those of them that another one takes up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pgvector.psycopg import register_vector
from pyarrow import parquet

import pgmeaning
from pgmeaning import Client, Imported
from pgmeaning.client import parquet as module
from pgmeaning.errors import CollectionError, DatabaseError, InputError
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.integration.embedders import Gate, Watched
from tests.integration.relations import content_hash, filled, random_vectors
from tests.integration.roles import Role
from tests.integration.test_chunks import embed_all, text_of
from tests.types import Connect, Connection

VECTORS = 'pgmeaning_data."docs__synthetic-384"'


@pytest.fixture
def client(dsn: str) -> Iterator[Client]:
    with pgmeaning.connect(dsn) as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "docs.parquet"


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 7)


def stored(db: Connection) -> dict[Any, Any]:
    rows = db.execute(f"SELECT id, chunk, embedding::text, content_hash, chunk_text FROM {VECTORS}".encode())
    return {row[:2]: row[2:] for row in rows}


def moved(db: Connection, more: str = "") -> None:
    """The same table, attached anew: as if it were another database's."""
    db.execute("SELECT pgmeaning.detach('docs')")
    db.execute(f"SELECT pgmeaning.attach('docs', ARRAY['body']{more})".encode())


def texts(count: int, change: dict[int, str] | None = None) -> list[str]:
    return [(change or {}).get(number, f"body {number}") for number in range(1, count + 1)]


def test_a_file_says_what_made_its_vectors(client: Client, db: Connection, file: Path) -> None:
    vectors = random_vectors(20)
    filled(db, "docs", vectors)
    assert client.export_vectors("docs", file) == 20
    table = parquet.read_table(file)
    known = json.loads(table.schema.metadata[b"pgmeaning"])
    assert (known["model"], known["dimensions"], known["template"]) == ("synthetic-384", 384, None)
    assert known["pgmeaning"] == pgmeaning.__version__
    assert db.execute("SELECT fingerprint FROM pgmeaning.model WHERE name = 'synthetic-384'").fetchone() == (
        known["fingerprint"],
    )
    assert table["key.id"].to_pylist() == list(range(1, 21))
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 384)
    assert np.stack(table["embedding"].to_numpy()) == pytest.approx(vectors, abs=1e-7)
    assert table["content_hash"].to_pylist() == [content_hash(text) for text in texts(20)]
    assert parquet.ParquetFile(file).num_row_groups == 3
    assert list(file.parent.iterdir()) == [file]


def test_what_comes_back_is_what_left_and_no_model_runs(client: Client, db: Connection, dsn: str, file: Path) -> None:
    filled(db, "docs", random_vectors(20))
    before = stored(db)
    client.export_vectors("docs", file)
    moved(db)
    assert client.import_vectors("docs", file) == Imported(20, 0, 0)
    assert stored(db) == before
    assert not embed_all(dsn).embedded
    assert client.import_vectors("docs", file) == Imported(0, 20, 0)


def test_rows_that_are_another_by_now_stay_owed(client: Client, db: Connection, dsn: str, file: Path) -> None:
    filled(db, "docs", random_vectors(20))
    client.export_vectors("docs", file)
    moved(db)
    db.execute("UPDATE docs SET body = 'changed' WHERE id = 3")
    db.execute("DELETE FROM docs WHERE id = 4")
    db.execute("INSERT INTO docs VALUES (21, 'new')")
    assert client.import_vectors("docs", file) == Imported(18, 0, 2)
    assert set(embed_all(dsn).embedded) == {"changed", "new"}
    assert {key for key, _ in stored(db)} == {*range(1, 22)} - {4}


def test_a_fresher_vector_is_never_replaced(client: Client, db: Connection, file: Path, dsn: str) -> None:
    filled(db, "docs", random_vectors(3))
    client.export_vectors("docs", file)
    db.execute("UPDATE docs SET body = 'changed' WHERE id = 3")
    embed_all(dsn)
    before = stored(db)
    assert client.import_vectors("docs", file) == Imported(0, 2, 1)
    assert stored(db) == before


def test_a_vector_that_a_sidecar_is_making_does_not_win(client: Client, db: Connection, dsn: str, file: Path) -> None:
    filled(db, "docs", random_vectors(3))
    before = stored(db)
    client.export_vectors("docs", file)
    moved(db)
    gate = Gate("body 2")
    watched = Watched(gate)
    with running(Sidecar(dsn, Settings(), load=watched.load)):
        gate.reached()
        assert client.import_vectors("docs", file) == Imported(3, 0, 0)
        gate._opened.set()
        client.wait_for("docs")
    assert stored(db) == before


def test_a_change_that_commits_meanwhile_is_owed(
    client: Client, db: Connection, connect: Connect, dsn: str, file: Path
) -> None:
    filled(db, "docs", random_vectors(3))
    client.export_vectors("docs", file)
    moved(db)
    writer = connect(autocommit=False)
    writer.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
    assert client.import_vectors("docs", file) == Imported(3, 0, 0)
    writer.commit()
    assert set(embed_all(dsn).embedded) == {"changed"}
    assert stored(db)[2, 0][1] == content_hash("changed")


def test_a_failed_row_is_redeemed(client: Client, db: Connection, file: Path) -> None:
    filled(db, "docs", random_vectors(3))
    client.export_vectors("docs", file)
    moved(db)
    db.execute(
        "INSERT INTO pgmeaning.queue (collection_id, model, key, failed_at) "
        "SELECT id, model, '{\"id\": 2}', now() FROM pgmeaning.collection"
    )
    assert client.import_vectors("docs", file) == Imported(3, 0, 0)
    assert client.failures() == []


def test_chunks_come_back_whole(client: Client, db: Connection, dsn: str, file: Path) -> None:
    cut = """, chunking => '{"method": "paragraphs", "size": 16}', language => 'simple'"""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'short ' || i FROM generate_series(1, 5) AS i")
    db.execute("INSERT INTO docs VALUES (6, %s), (7, %s)", (text_of("a", "b", "c"), text_of(*"defghijkl")))
    db.execute(f"SELECT pgmeaning.attach('docs', ARRAY['body']{cut})".encode())
    embed_all(dsn)
    before = stored(db)
    assert client.export_vectors("docs", file) == len(before) > 12
    moved(db, cut)
    assert client.import_vectors("docs", file) == Imported(7, 0, 0)
    assert stored(db) == before
    assert db.execute(f"SELECT count(*) FROM {VECTORS} WHERE words IS NULL".encode()).fetchone() == (0,)
    assert not embed_all(dsn).embedded


def test_half_precision_leaves_as_it_is_and_is_not_taken_for_more(client: Client, db: Connection, file: Path) -> None:
    filled(db, "docs", random_vectors(3), more=", vector_type => 'halfvec'")
    before = stored(db)
    client.export_vectors("docs", file)
    assert parquet.read_schema(file).field("embedding").type == pyarrow.list_(pyarrow.float16(), 384)
    moved(db, ", vector_type => 'halfvec'")
    assert client.import_vectors("docs", file) == Imported(3, 0, 0)
    assert stored(db) == before
    moved(db)
    with pytest.raises(InputError, match="half precision"):
        client.import_vectors("docs", file)


def test_another_model_another_length_and_another_template_are_refused(
    client: Client, db: Connection, file: Path
) -> None:
    filled(db, "docs", random_vectors(3))
    client.export_vectors("docs", file)
    for more in (", model => 'all-MiniLM-L6-v2'", ", model => 'synthetic-4096', dimensions => 384"):
        moved(db, more)
        with pytest.raises(InputError, match="cannot be compared"):
            client.import_vectors("docs", file)
    moved(db, ", template => 'Text: {body}'")
    with pytest.raises(InputError, match="template"):
        client.import_vectors("docs", file)
    assert client.status("docs")[0]["vectors"] == 0


def test_a_damaged_file_is_refused_and_takes_nothing(client: Client, db: Connection, file: Path) -> None:
    filled(db, "docs", random_vectors(3))
    client.export_vectors("docs", file)
    moved(db)
    whole = file.read_bytes()
    for place in (len(whole) // 2, len(whole) // 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(InputError):
            client.import_vectors("docs", file)
    file.write_bytes(whole[:-100])
    with pytest.raises(InputError):
        client.import_vectors("docs", file)
    file.write_text("not Parquet")
    with pytest.raises(InputError):
        client.import_vectors("docs", file)
    with pytest.raises(InputError):
        client.import_vectors("docs", file.with_name("nowhere"))
    assert client.status("docs")[0]["vectors"] == 0


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_vectors_that_are_none_are_refused(client: Client, db: Connection, file: Path, bad: float) -> None:
    filled(db, "docs", random_vectors(3))
    client.export_vectors("docs", file)
    table = parquet.read_table(file)
    numbers = np.full(3 * 384, bad, np.float32)
    place = table.schema.get_field_index("embedding")
    field = table.schema.field(place)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(numbers), 384)
    parquet.write_table(table.set_column(place, field, column), file)
    moved(db)
    with pytest.raises(InputError, match="damaged"):
        client.import_vectors("docs", file)


def test_a_file_of_somebody_else_is_refused(client: Client, db: Connection, file: Path) -> None:
    filled(db, "docs", random_vectors(3))
    parquet.write_table(pyarrow.table({"key": ["1"], "embedding": [[1.0]]}), file)
    with pytest.raises(InputError, match="not written by export_vectors"):
        client.import_vectors("docs", file)


def test_an_export_that_fails_leaves_no_file(client: Client, db: Connection, file: Path) -> None:
    filled(db, "docs", random_vectors(3))
    with pytest.raises(CollectionError):
        client.export_vectors("nope", file)
    db.execute(f"DROP TABLE {VECTORS} CASCADE".encode())
    with pytest.raises((DatabaseError, CollectionError)):
        client.export_vectors("docs", file)
    assert list(file.parent.iterdir()) == []


def test_an_empty_collection_is_an_empty_file(client: Client, db: Connection, file: Path) -> None:
    filled(db, "docs", random_vectors(0))
    assert client.export_vectors("docs", file) == 0
    assert client.import_vectors("docs", file) == Imported(0, 0, 0)


def test_a_reader_exports_what_it_may_read_and_imports_nothing(
    client: Client, db: Connection, dsn: str, role: Role, file: Path
) -> None:
    filled(db, "docs", random_vectors(30), more=f", grant_to => '{{{role.name}}}'")
    db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.execute("CREATE POLICY thirds ON docs USING (id % 3 = 0)")
    db.execute(f"GRANT SELECT ON docs TO {role.name}")
    register_vector(role.connection)
    reader = Client(role.connection)
    assert reader.export_vectors("docs", file) == 10
    assert parquet.read_table(file)["key.id"].to_pylist() == list(range(3, 31, 3))
    with pytest.raises(DatabaseError) as caught:
        reader.import_vectors("docs", file)
    assert caught.value.sqlstate == "PM011"


def test_a_transaction_that_sees_old_rows_is_refused(client: Client, db: Connection, file: Path) -> None:
    filled(db, "docs", random_vectors(3))
    client.export_vectors("docs", file)
    client.connection.execute("SET default_transaction_isolation = 'repeatable read'")
    with pytest.raises(DatabaseError, match="READ COMMITTED"):
        client.import_vectors("docs", file)
