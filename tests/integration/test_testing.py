"""`pgmeaning.testing`: rows and queries embedded in a test's own transaction, and the fixtures in a user's project."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgmeaning.errors import ArgumentError, CollectionError
from pgmeaning.testing import embed_now
from tests.types import Connect, Connection, Drain

pytest_plugins = ["pytester"]


class Base(DeclarativeBase):
    """Of the one entity."""


class Doc(Base):
    """A row of docs."""

    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]


@pytest.fixture
def docs(db: Connection) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text)")
    db.execute("INSERT INTO docs VALUES (1, 'red bike'), (2, 'cup')")
    db.execute("SELECT pgmeaning.attach('docs', '{title}')")


def found(connection: psycopg.Connection[Any], query: str = "red bike") -> list[Any]:
    return [
        tuple(row)
        for row in connection.execute(
            "SELECT key ->> 'id', round(distance::numeric, 3) FROM pgmeaning.search('docs', %s, k => 1)", [query]
        ).fetchall()
    ]


def test_rows_and_queries_are_embedded_in_the_transaction_and_a_rollback_takes_them_back(
    db: Connection, connect: Connect, docs: None
) -> None:
    connection = connect(autocommit=False)
    connection.execute("INSERT INTO docs VALUES (3, 'green boat')")
    assert embed_now(connection, queries=["green boat"]) == 3
    assert found(connection, "green boat") == [("3", 0)]
    state = connection.execute("SELECT state, vectors, owed FROM pgmeaning.status").fetchone()
    assert state == ("ready", 3, 0)
    connection.rollback()
    left = db.execute("SELECT vectors, (SELECT count(*) FROM pgmeaning.query_cache) FROM pgmeaning.status").fetchone()
    assert left == (0, 0)


def test_what_changed_and_was_removed_follows_and_nothing_is_done_twice(connect: Connect, docs: None) -> None:
    connection = connect(autocommit=False)
    assert embed_now(connection) == 2
    assert embed_now(connection) == 0
    connection.execute("UPDATE docs SET title = 'red bike' WHERE id = 2")
    connection.execute("DELETE FROM docs WHERE id = 1")
    assert embed_now(connection, queries=["red bike"]) == 2
    assert found(connection) == [("2", 0)]


def test_a_sidecar_finds_what_was_committed_as_it_would_have_made_it(
    db: Connection, connect: Connect, docs: None, drain: Drain
) -> None:
    connection = connect(autocommit=False)
    embed_now(connection, "docs")
    connection.commit()
    made = db.execute("SELECT * FROM docs_embedding ORDER BY id").fetchall()
    db.execute("SELECT pgmeaning.refresh('docs')")
    assert drain() == 0
    assert db.execute("SELECT * FROM docs_embedding ORDER BY id").fetchall() == made


def test_long_rows_are_cut_and_their_chunks_embedded(db: Connection, connect: Connect) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text)")
    db.execute("INSERT INTO docs VALUES (1, repeat('some words of a paragraph' || chr(10) || chr(10), 200))")
    db.execute("""SELECT pgmeaning.attach('docs', '{title}', chunking => '{"method": "paragraphs", "size": 16}')""")
    connection = connect(autocommit=False)
    embed_now(connection)
    chunks = connection.execute("SELECT count(*) FROM docs_embedding").fetchone()
    assert chunks is not None
    assert chunks[0] > 1


def test_the_callers_settings_and_rows_stay_as_they_are(dsn: str, docs: None) -> None:
    with psycopg.connect(dsn, row_factory=dict_row, options="-c timezone=Asia/Tokyo -c search_path=public") as own:
        assert embed_now(own) == 2
        assert own.execute("SELECT current_setting('timezone') AS zone, count(*) AS n FROM docs").fetchone() == {
            "zone": "Asia/Tokyo", "n": 2,
        }  # fmt: skip


def test_an_autocommit_connection_is_embedded_for_good(db: Connection, docs: None) -> None:
    assert embed_now(db, queries=["red bike"]) == 2
    assert found(db) == [("1", 0)]
    assert db.execute("SHOW search_path").fetchone() != ("pg_catalog",)


def test_a_session_of_sqlalchemys_is_flushed_and_embedded(dsn: str, docs: None) -> None:
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with Session(engine) as session:
        session.add(Doc(id=7, title="blue boat"))
        assert embed_now(session, queries=["blue boat"]) == 3
        statement = sqlalchemy.text("SELECT key ->> 'id' FROM pgmeaning.search('docs', 'blue boat', k => 1)")
        assert session.execute(statement).scalar() == "7"
        session.rollback()
    engine.dispose()


def test_what_cannot_be_used_is_refused_in_words(db: Connection, docs: None) -> None:
    with pytest.raises(CollectionError, match="there is no collection 'nope'"):
        embed_now(db, "nope")
    with pytest.raises(ArgumentError, match="a list: queries="):
        embed_now(db, queries="red bike")
    with pytest.raises(ArgumentError, match="a dict is no connection"):
        embed_now({})


PROJECT = """
    import psycopg
    import pytest
    from pgmeaning.testing import embed_now

    @pytest.fixture(scope="session")
    def pgmeaning_prepare():
        def prepare(dsn):
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("CREATE TABLE docs (id int PRIMARY KEY, title text)")
                connection.execute("SELECT pgmeaning.attach('docs', '{title}')")
        return prepare

    SEARCH = "SELECT key ->> 'id' FROM pgmeaning.search('docs', 'red bike', k => 1, timeout => '30 s')"

    @pytest.mark.parametrize("number", [1, 2])
    def test_finds_what_it_wrote(pgmeaning_connection, number):
        assert pgmeaning_connection.execute("SELECT count(*) FROM docs").fetchone() == (0,)
        pgmeaning_connection.execute("INSERT INTO docs VALUES (%s, 'red bike')", [number])
        embed_now(pgmeaning_connection, queries=["red bike"])
        assert pgmeaning_connection.execute(SEARCH).fetchone() == (str(number),)

    def test_commits(pgmeaning_dsn, pgmeaning_sidecar):
        with psycopg.connect(pgmeaning_dsn, autocommit=True) as connection:
            connection.execute("INSERT INTO docs VALUES (9, 'red bike')")
            connection.execute("CALL pgmeaning.wait_for('docs')")
            assert connection.execute(SEARCH).fetchone() == ("9",)

    def test_model(pgmeaning_model):
        assert pgmeaning_model == "synthetic-4096"
"""


def test_a_users_project_gets_a_database_and_finds_what_its_tests_wrote(
    pytester: pytest.Pytester, server_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGMEANING_TEST_DSN", server_dsn)
    pytester.makeini("[pytest]\npgmeaning_model = synthetic-4096\n")
    pytester.makepyfile(PROJECT)
    plugin = () if "pgmeaning" in _entry_points() else ("-p", "pgmeaning.testing.plugin")
    pytester.runpytest_subprocess(*plugin).assert_outcomes(passed=4)


def _entry_points() -> set[str]:
    from importlib.metadata import entry_points

    return {each.name for each in entry_points(group="pytest11")}


def test_without_a_servers_dsn_the_embedded_one_is_started_and_leaves_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGMEANING_TEST_DSN", raising=False)
    pytester.makepyfile(
        """
        import psycopg

        def test_server(pgmeaning_server):
            with psycopg.connect(pgmeaning_server) as connection:
                assert connection.execute("SHOW fsync").fetchone() == ("off",)
        """
    )
    plugin = () if "pgmeaning" in _entry_points() else ("-p", "pgmeaning.testing.plugin")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # another account runs the server for root
        monkeypatch.setenv("TMPDIR", folder)
        pytester.runpytest_subprocess(*plugin, "--basetemp", str(pytester.path / "base")).assert_outcomes(passed=1)
        assert list(Path(folder).iterdir()) == []
