"""What becomes of a source that is part of another table, computed, hidden, or changed after it was attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmeaning.database import migrate
from pgmeaning.errors import DatabaseError
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running, wait_until
from tests.integration.test_attach import refused
from tests.integration.test_orphans import clock, state
from tests.types import Connect, Connection, Drain


@pytest.fixture
def keys(db: Connection) -> Callable[[], set[object]]:
    """What the inbox has of keys, and forgets."""

    def _keys() -> set[object]:
        rows = db.execute("DELETE FROM pgmeaning.inbox RETURNING coalesce(key ->> 'id', note)").fetchall()
        return {key for (key,) in rows}

    return _keys


def problem(db: Connection) -> str:
    return str(db.execute("SELECT coalesce(problem, '') FROM pgmeaning.status").fetchall()[0][0])


def test_writes_through_the_table_that_an_attached_partition_is_part_of_are_seen(
    db: Connection, keys: Callable[[], set[object]]
) -> None:
    db.execute(
        "CREATE TABLE events (id int, month int, body text, PRIMARY KEY (month, id)) PARTITION BY LIST (month);"
        "CREATE TABLE january PARTITION OF events FOR VALUES IN (1)"
    )
    db.execute("SELECT pgmeaning.attach('january', columns => '{body}')")
    db.execute("INSERT INTO events VALUES (1, 1, 'above'); INSERT INTO january VALUES (2, 1, 'direct')")
    assert keys() == {"1", "2"}
    db.execute("UPDATE events SET body = 'changed' WHERE id = 2")
    assert keys() == {"2"}
    db.execute("TRUNCATE events")
    assert "truncate" in keys()
    db.execute("SELECT pgmeaning.detach('january'); INSERT INTO events VALUES (3, 1, 'unseen')")
    assert keys() == set()


def test_writes_through_the_parent_of_an_attached_child_are_seen(
    db: Connection, keys: Callable[[], set[object]]
) -> None:
    db.execute("CREATE TABLE base (id int PRIMARY KEY, body text)")
    db.execute("CREATE TABLE child (PRIMARY KEY (id), more text) INHERITS (base)")
    db.execute("SELECT pgmeaning.attach('child', columns => '{body,more}')")
    db.execute("INSERT INTO child VALUES (1, 'one', 'more')")
    assert keys() == {"1"}
    db.execute("UPDATE base SET body = 'changed'")
    assert keys() == {"1"}
    db.execute("DELETE FROM base")
    assert keys() == {"1"}


def test_a_table_that_becomes_a_partition_is_watched_through_the_whole(db: Connection, sidecar: Sidecar) -> None:
    db.execute("CREATE TABLE january (id int, month int, body text, PRIMARY KEY (month, id))")
    db.execute("SELECT pgmeaning.attach('january', columns => '{body}')")
    db.execute("CREATE TABLE events (LIKE january INCLUDING ALL) PARTITION BY LIST (month)")
    db.execute("ALTER TABLE events ATTACH PARTITION january FOR VALUES IN (1)")
    db.execute("INSERT INTO events VALUES (1, 1, 'above')")
    wait_until(lambda: db.execute("SELECT FROM january_embedding").rowcount == 1)


def test_a_partition_beside_a_foreign_one_is_refused(db: Connection) -> None:
    db.execute("CREATE EXTENSION IF NOT EXISTS postgres_fdw; CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw")
    db.execute(
        "CREATE TABLE events (id int, month int, body text) PARTITION BY LIST (month);"
        "CREATE TABLE january PARTITION OF events (PRIMARY KEY (id)) FOR VALUES IN (1);"
        "CREATE FOREIGN TABLE february PARTITION OF events FOR VALUES IN (2) SERVER elsewhere"
    )
    error = refused(db, "SELECT pgmeaning.attach('january', columns => '{body}')", "PM003")
    assert "also written through" in str(error)


def test_a_dropped_partition_takes_its_vectors_along(db: Connection, sidecar: Sidecar) -> None:
    db.execute(
        "CREATE TABLE events (id int, month int, body text, PRIMARY KEY (month, id)) PARTITION BY LIST (month);"
        "CREATE TABLE january PARTITION OF events FOR VALUES IN (1); CREATE TABLE others PARTITION OF events DEFAULT"
    )
    db.execute("INSERT INTO events VALUES (1, 1, 'one'), (2, 2, 'two')")
    db.execute("SELECT pgmeaning.attach('events', columns => '{body}')")
    wait_until(lambda: db.execute("SELECT FROM events_embedding").rowcount == 2)
    for _ in range(2):  # between two heartbeats it has looked at all sources
        beat = db.execute("SELECT heartbeat_at FROM pgmeaning.sidecar").fetchone()
        wait_until(lambda b=beat: db.execute("SELECT heartbeat_at FROM pgmeaning.sidecar").fetchone() != b)  # type: ignore[misc]
    db.execute("DROP TABLE january")
    wait_until(lambda: db.execute("SELECT FROM events_embedding").rowcount == 1)


def test_a_virtual_generated_column_is_embedded_and_updated(db: Connection, keys: Callable[[], set[object]]) -> None:
    if db.info.server_version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, loud text GENERATED ALWAYS AS (body || '!') VIRTUAL)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{loud}')")
    db.execute("INSERT INTO docs VALUES (1, 'one'), (2, 'two')")
    assert keys() == {"1", "2"}
    db.execute("UPDATE docs SET body = 'changed' WHERE id = 2")
    assert keys() == {"2"}


@pytest.mark.parametrize(
    "change",
    [
        "DROP CONSTRAINT docs_pkey",
        "DROP CONSTRAINT docs_pkey, ADD COLUMN other int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "DROP CONSTRAINT docs_pkey, ADD PRIMARY KEY (id, body)",
    ],
)
def test_a_key_that_is_no_longer_unique_breaks_the_collection_until_it_is_again(
    db: Connection, sidecar: Sidecar, change: str
) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db.execute(f"ALTER TABLE docs {change}".encode())
    wait_until(lambda: "no longer the primary key" in problem(db))
    db.execute("INSERT INTO docs VALUES (1, 'one')")
    db.execute("ALTER TABLE docs ADD UNIQUE (id)")
    wait_until(lambda: db.execute("SELECT FROM docs_embedding").rowcount == 1)
    wait_until(lambda: problem(db) == "")


def test_dropping_our_schema_takes_the_triggers_along(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db.execute("DROP SCHEMA pgmeaning CASCADE")
    db.execute("INSERT INTO docs VALUES (1, 'one'); UPDATE docs SET body = 'two'; DELETE FROM docs; TRUNCATE docs")


def test_more_columns_than_a_function_takes_are_refused(db: Connection) -> None:
    columns = [f"c{i}" for i in range(101)]
    db.execute(f"CREATE TABLE docs (id int PRIMARY KEY, {', '.join(f'{c} text' for c in columns)})".encode())
    refused(db, f"SELECT pgmeaning.attach('docs', columns => '{{{','.join(columns)}}}')", "PM004")
    db.execute(f"SELECT pgmeaning.attach('docs', columns => '{{{','.join(columns[:100])}}}')".encode())


# A role that owns pgmeaning, but neither is a superuser nor owns the tables


@pytest.fixture
def owner(empty_dsn: str) -> Iterator[str]:
    """The DSN of a role that owns the database and has been granted to attach the table docs of another role."""
    with superuser(empty_dsn) as db:
        name = f"owner_{db.info.dbname}"
        db.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'secret'; CREATE EXTENSION vector".encode())
        db.execute(f"ALTER DATABASE {db.info.dbname} OWNER TO {name}; GRANT CREATE ON SCHEMA public TO {name}".encode())
        owned = make_conninfo(empty_dsn, user=name, password="secret")
        migrate.upgrade(owned)
        db.execute(
            "SELECT pgmeaning.set_default_model('synthetic-384');"
            "CREATE TABLE docs (id int, month int, body text, PRIMARY KEY (month, id)) PARTITION BY LIST (month);"
            "CREATE TABLE january PARTITION OF docs FOR VALUES IN (1);"
            f"GRANT SELECT, TRIGGER ON docs, january TO {name}".encode()
        )
        try:
            yield owned
        finally:
            db.execute(f"ALTER DATABASE {db.info.dbname} OWNER TO CURRENT_USER".encode())
            db.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}".encode())


@pytest.fixture
def db_of(owner: str, empty_dsn: str) -> Iterator[Connection]:
    """A superuser's connection to the database of `owner`."""
    with superuser(empty_dsn) as db:
        yield db


def superuser(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn, autocommit=True)


def test_who_was_granted_to_attach_a_table_may_detach_it(db_of: Connection, owner: str) -> None:
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
        db_of.execute("INSERT INTO docs VALUES (1, 1, 'one')")
        connection.execute("SELECT pgmeaning.detach('docs')")
    db_of.execute("INSERT INTO docs VALUES (2, 1, 'two')")
    assert db_of.execute("SELECT count(*) FROM pgmeaning.status").fetchone() == (0,)


def test_a_new_partition_that_we_may_not_watch_is_told_and_watched_once_we_may(db_of: Connection, owner: str) -> None:
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db_of.execute("CREATE TABLE february PARTITION OF docs FOR VALUES IN (2)")
    role = owner_of(owner)
    with running(Sidecar(owner, Settings(maintenance=0.1))):
        wait_until(lambda: "may not create a trigger on public.february" in problem(db_of))
        db_of.execute(f"GRANT TRIGGER ON february TO {role}".encode())
        wait_until(lambda: problem(db_of) == "")
        wait_until(lambda: db_of.execute("SELECT FROM pg_trigger WHERE tgrelid = 'february'::regclass").rowcount == 4)
        db_of.execute("INSERT INTO february VALUES (1, 2, 'seen')")
        wait_until(lambda: db_of.execute("SELECT FROM docs_embedding").rowcount == 1)


def test_rows_that_policies_hide_from_the_sidecar_keep_their_vectors_and_are_told(
    db_of: Connection, owner: str
) -> None:
    db_of.execute("INSERT INTO docs VALUES (1, 1, 'one')")
    role = owner_of(owner)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    with running(Sidecar(owner, Settings(maintenance=0.1))):
        wait_until(lambda: db_of.execute("SELECT FROM docs_embedding").rowcount == 1)
        db_of.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        wait_until(lambda: "row-level security hides rows" in problem(db_of))
        db_of.execute("SELECT pgmeaning.refresh('docs')")
        wait_until(lambda: db_of.execute("SELECT FROM pgmeaning._unfolded").rowcount == 0)
        assert db_of.execute("SELECT FROM docs_embedding").rowcount == 1
        db_of.execute(f"CREATE POLICY pgmeaning ON docs FOR SELECT TO {role} USING (true)".encode())
        wait_until(lambda: problem(db_of) == "")


@pytest.mark.parametrize("owed", ["SELECT pgmeaning.refresh('docs')", "UPDATE docs SET body = 'changed'"])
def test_rows_hidden_between_two_looks_at_the_sources_keep_their_vectors(
    db_of: Connection, owner: str, owed: str
) -> None:
    db_of.execute("INSERT INTO docs VALUES (1, 1, 'one')")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    with running(Sidecar(owner, Settings(maintenance=30))):
        wait_until(lambda: db_of.execute("SELECT FROM docs_embedding").rowcount == 1)
        with db_of.transaction():
            db_of.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
            db_of.execute(owed.encode())
        wait_until(lambda: "row-level security hides rows" in problem(db_of))
        assert db_of.execute("SELECT FROM docs_embedding").rowcount == 1


def test_a_table_that_came_back_without_its_grants_is_taken_up_once_they_are_given(
    db_of: Connection, owner: str
) -> None:
    made = (
        "CREATE TABLE docs (id int, month int, body text, PRIMARY KEY (month, id));"
        "INSERT INTO docs SELECT i, 1, 'body ' || i FROM generate_series(1, 51) AS i"
    )
    role = owner_of(owner)
    db_of.execute("DROP TABLE docs")
    db_of.execute(f"{made}; GRANT SELECT, TRIGGER ON docs TO {role}".encode())
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    with running(Sidecar(owner, Settings(maintenance=0.1))):
        wait_until(lambda: db_of.execute("SELECT FROM docs_embedding").rowcount == 51)
        before = clock(db_of)
        db_of.execute("DROP VIEW docs_embedding; DROP TABLE docs")
        db_of.execute(f"{made}; REVOKE CREATE ON SCHEMA public FROM {role}".encode())
        wait_until(lambda: "may not read column" in state(db_of)[1])
        assert state(db_of)[0] == "orphaned"
        db_of.execute(f"GRANT SELECT, TRIGGER ON docs TO {role}".encode())
        wait_until(lambda: state(db_of) == ("ready", ""))
        db_of.execute("UPDATE docs SET body = 'changed' WHERE id = 7")
        vectors_since = 'SELECT id FROM pgmeaning_data."docs__synthetic-384" WHERE embedded_at > %s'
        wait_until(lambda: db_of.execute(vectors_since, (before,)).fetchall() == [(7,)])


def test_a_drain_of_a_table_that_row_security_hides_ends_and_names_it(db_of: Connection, owner: str) -> None:
    db_of.execute("INSERT INTO docs VALUES (1, 1, 'one')")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db_of.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    assert Sidecar(owner).run(drain=True) == 1
    assert "row-level security hides rows" in problem(db_of)


def test_a_source_that_is_no_longer_readable_stays_broken(db_of: Connection, owner: str) -> None:
    role = owner_of(owner)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db_of.execute(f"REVOKE SELECT ON docs FROM {role}".encode())
    with running(Sidecar(owner, Settings(maintenance=0.1))):
        wait_until(lambda: "may not read column" in problem(db_of))


def test_nobody_is_told_to_grant_a_superuser(db: Connection) -> None:
    name = f"plain_{db.info.dbname}"
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute(f"CREATE ROLE {name}; GRANT SELECT, TRIGGER ON docs TO {name}; SET ROLE {name}".encode())
    try:
        hint = refused(db, "SELECT pgmeaning.attach('docs', columns => '{body}')", "PM011").diag.message_hint
        assert "GRANT" not in str(hint)
        for statement in ("pause('docs')", "resume('docs')", "refresh('docs')", "retry('docs')", "detach('docs')"):
            db.execute("RESET ROLE")
            if not db.execute("SELECT FROM pgmeaning.collection").rowcount:
                db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
            db.execute(f"SET ROLE {name}".encode())
            assert "may not manage" in str(refused(db, f"SELECT pgmeaning.{statement}", "PM011"))
    finally:
        db.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}".encode())


def owner_of(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["user"])


def test_vectors_that_have_nowhere_to_go_are_failures_and_not_made_over_and_over(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db.execute('ALTER TABLE pgmeaning_data."docs__synthetic-384" ADD CHECK (chunk < 0) NOT VALID')
    assert drain(attempts=2, backoff=0.01) == 1
    assert "cannot be written" in str(db.execute("SELECT error FROM pgmeaning.failures").fetchall())


def test_a_column_that_becomes_virtual_is_noticed(
    db: Connection, sidecar: Sidecar, keys: Callable[[], set[object]]
) -> None:
    if db.info.server_version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, body text); INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db.execute("ALTER TABLE docs DROP body, ADD body text GENERATED ALWAYS AS (title || '!') VIRTUAL")
    wait_until(
        lambda: db.execute("SELECT FROM pg_proc WHERE proname = 'on_change_1' AND prosrc LIKE '%ROW(1)%'").rowcount
    )
    db.execute("UPDATE docs SET title = 'two'")
    wait_until(lambda: db.execute("SELECT FROM docs_embedding").rowcount == 1)


def test_every_row_is_scanned_in_the_order_of_a_key_that_an_extension_sorts(db: Connection, drain: Drain) -> None:
    db.execute("CREATE EXTENSION citext; CREATE TABLE docs (tenant int, email citext, PRIMARY KEY (tenant, email))")
    db.execute(
        "INSERT INTO docs SELECT i % 2, chr(CASE WHEN i % 4 > 1 THEN 97 ELSE 65 END + i % 26) || i "
        "FROM generate_series(1, 300) AS i"
    )
    db.execute("SELECT pgmeaning.attach('docs', columns => '{email}')")
    assert drain(claim_rows=16, batch_rows=16) == 0
    assert db.execute("SELECT FROM docs_embedding").rowcount == 300


def test_a_text_too_long_for_jsonb_still_has_a_hash(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, repeat('x', 268435456))")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    # Asked directly: to embed 256 MB takes minutes.
    (expression,) = db.execute("SELECT pgmeaning._content_hash('s', c) FROM pgmeaning.collection AS c").fetchall()[0]
    assert db.execute(f"SELECT {expression} IS NOT NULL FROM docs AS s".encode()).fetchone() == (True,)


def test_a_drain_after_a_repair_finds_the_collection_whole(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}'); ALTER TABLE docs RENAME body TO other")
    assert drain() == 1
    db.execute("ALTER TABLE docs RENAME other TO body")
    assert drain() == 0
    assert db.execute("SELECT FROM docs_embedding").rowcount == 1


def test_the_status_waits_for_nobody_who_has_locked_a_table(db: Connection, connect: Connect) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    with connect(autocommit=False) as other:
        other.execute("TRUNCATE docs")
        db.execute("SET statement_timeout = '10s'")
        assert db.execute("SELECT * FROM pgmeaning.status").rowcount == 1
        other.rollback()


def test_nothing_is_claimed_once_pause_has_returned(db: Connection, sidecar: Sidecar) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    wait_until(lambda: db.execute("SELECT FROM docs_embedding").rowcount == 1)
    for _ in range(5):
        db.execute("SELECT pgmeaning.pause('docs')")
        db.execute("UPDATE docs SET body = body || '!'")
        wait_until(lambda: db.execute("SELECT FROM pgmeaning.queue").rowcount == 1)
        assert db.execute("SELECT FROM pgmeaning.queue WHERE claimed_by IS NOT NULL").rowcount == 0
        db.execute("SELECT pgmeaning.resume('docs')")
        wait_until(lambda: db.execute("SELECT FROM pgmeaning.queue").rowcount == 0)


@pytest.mark.parametrize(("state", "words"), [("paused", "It is paused"), ("broken", "It is broken")])
def test_waiting_for_what_cannot_come_says_why(db: Connection, sidecar: Sidecar, state: str, words: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    db.execute("CALL pgmeaning.wait_for('docs')")
    if state == "paused":
        db.execute("SELECT pgmeaning.pause('docs'); INSERT INTO docs VALUES (1, 'one')")
    else:
        db.execute("INSERT INTO docs VALUES (1, 'one'); ALTER TABLE docs RENAME body TO other; UPDATE docs SET id = 2")
        wait_until(lambda: problem(db) != "")
    with pytest.raises(psycopg.Error) as raised:
        db.execute("CALL pgmeaning.wait_for('docs', timeout => '0.3 seconds')")
    assert words in str(raised.value.diag.message_detail)


def test_an_interrupted_drain_does_not_end_well(db: Connection, dsn: str) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 5000) AS i")
    db.execute("SELECT pgmeaning.attach('docs', columns => '{body}')")
    sidecar = Sidecar(dsn, Settings(claim_rows=16, batch_rows=16))
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(sidecar.run, drain=True)
        wait_until(lambda: db.execute("SELECT FROM docs_embedding").rowcount > 0)
        sidecar.stop()
        assert status.result(30) == 1
    assert Sidecar(dsn).run(drain=True) == 0


def test_a_role_without_rights_is_told_who_runs_a_sidecar(db: Connection, dsn: str) -> None:
    name = f"plain_{db.info.dbname}"
    db.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'".encode())
    try:
        with pytest.raises(DatabaseError, match="may not run a sidecar") as raised:
            Sidecar(make_conninfo(dsn, user=name, password="secret")).run(drain=True)
        assert "owner of schema pgmeaning" in str(raised.value.hint)
    finally:
        db.execute(f"DROP ROLE {name}".encode())
