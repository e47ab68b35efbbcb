"""Names that would end a function's body, a format or a string: they are names, wherever they are written into SQL."""

from __future__ import annotations

import pytest
from psycopg import sql

from pgmeaning.sidecar.process import Sidecar
from tests.types import Connection, Drain

# What a body might stand between; each with code behind it that would run as whoever attaches.
TAGS = ["$policy$", "$$", "$function$", "$body$", "$make$", "$bind$", "'"]
CODE = "; CREATE TABLE public.ran (); --"
ODD = ["100% of %s %1$I", "back\\slash \\' ", 'say "hi"', "it's", "$1 {body}{{", "two\nlines", "-- not a comment", "/*"]


def code_in(tag: str) -> str:
    return f"{tag}{CODE}"


def attached(db: Connection, table: str, key: str, column: str, collection: str, more: str = "") -> None:
    names = {name: sql.Identifier(value) for name, value in {"table": table, "key": key, "column": column}.items()}
    db.execute(sql.SQL("CREATE TABLE {table} ({key} int PRIMARY KEY, {column} text)").format(**names))
    db.execute(sql.SQL("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY").format(**names))
    db.execute(sql.SQL("INSERT INTO {table} VALUES (1, 'rice'), (2, 'wheat')").format(**names))
    db.execute(
        f"SELECT pgmeaning.attach(%s::regclass, ARRAY[%s], collection => %s{more})".encode(),
        (names["table"].as_string(db), column, collection),
    )


def nothing_ran(db: Connection) -> bool:
    return db.execute("SELECT to_regclass('public.ran') IS NULL").fetchone() == (True,)


def found(db: Connection, collection: str, more: str = "") -> list[object]:
    rows = db.execute(f"SELECT key FROM pgmeaning.search(%s, 'rice'{more})".encode(), (collection,)).fetchall()
    return sorted(next(iter(key.values())) for (key,) in rows)


def use(db: Connection, table: str, key: str, column: str, collection: str) -> None:
    """Each kind of function that is made for a collection runs: policy, trigger, words, and the row's text."""
    assert found(db, collection) == [1, 2]
    assert found(db, collection, ", mode => 'hybrid'") == [1, 2]
    names = {name: sql.Identifier(value) for name, value in {"table": table, "key": key, "column": column}.items()}
    db.execute(sql.SQL("UPDATE {table} SET {column} = 'barley' WHERE {key} = 2").format(**names))
    db.execute(sql.SQL("DELETE FROM {table} WHERE {key} = 1").format(**names))
    db.execute("CALL pgmeaning.wait_for(%s)", (collection,))
    assert found(db, collection) == [2]
    vectors = sql.Identifier("pgmeaning_data", f"{collection}__synthetic-384")
    with db.transaction(force_rollback=True):
        db.execute(sql.SQL("CREATE ROLE reading; GRANT SELECT ON {table}, {v} TO reading").format(v=vectors, **names))
        db.execute("SET LOCAL ROLE reading")
        assert db.execute(sql.SQL("SELECT count(*) FROM {v}").format(v=vectors)).fetchone() == (0,), "the policy asked"


@pytest.mark.parametrize("tag", TAGS)
def test_a_key_column_named_like_the_end_of_a_body_runs_no_code(db: Connection, sidecar: Sidecar, tag: str) -> None:
    attached(db, "docs", code_in(tag), "body", "docs", ", language => 'english'")
    db.execute("CALL pgmeaning.wait_for('docs')")
    use(db, "docs", code_in(tag), "body", "docs")
    assert nothing_ran(db)


@pytest.mark.parametrize("name", [*(code_in(tag) for tag in TAGS), *ODD])
def test_any_name_of_table_column_and_collection_is_only_a_name(db: Connection, sidecar: Sidecar, name: str) -> None:
    attached(db, name, "id", name, name, ", language => 'english'")
    db.execute("CALL pgmeaning.wait_for(%s)", (name,))
    use(db, name, "id", name, name)
    assert nothing_ran(db)


@pytest.mark.parametrize("key", ["the row", "pgmeaning.distance"])
def test_a_key_column_may_have_a_name_that_a_search_uses_itself(db: Connection, sidecar: Sidecar, key: str) -> None:
    attached(db, "docs", key, "body", "docs", ", language => 'english'")
    db.execute("CALL pgmeaning.wait_for('docs')")
    nearest = db.execute("SELECT (hit).body FROM pgmeaning.search(NULL::docs, 'rice')").fetchall()
    assert sorted(nearest) == [("rice",), ("wheat",)]
    use(db, "docs", key, "body", "docs")


def test_a_source_renamed_to_an_odd_name_is_still_found_with_its_policy(db: Connection, sidecar: Sidecar) -> None:
    attached(db, "docs", "100%", "body", "docs", ", language => 'english'")
    db.execute("CALL pgmeaning.wait_for('docs')")
    db.execute(sql.SQL("ALTER TABLE docs RENAME TO {}").format(sql.Identifier(code_in("$policy$"))))
    use(db, code_in("$policy$"), "100%", "body", "docs")
    assert nothing_ran(db)


def test_a_template_with_a_percent_sign_has_its_words(db: Connection, drain: Drain) -> None:
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text); INSERT INTO docs VALUES (1, 'rice')")
    db.execute("SELECT pgmeaning.attach('docs', template => '100%% %s {body}', language => 'english')")
    assert drain() == 0
    assert db.execute('SELECT words::text FROM pgmeaning_data."docs__synthetic-384"').fetchone() == (
        "'100':1 'rice':3",
    )
