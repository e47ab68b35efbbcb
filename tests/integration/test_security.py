"""Rights: callers see what they may see, and what runs as its owner is not to be led astray."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgmeaning.sidecar.process import Sidecar
from tests.integration.docs import Docs, cache
from tests.integration.roles import Role
from tests.types import Connection, Drain

# Ten rows, of which the role may read the even ones where row security is on.
DOCS = Docs(
    columns="id int PRIMARY KEY, body text, lang text DEFAULT 'en'",
    rows="SELECT i, 'body ' || i FROM generate_series(1, 10) AS i",
)


def attach(db: Connection, drain: Drain, role: Role | None = None) -> None:
    grant = f", grant_to => '{{{role.name}}}'" if role else ""
    db.execute(f"SELECT pgmeaning.attach('docs', '{{body}}'{grant})")
    if role:
        db.execute(f"GRANT SELECT ON docs TO {role.name}")
    cache(db, "q")
    assert drain() == 0


def hide_odd_rows(db: Connection) -> None:
    db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.execute("CREATE POLICY even ON docs USING (id % 2 = 0)")


EVERY_WAY = [
    "SELECT (key->>'id')::int FROM pgmeaning.search('docs', 'q', 100, mode => 'exact')",
    "SELECT (key->>'id')::int FROM pgmeaning.search('docs', 'q', 100, mode => 'signature')",
    "SELECT (key->>'id')::int FROM pgmeaning.search('docs', 'q', 100, filter => 'lang = ''en'' OR true')",
    "SELECT (hit).id FROM pgmeaning.search(NULL::docs, 'q', 100)",
    "SELECT (key->>'id')::int FROM pgmeaning.nearest('docs', pgmeaning.embed('q'), 100)",
    "SELECT id FROM docs_embedding",
    "SELECT id FROM docs_embedding ORDER BY embedding <=> (SELECT pgmeaning.embed('q'))",
    'SELECT id FROM pgmeaning_data."docs__synthetic-384"',
]


# Grants


def test_without_grants_every_way_is_refused_with_what_to_do(
    docs: None, db: Connection, drain: Drain, role: Role
) -> None:
    attach(db, drain)
    db.execute(f"GRANT SELECT ON docs TO {role.name}")
    for statement in EVERY_WAY:
        error = role.refusal(statement)
        assert error.sqlstate in ("PM011", "42501"), statement
        assert error.sqlstate == "42501" or "GRANT SELECT ON" in str(error.diag.message_hint)


def test_vectors_without_the_source_find_nothing(docs: None, db: Connection, drain: Drain, role: Role) -> None:
    attach(db, drain, role)
    db.execute(f"REVOKE SELECT ON docs FROM {role.name}")
    for statement in EVERY_WAY:
        assert role.refusal(statement).sqlstate in ("PM011", "42501"), statement


def test_grant_to_is_enough_for_every_way(docs: None, db: Connection, drain: Drain, role: Role) -> None:
    attach(db, drain, role)
    for statement in EVERY_WAY:
        assert role.ids(statement) == list(range(1, 11)), statement


def test_a_reader_may_ask_the_sidecar_and_wait_for_it(
    docs: None, db: Connection, drain: Drain, role: Role, sidecar: Sidecar
) -> None:
    attach(db, drain, role)
    assert role.rows("SELECT count(*) FROM pgmeaning.search('docs', 'a new question')") == [(10,)]
    role.connection.execute("CALL pgmeaning.prepare('another question')")
    role.connection.execute("CALL pgmeaning.wait_for('docs')")
    assert role.rows("SELECT state, source_rows FROM pgmeaning.status") == [("ready", 10)]


def test_a_reader_reads_no_table_that_holds_keys_or_questions(
    docs: None, db: Connection, drain: Drain, role: Role
) -> None:
    attach(db, drain, role)
    for table in ("queue", "inbox", "bulk_inbox", "_unfolded", "request", "query_cache", "sidecar", "failures"):
        assert "permission denied" in str(role.refusal(f"SELECT * FROM pgmeaning.{table}")), table
        if table not in ("failures", "_unfolded"):
            assert "permission denied" in str(role.refusal(f"DELETE FROM pgmeaning.{table}")), table
    for table in ("model", "collection", "target", "release", "installation"):
        assert "permission denied" in str(role.refusal(f"DELETE FROM pgmeaning.{table}")), table


def test_a_reader_changes_no_collection(docs: None, db: Connection, drain: Drain, role: Role) -> None:
    attach(db, drain, role)
    role.connection.execute("CREATE TEMP TABLE own (id int PRIMARY KEY)")
    for call in (
        "attach('docs', '{lang}', collection => 'mine')",
        "detach('docs')",
        "pause('docs')",
        "resume('docs')",
        "refresh('docs')",
        "retry('docs')",
        "set_default_model('synthetic-4096')",
        "deprecate_model('synthetic-4096')",
    ):
        error = role.refusal(f"SELECT pgmeaning.{call}")
        assert error.sqlstate in ("42501", "PM011"), call
    assert db.execute("SELECT name, state FROM pgmeaning.collection").fetchall() == [("docs", "active")]


# Row security


@pytest.mark.parametrize("when", ["before attach", "after attach"])
def test_whoever_may_read_half_the_rows_finds_that_half(
    docs: None, db: Connection, drain: Drain, role: Role, when: str
) -> None:
    if when == "before attach":
        hide_odd_rows(db)
    attach(db, drain, role)
    if when == "after attach":
        hide_odd_rows(db)
    for statement in EVERY_WAY:
        assert role.ids(statement) == [2, 4, 6, 8, 10], statement
    assert role.rows("SELECT count(*) FROM docs_embedding") == [(5,)]
    assert role.ids("SELECT (key->>'id')::int FROM pgmeaning.similar('docs', '2', 100)") == [4, 6, 8, 10]
    assert db.execute("SELECT count(*) FROM docs_embedding").fetchone() == (10,), "the owner sees all"


def test_similar_to_a_hidden_row_is_as_similar_to_none(docs: None, db: Connection, drain: Drain, role: Role) -> None:
    hide_odd_rows(db)
    attach(db, drain, role)
    hidden, missing = (role.refusal(f"SELECT * FROM pgmeaning.similar('docs', '{key}')") for key in (1, 99))
    assert str(hidden).replace('{"id": 1}', "") == str(missing).replace('{"id": 99}', "")
    assert hidden.sqlstate == "PM014"


def test_forced_row_security_binds_the_owner_too(docs: None, db: Connection, drain: Drain, role: Role) -> None:
    attach(db, drain, role)
    hide_odd_rows(db)
    db.execute("ALTER TABLE docs FORCE ROW LEVEL SECURITY")
    db.execute(f"GRANT CREATE ON SCHEMA public TO {role.name}")
    db.execute(f"ALTER TABLE docs OWNER TO {role.name}")
    for statement in EVERY_WAY:
        assert role.ids(statement) == [2, 4, 6, 8, 10], statement


def test_row_security_switched_off_by_the_reader_opens_nothing(
    docs: None, db: Connection, drain: Drain, role: Role
) -> None:
    attach(db, drain, role)
    hide_odd_rows(db)
    role.connection.execute("SET row_security = off")
    for statement in EVERY_WAY:
        assert role.refusal(statement).sqlstate == "42501", statement


@pytest.mark.parametrize("change", ["ALTER TABLE docs RENAME TO papers", "ALTER TABLE docs SET SCHEMA other"])
def test_row_security_follows_a_source_that_moved(
    docs: None, db: Connection, drain: Drain, role: Role, change: str
) -> None:
    hide_odd_rows(db)
    attach(db, drain, role)
    db.execute("CREATE SCHEMA other")
    db.execute(f"GRANT USAGE ON SCHEMA other TO {role.name}")
    db.execute(change)
    # Somebody else's table of the old name tells nothing about the rows.
    db.execute("CREATE TABLE docs (id int PRIMARY KEY)")
    db.execute("INSERT INTO docs SELECT generate_series(1, 10)")
    db.execute(f"GRANT SELECT ON docs TO {role.name}")
    for statement in EVERY_WAY:
        if "NULL::docs" not in statement:
            assert role.ids(statement) == [2, 4, 6, 8, 10], statement


def test_a_leaky_condition_does_not_see_hidden_rows(docs: None, db: Connection, drain: Drain, role: Role) -> None:
    hide_odd_rows(db)
    attach(db, drain, role)
    db.execute(f"GRANT CREATE ON SCHEMA public TO {role.name}")
    role.connection.execute(
        "CREATE FUNCTION leak(int) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS "
        "$$ BEGIN IF $1 % 2 = 1 THEN RAISE 'saw %', $1; END IF; RETURN true; END $$"
    )
    role.connection.execute("SELECT * FROM pgmeaning.search('docs', 'q', filter => 'public.leak(id)')")
    role.connection.execute("SELECT * FROM docs_embedding WHERE leak(id)")
    role.connection.execute('SELECT * FROM pgmeaning_data."docs__synthetic-384" WHERE leak(id)')


# Running as somebody else


def spy(role: Role, db: Connection) -> None:
    """A function of the role's that tells who runs it."""
    db.execute(f"GRANT CREATE ON SCHEMA public TO {role.name}")
    role.connection.execute("CREATE TABLE caught (who text)")
    role.connection.execute("GRANT INSERT ON caught TO PUBLIC")
    role.connection.execute(
        "CREATE FUNCTION spy() RETURNS bool LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END $$"
    )


def test_a_filter_runs_with_its_callers_rights(docs: None, db: Connection, drain: Drain, role: Role) -> None:
    attach(db, drain, role)
    spy(role, db)
    role.connection.execute(
        "CREATE FUNCTION see() RETURNS bool LANGUAGE plpgsql STABLE AS "
        "$$ BEGIN RETURN current_user = session_user; END $$"
    )
    assert role.rows("SELECT count(*) FROM pgmeaning.search('docs', 'q', filter => 'public.see()')") == [(10,)]
    assert "permission denied" in str(
        role.refusal("SELECT * FROM pgmeaning.search('docs', 'q', filter => 'EXISTS (SELECT FROM pgmeaning.queue)')")
    )


def test_a_view_of_the_callers_is_not_counted_as_the_owner(db: Connection, role: Role) -> None:
    spy(role, db)  # what is named private is within a caller's reach all the same
    role.connection.execute("CREATE VIEW trap AS SELECT 1 WHERE spy()")
    assert role.rows("SELECT pgmeaning._row_count('trap')") == [(None,)]
    assert role.rows("SELECT pgmeaning._row_count('pgmeaning.queue')") == [(None,)]
    assert db.execute("SELECT * FROM caught").fetchall() == []


def test_functions_of_the_callers_schemas_are_not_run_as_the_owner(
    docs: None, db: Connection, drain: Drain, role: Role, sidecar: Sidecar
) -> None:
    attach(db, drain, role)
    spy(role, db)
    # Each fits a call better than the system's own, which takes "any", text or a wider number.
    for signature in (
        "format(text, text)",
        "format(text, bigint)",
        "format(text, regclass)",
        "format(text, name)",
        "sha256(text)",
        "convert_to(text, text)",
        "set_config(text, text, bool)",
        "pg_sleep(numeric)",
        "concat_ws(text, text, text)",
    ):
        kind = "bytea" if "sha" in signature or "convert" in signature else "text"
        role.connection.execute(
            f"CREATE FUNCTION public.{signature} RETURNS {kind} LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM public.spy(); RETURN ''; END $$"
        )
    for left, right in (
        ("text", "name"),
        ("name", "text"),
        ("varchar", "varchar"),
        ("bigint", "numeric"),
        ("text", "varchar"),
    ):
        role.connection.execute(
            f"CREATE FUNCTION public.same(a {left}, b {right}) RETURNS bool LANGUAGE sql AS $$ SELECT public.spy() $$"
        )
        role.connection.execute(
            f"CREATE OPERATOR public.= (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.same)"
        )
    role.connection.execute("CREATE TEMP TABLE collection (id int)")
    role.connection.execute("SET search_path = pg_temp, public, pg_catalog")
    for statement in (
        "SELECT pgmeaning.embed('asked')",
        "SELECT * FROM pgmeaning.status",
        "CALL pgmeaning.wait_for('docs')",
        "CALL pgmeaning.prepare('prepared')",
        "INSERT INTO public.docs VALUES (11, 'eleven')",
    ):
        db.execute(f"GRANT INSERT ON docs TO {role.name}")
        role.connection.execute(statement)
    db.execute("CALL pgmeaning.wait_for('docs')")
    everyone = {who for (who,) in db.execute("SELECT who FROM public.caught").fetchall()}
    assert everyone <= {role.name}


def test_an_equality_that_anybody_can_make_is_not_used_for_keys(db: Connection, drain: Drain, role: Role) -> None:
    spy(role, db)
    role.connection.execute(
        "CREATE FUNCTION same(varchar, varchar) RETURNS bool LANGUAGE sql AS $$ SELECT public.spy() $$"
    )
    role.connection.execute("CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = same)")
    db.execute("CREATE TABLE docs (id varchar(20) PRIMARY KEY, body text)")
    db.execute("INSERT INTO docs VALUES ('a', 'one')")
    attach(db, drain)
    db.execute("SELECT * FROM pgmeaning.search('docs', 'q')")
    db.execute("UPDATE docs SET body = 'two'")
    assert drain() == 0
    assert db.execute("SELECT * FROM caught").fetchall() == []


# The loopback


def test_nobody_but_the_owner_may_use_the_loopbacks_server(db: Connection, role: Role) -> None:
    assert role.rows(
        "SELECT has_server_privilege('pgmeaning_loopback', 'USAGE'), (SELECT count(umoptions) FROM pg_user_mappings)"
    ) == [(False, 0)]
    assert role.refusal("SELECT * FROM pgmeaning.loopback").sqlstate == "42501"
    for function in ("_test_loopback()", "_make_loopback('x')"):
        assert "permission denied" in str(role.refusal(f"SELECT pgmeaning.{function}"))


def test_the_loopbacks_role_can_do_nothing_but_ask(
    docs: None, db: Connection, drain: Drain, dsn: str, sidecar: Sidecar
) -> None:
    attach(db, drain)
    ((user, password),) = db.execute("SELECT login, password FROM pgmeaning.loopback").fetchall()
    with psycopg.connect(make_conninfo(dsn, user=user, password=password), autocommit=True) as connection:
        loopback = Role(user, connection)
        for table in (
            "public.docs",
            "public.docs_embedding",
            'pgmeaning_data."docs__synthetic-384"',
            "pgmeaning.queue",
            "pgmeaning.inbox",
            "pgmeaning.bulk_inbox",
            "pgmeaning.request",
            "pgmeaning.query_cache",
            "pgmeaning.loopback",
        ):
            assert "permission denied" in str(loopback.refusal(f"SELECT 'x' FROM {table}"))
        for statement in (
            "CREATE TABLE public.t (id int)",
            "CREATE ROLE x",
            "SELECT pgmeaning.detach('docs')",
            "SET ROLE postgres",
            "SELECT pg_read_file('/etc/hostname')",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ):
            assert loopback.refusal(statement).sqlstate in ("42501", "0LP01", "PM011"), statement


# Counting


@pytest.fixture
def shop(db: Connection, role: Role) -> Role:
    """The role's own schema, with an attached table, and a spy."""
    spy(role, db)
    db.execute(f"CREATE SCHEMA shop AUTHORIZATION {role.name}")
    role.connection.execute("CREATE TABLE shop.docs (id int PRIMARY KEY, body text)")
    role.connection.execute("INSERT INTO shop.docs VALUES (1, 'one')")
    db.execute("SELECT pgmeaning.attach('shop.docs', '{body}')")
    return role


def test_a_view_that_takes_an_attached_tables_name_is_not_counted(shop: Role, db: Connection) -> None:
    """Between the look at the catalog and the count: here the catalog's name is made to lie."""
    shop.connection.execute("ALTER TABLE shop.docs RENAME TO papers")
    shop.connection.execute("CREATE VIEW shop.docs AS SELECT 1 AS id WHERE public.spy()")
    db.execute(
        "CREATE OR REPLACE FUNCTION pgmeaning._relation_name(relation oid) RETURNS text LANGUAGE sql STABLE "
        "SET search_path = pg_catalog, pg_temp AS $$ SELECT 'shop.docs' $$"
    )
    assert db.execute("SELECT rows FROM pgmeaning._rows_of('shop.papers')").fetchone() is not None
    assert db.execute("SELECT * FROM caught").fetchall() == []
    assert db.execute("SHOW restrict_nonsystem_relation_kind").fetchone() == ("",)


@pytest.mark.parametrize("index", ["((public.never(1)))", "(id) WHERE public.never(1)"])
def test_an_index_runs_no_code_in_whoever_reads_the_status(shop: Role, db: Connection, index: str) -> None:
    shop.connection.execute(
        "CREATE FUNCTION never(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN IF current_user <> session_user OR current_user = 'postgres' THEN RAISE 'caught %', current_user; "
        "END IF; RETURN true; END $$"
    )
    shop.connection.execute(f"CREATE INDEX ON shop.docs {index}")
    assert db.execute("SELECT collection, estimated FROM pgmeaning.status").fetchall() == [("docs", True)]


def test_where_sidecars_run_is_shown_to_who_may_manage_them(db: Connection, role: Role, sidecar: Sidecar) -> None:
    assert role.rows("SELECT host, pid, alive FROM pgmeaning.sidecars") == [(None, None, True)]
    assert db.execute("SELECT host IS NULL OR pid IS NULL FROM pgmeaning.sidecars").fetchall() == [(False,)]
