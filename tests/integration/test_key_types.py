"""A key whose type is widened: the vectors follow, and nothing is embedded again."""

from __future__ import annotations

import pytest

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.test_attach import refused
from tests.integration.test_orphans import clock, embedded, is_up_to_date, state
from tests.types import Connection, Drain

# From a type to a wider one, and a key that only the wider one takes.
WIDENED = [
    ("smallint", "int", "100000"),
    ("int", "bigint", "10000000000"),
    ("int", "numeric", "0.5"),
    ("varchar(10)", "varchar(20)", "a key of 17 bytes"),
    ("varchar(10)", "text", "a key of more than 20 bytes"),
    ('text COLLATE "C"', "varchar", "another"),
    ("int", "text", "no number"),
]


def make(db: Connection, key: str, more: str = "") -> None:
    db.execute(f"CREATE TABLE docs (id {key} PRIMARY KEY, title text)".encode())
    db.execute(b"INSERT INTO docs SELECT i, 'title ' || i FROM generate_series(1, 51) AS i")
    db.execute(f"SELECT pgmeaning.attach('docs', columns => '{{title}}'{more})".encode())


def widen(db: Connection, key: str) -> None:
    db.execute(f"ALTER TABLE docs ALTER id TYPE {key}".encode())


@pytest.mark.parametrize(("old", "new", "key"), WIDENED)
def test_a_widened_key_costs_no_vector_and_its_new_keys_get_one(
    db: Connection, drain: Drain, old: str, new: str, key: str
) -> None:
    make(db, old, ", language => 'simple'")
    assert drain() == 0
    before = clock(db)
    widen(db, new)
    assert drain() == 0
    assert is_up_to_date(db)
    assert embedded(db, before) == []
    db.execute(
        "INSERT INTO docs VALUES (%s, 'new words'); DELETE FROM docs WHERE id = '1'".replace("%s", f"'{key}'").encode()
    )
    assert drain() == 0
    assert is_up_to_date(db)
    assert [str(found) for found in embedded(db, before)] == [key]
    assert db.execute("SELECT FROM pgmeaning_data.\"docs__synthetic-384\" WHERE words @@ 'words'").rowcount == 1
    types = db.execute("SELECT pg_typeof(d.id) = pg_typeof(e.id) FROM docs AS d JOIN docs_embedding AS e USING (id)")
    assert set(types.fetchall()) == {(True,)}
    assert db.execute("SELECT FROM pgmeaning.similar('docs', %s)", (f'"{key}"',)).rowcount == 10


def test_a_widened_key_is_followed_while_a_sidecar_runs_and_its_index_comes_back(db: Connection, dsn: str) -> None:
    make(db, "int")
    index = "SELECT FROM pg_indexes WHERE tablename = 'docs__synthetic-384' AND indexdef LIKE '%hnsw%'"
    with running(Sidecar(dsn, Settings(maintenance=0.1, index_rows=10))):
        wait_until(lambda: is_up_to_date(db) and db.execute(index.encode()).rowcount == 1)
        before = clock(db)
        widen(db, "bigint")
        db.execute("INSERT INTO docs VALUES (10000000000, 'new')")
        wait_until(lambda: is_up_to_date(db) and db.execute(index.encode()).rowcount == 1)
        assert embedded(db, before) == [10000000000]


def test_a_key_of_several_columns_is_followed_in_the_one_that_changed(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (tenant int, id int, title text, PRIMARY KEY (tenant, id))")
    db.execute("INSERT INTO docs SELECT 1, i, 'title ' || i FROM generate_series(1, 51) AS i")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{title}')")
    drain()
    before = clock(db)
    widen(db, "bigint")
    assert drain() == 0
    assert embedded(db, before) == []
    assert state(db) == ("ready", "")


def test_whoever_could_read_the_vectors_still_can_and_sees_no_more(db: Connection, drain: Drain) -> None:
    role = f"reader_{db.info.dbname}"
    db.execute(f"CREATE ROLE {role}".encode())
    try:
        make(db, "int")
        db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON docs USING (id <= 5)")
        db.execute(f'GRANT SELECT ON docs, docs_embedding, pgmeaning_data."docs__synthetic-384" TO {role}'.encode())
        drain()
        db.execute(
            "DROP POLICY few ON docs; ALTER TABLE docs ALTER id TYPE bigint; CREATE POLICY few ON docs USING (id <= 5)"
        )
        drain()
        db.execute(f"SET ROLE {role}".encode())
        assert db.execute("SELECT FROM docs_embedding").rowcount == 5
    finally:
        db.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_what_bars_the_vectors_from_following_is_told_and_they_follow_once_it_is_gone(db: Connection, dsn: str) -> None:
    make(db, "int")
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        wait_until(lambda: is_up_to_date(db))
        before = clock(db)
        db.execute("CREATE VIEW mine AS SELECT * FROM docs_embedding")
        widen(db, "bigint")
        wait_until(lambda: "view mine depends on view docs_embedding" in state(db)[1].replace("public.", ""))
        assert state(db)[0] == "broken"
        db.execute("DROP VIEW mine")
        wait_until(lambda: is_up_to_date(db))
        assert embedded(db, before) == []


def test_a_key_that_no_vector_can_follow_says_what_to_do(db: Connection, drain: Drain) -> None:
    make(db, "int")
    drain()
    db.execute("ALTER TABLE docs ALTER id TYPE uuid USING gen_random_uuid()")
    drain()
    assert state(db)[0] == "broken"
    assert "detach() it and attach() it again" in state(db)[1]
    refused(db, "SELECT pgmeaning.attach('docs', columns => '{title}')", "PM002")


def test_keys_that_do_not_fit_the_new_type_are_told(db: Connection, drain: Drain) -> None:
    """Those of rows that are gone and whose vectors are not."""
    make(db, "bigint")
    db.execute("INSERT INTO docs VALUES (10000000000, 'gone')")
    drain()
    db.execute(
        "SET session_replication_role = replica; DELETE FROM docs WHERE id > 100; RESET session_replication_role"
    )
    widen(db, "int")
    drain()
    assert "out of range" in state(db)[1]


def test_a_table_that_is_rebuilt_with_a_wider_key_keeps_its_vectors(db: Connection, drain: Drain) -> None:
    make(db, "int")
    drain()
    before = clock(db)
    db.execute(
        "BEGIN; CREATE TABLE docs2 (LIKE docs INCLUDING ALL); ALTER TABLE docs2 ALTER id TYPE bigint;"
        "INSERT INTO docs2 SELECT * FROM docs; DROP TABLE docs; ALTER TABLE docs2 RENAME TO docs; COMMIT"
    )
    drain()
    assert is_up_to_date(db)
    assert embedded(db, before) == []


SLOW = """
CREATE FUNCTION wait_for_the_test() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE current_setting('application_name') LIKE 'pgmeaning keys %' AND NOT pg_try_advisory_lock_shared(42) LOOP
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION wait_for_the_test();
SELECT pg_advisory_lock(42)
"""


def test_while_a_large_table_is_altered_a_sidecar_goes_on_with_everything_else(db: Connection, dsn: str) -> None:
    make(db, "int")
    db.execute("CREATE TABLE other (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('other', columns => '{body}')")
    with running(Sidecar(dsn, Settings(maintenance=0.1))):
        wait_until(lambda: is_up_to_date(db))
        db.execute(SLOW.encode())
        widen(db, "bigint")
        altering = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'pgmeaning keys %' AND state = 'active'"
        wait_until(lambda: db.execute(altering.encode()).rowcount == 1)
        db.execute("INSERT INTO other VALUES (1, 'one')")
        wait_until(lambda: db.execute("SELECT FROM other_embedding").rowcount == 1)
        for _ in range(2):
            beat = db.execute("SELECT heartbeat_at FROM pgmeaning.sidecar").fetchone()
            wait_until(lambda b=beat: db.execute("SELECT heartbeat_at FROM pgmeaning.sidecar").fetchone() != b)  # type: ignore[misc]
        assert "its vectors follow" in state(db)[1]
        db.execute("SELECT pg_advisory_unlock(42)")
        wait_until(lambda: is_up_to_date(db))
