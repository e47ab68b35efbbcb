"""Filters: parameters, equalities, attempts to break out, and results that no selectivity starves."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgmeaning.client.client import Client
from pgmeaning.client.connecting import connect
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.integration.docs import Docs
from tests.integration.embedders import Clustered
from tests.types import Connect, Connection

ODD = "x') OR true --"


# Twenty rows with columns of many types; the query 'q' is in the cache.
DOCS = Docs(
    columns="id int PRIMARY KEY, body text, lang text, price numeric, day date, tags text[], "
    'data jsonb, "Odd $1" text, raw bytea',
    rows="SELECT i, 'body ' || i, CASE WHEN i % 2 = 0 THEN 'en' END, i / 2.0, date '2024-01-01' + i, "
    "ARRAY['t' || i % 3], jsonb_build_object('n', i), 'o''' || i, '\\x01ff' FROM generate_series(1, 20) AS i",
    attach="'{body}'",
    embedded=True,
    cached={"q": "q"},
)


def found(db: Connection, arguments: str, *values: object) -> list[int]:
    statement = f"SELECT key FROM pgmeaning.search('docs', 'q', 100, {arguments})"
    return sorted(key["id"] for (key,) in db.execute(statement, values).fetchall())


def refused(db: Connection, arguments: str, *values: object) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        found(db, arguments, *values)
    return caught.value


def outcome(db: Connection, condition: str) -> list[int] | str | None:
    """What a filter with one odd parameter finds, or the SQLSTATE of its refusal."""
    try:
        return found(db, "filter => %s, filter_params => ARRAY[%s]", condition, ODD)
    except psycopg.Error as error:
        return error.sqlstate


# Parameters


TYPED = [
    ("filter => 'price < $1', filter_params => ARRAY[2]", [1, 2, 3]),
    ("filter => 'price < $1', filter_params => ARRAY[1.5]", [1, 2]),
    ("filter => 'price < $1 AND lang = $2', filter_params => ARRAY['2', 'en']", [2]),
    ("filter => 'day BETWEEN $1 AND $2', filter_params => ARRAY[date '2024-01-03', '2024-01-04']", [2, 3]),
    ("filter => 'id = ANY ($1)', filter_params => ARRAY['{3,4}']", [3, 4]),
    ("filter => 'id IN ($2, $1)', filter_params => ARRAY[3, 4]", [3, 4]),
    ("filter => 'id = $1::int + $1::int', filter_params => ARRAY[2]", [4]),
    ("filter => 'lang = $1', filter_params => ARRAY[NULL]::text[]", []),
    ("filter => 'tags @> $1', filter_params => ARRAY['{t1}']", list(range(1, 21, 3))),
    ("filter => $$body = 'body ' || $1$$, filter_params => ARRAY['5']", [5]),
    ("""filter => '"Odd $1" = $1', filter_params => ARRAY['o''7']""", [7]),
    ("filter => 'price-$1 <= -1/1.0', filter_params => ARRAY[3]", [1, 2, 3, 4]),
]


def test_parameters_take_the_type_that_the_context_gives_them(docs: None, db: Connection) -> None:
    for arguments, expected in TYPED:
        assert found(db, arguments) == expected, arguments


VALUES = [
    ODD, "'", "''", "\\'", "\\", "$1", "$$", "en' OR '1'='1", "en'; DROP TABLE docs; --", "/*", "*/", "{t1}",
    "\n'\n'", "E'x'", "",
]  # fmt: skip


def test_a_parameter_is_never_read_as_sql(docs: None, db: Connection) -> None:
    for value in VALUES:
        assert found(db, "filter => 'lang = $1', filter_params => ARRAY[%s]", value) == [], value
        db.execute("UPDATE docs SET lang = %s WHERE id = 9", (value,))
        assert found(db, "filter => 'lang = $1', filter_params => ARRAY[%s]", value) == [9], value


CONDITIONS = [
    "lang = '$1'",
    "lang = '''$1'",
    r"lang = '\' OR lang = $1 OR lang = '\'",
    r"lang = E'\' OR lang = $1 --'",
    r"lang = e'\'' OR lang = $1",
    "lang = $$ $1 $$",
    "lang = $a$ ' $a$ OR lang = $1 OR lang = ''",
    "lang = $1 -- ' $1",
    "lang = /* ' */ $1 /* ' */",
    "lang = U&'d!0061t' UESCAPE '!' OR lang = $1",
    "lang = N'x' || $1",
    'lang = $1 OR "$1" = $1',
    "lang = a$1",
    "lang = $1a",
    "lang = $1'x'",
]


@pytest.mark.parametrize("setting", ["on", "off"])
def test_no_way_to_write_a_filter_lets_a_parameter_out_of_its_quotes(docs: None, db: Connection, setting: str) -> None:
    db.execute(f"SET standard_conforming_strings = {setting}")
    for condition in CONDITIONS:
        assert outcome(db, condition) in ([], "PM014"), condition


MISFITS = [
    ("filter => 'price < $2', filter_params => ARRAY[1]", "refers to $2, but the length of filter_params is 1"),
    ("filter => 'price < $0', filter_params => ARRAY[1]", "refers to $0, but the length of filter_params is 1"),
    ("filter => 'price < $1', filter_params => ARRAY[1, 2]", "not all of the 2 filter_params are used"),
    ("filter => 'price < $1', filter_params => ARRAY['cheap']", "not a condition"),
    ("filter => 'price < $1', filter_params => '{}'", "refers to $1, but the length of filter_params is 0"),
    ("filter => 'price < $1'", "no parameter $1"),
    ("filter_params => ARRAY[1]", "no filter that takes them"),
    ("""filter => '{"id": 1}', filter_params => ARRAY[1]""", "no filter that takes them"),
    ("filter => 'true) OR (price < $1', filter_params => ARRAY[1]", "not a condition"),
    ("filter => 'price < $1; SELECT 1', filter_params => ARRAY[1]", "not a condition"),
]


def test_parameters_that_do_not_fit_are_refused(docs: None, db: Connection) -> None:
    for arguments, words in MISFITS:
        error = refused(db, arguments)
        assert (error.sqlstate, words in str(error)) == ("PM014", True), error
        assert error.diag.message_hint


def test_every_way_to_search_takes_parameters(docs: None, db: Connection) -> None:
    register = "filter => 'id <= $1', filter_params => ARRAY[3]"
    vector = "(SELECT embedding FROM docs_embedding WHERE id = 1)"
    for statement in (
        f"SELECT (hit).id FROM pgmeaning.search(NULL::docs, 'q', {register})",
        f"SELECT (key->>'id')::int FROM pgmeaning.nearest('docs', {vector}, {register})",
        f"SELECT (key->>'id')::int FROM pgmeaning.search_many('docs', '{{q}}', {register})",
    ):
        assert sorted(row[0] for row in db.execute(statement).fetchall()) == [1, 2, 3], statement
    others = db.execute(f"SELECT (key->>'id')::int FROM pgmeaning.similar('docs', '1', {register})").fetchall()
    assert sorted(row[0] for row in others) == [2, 3]


# Equalities


EQUALITIES: list[tuple[dict[str, Any], list[int]]] = [
    ({"lang": "en", "id": 4}, [4]),
    ({"lang": None, "price": 1.5}, [3]),
    ({"id": [3, 5, 99]}, [3, 5]),
    ({"day": "2024-01-03"}, [2]),
    ({"tags": ["t1"], "id": [1, 2]}, [1]),
    ({"data": {"n": 6}}, [6]),
    ({"Odd $1": "o'7"}, [7]),
    ({"id": []}, []),
    ({"lang": ODD}, []),
    ({}, list(range(1, 21))),
]


@pytest.mark.parametrize("setting", ["on", "off"])
def test_a_json_object_asks_for_equal_columns(docs: None, db: Connection, setting: str) -> None:
    db.execute(f"SET standard_conforming_strings = {setting}")
    for equalities, expected in EQUALITIES:
        assert found(db, "filter => %s", json.dumps(equalities)) == expected, equalities


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [('{"nope": 1}', "PM004"), ('{"id = 1 OR true --": 1}', "PM004"), ('{"id": "x"}', "PM014"), ('{"id": 1', "PM014")],
)
def test_equalities_that_do_not_fit_are_refused(docs: None, db: Connection, text: str, sqlstate: str) -> None:
    assert refused(db, "filter => %s", text).sqlstate == sqlstate


def test_a_python_client_takes_parameters_and_mappings(docs: None, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        client = Client(connection)
        wanted: list[tuple[Any, Any]] = [
            ("price < $1 AND lang = $2", [Decimal(2), "en"]),
            ("id = ANY($1)", [[2]]),
            ("day = $1", [datetime.date(2024, 1, 3)]),
            ("raw = $1 AND id = $2", [b"\x01\xff", 2]),
            ({"id": 2, "lang": "en"}, None),
            ({"id": {2}, "raw": b"\x01\xff", "day": datetime.date(2024, 1, 3)}, None),
        ]
        for condition, params in wanted:
            hits = client.search("docs", "q", filter=condition, filter_params=params)
            assert [hit.row["id"] for hit in hits] == [2], condition
        assert [
            len(hits) for hits in client.search_many("docs", ["q", "q"], 3, filter="id < $1", filter_params=[3])
        ] == [2, 2]


# Rights


def test_a_python_client_takes_several_values_in_whatever_holds_them(docs: None, dsn: str) -> None:
    with connect(dsn) as client:
        for several in ([1, 2], (1, 2), {1, 2}, frozenset({1, 2}), {1: 0, 2: 0}.keys(), range(1, 3), iter([1, 2])):
            hits = client.search("docs", "q", filter={"id": several})
            assert sorted(hit.key["id"] for hit in hits) == [1, 2]


def test_a_filter_runs_with_the_callers_rights(docs: None, db: Connection, connect: Connect) -> None:
    role = f"reader_{db.info.dbname}"
    db.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
    try:
        db.execute("CREATE TABLE secret AS SELECT 1 AS id")
        db.execute(f'GRANT SELECT ON docs, docs_embedding, pgmeaning_data."docs__synthetic-384" TO {role}')
        reader = connect(user=role, password="reader")
        assert found(reader, "filter => 'id < $1', filter_params => ARRAY[3]") == [1, 2]
        error = refused(
            reader, "filter => 'id IN (SELECT id FROM public.secret) AND id < $1', filter_params => ARRAY[3]"
        )
        assert error.sqlstate == "42501"
        reader.close()
    finally:
        db.execute(f"DROP OWNED BY {role}")
        db.execute(f"DROP ROLE {role}")


# No selectivity starves


@pytest.fixture
def many(db: Connection, dsn: str) -> None:
    """3,000 rows in clusters, enough for a scan by signature; `part` says which thousandths a row is in."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, part int, half int)")
    db.execute(
        "INSERT INTO docs SELECT i, 'topic' || i % 40 || ' word ' || i, i * 7919 % 1000, i % 40 / 20 "
        "FROM generate_series(1, 3000) AS i"
    )
    db.execute("SELECT pgmeaning.attach('docs', '{body}')")
    assert Sidecar(dsn, Settings(), load=lambda _: Clustered(384)).run(drain=True) == 0


def recall(db: Connection, condition: str, candidates: int, *, keys: range = range(5, 1000, 50)) -> float:
    """Of the exact answers, how many the search by signature has; as many rows, too."""
    shares = []
    for key in keys:
        exact, signature = (
            [
                row["id"]
                for (row,) in db.execute(
                    "SELECT key FROM pgmeaning.similar('docs', %s, filter => %s, mode => %s, candidates => %s)",
                    (str(key), condition, mode, candidates),
                ).fetchall()
            ]
            for mode in ("exact", "signature")
        )
        assert len(signature) == len(exact)
        shares.append(len({*exact} & {*signature}) / len(exact) if exact else 1)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize(
    "condition",
    ["part < 1", "part < 0", "part < 10", "part < 500", "true"],
)
def test_the_nearest_of_the_rows_that_match_are_found_however_many_match(
    many: None, db: Connection, condition: str, analyzed: bool
) -> None:
    if analyzed:
        db.execute("ANALYZE docs")
        db.execute('ANALYZE pgmeaning_data."docs__synthetic-384"')
    assert recall(db, condition, 400) >= 0.99


def test_a_filter_that_shuts_out_the_neighbours_still_fills_the_answer(many: None, db: Connection) -> None:
    db.execute("ANALYZE docs")
    for key in (1, 21):  # of topics in either half
        hits = db.execute(
            "SELECT key FROM pgmeaning.similar('docs', %s, 30, filter => 'half = 0', mode => 'signature')", (str(key),)
        ).fetchall()
        assert len(hits) == 30
        assert all(row["id"] % 40 < 20 for (row,) in hits)


def test_few_matching_rows_are_scanned_and_many_are_fetched_beyond(many: None, db: Connection) -> None:
    db.execute("ANALYZE docs")
    db.execute('ANALYZE pgmeaning_data."docs__synthetic-384"')
    to_fetch = (  # asked directly: what a scan compares exactly, no count of PostgreSQL's shows
        "SELECT pgmeaning._rows_to_fetch(c, t, 100, "
        "pgmeaning._search_options(c, 10, %s, NULL, NULL, NULL, NULL, true, NULL)) "
        "FROM pgmeaning.collection AS c "
        "JOIN pgmeaning.target AS t ON t.collection_id = c.id"
    )
    fetched = [db.execute(to_fetch, (condition,)).fetchone()[0] for condition in ("part < 1", "part < 500", None)]  # type: ignore[index]
    assert fetched[0] is None
    assert 200 <= fetched[1] <= 300
    assert fetched[2] == 100


def test_a_wrong_estimate_costs_time_but_no_row(many: None, db: Connection) -> None:
    db.execute("ANALYZE docs")
    # To the planner two columns that say the same are independent, and those that exclude each other too.
    assert recall(db, "part < 500 AND part % 1000 < 500 AND id % 40 < 2", 100) >= 0.99
    assert recall(db, "(part >= 500) = (part < 500) OR id = 17", 100) >= 0.99


def test_a_second_statement_behind_a_semicolon_is_refused_before_it_runs(docs: None, db: Connection) -> None:
    db.execute("CREATE SEQUENCE ran")
    for text in ("true) LIMIT 0; SELECT nextval('public.ran'); SELECT (1", "true; SELECT nextval('public.ran')"):
        assert refused(db, "filter => %s", text).sqlstate == "PM014"
    assert db.execute("SELECT is_called FROM ran").fetchone() == (False,)


def test_a_filter_needs_no_right_to_columns_it_does_not_name(docs: None, db: Connection, connect: Any) -> None:
    role = f"some_{db.info.dbname}"
    db.execute(f"CREATE ROLE {role}; GRANT SELECT (id, body, lang) ON docs TO {role}".encode())
    db.execute(f'GRANT SELECT ON docs_embedding, pgmeaning_data."docs__synthetic-384" TO {role}'.encode())
    db.execute(f"SET ROLE {role}".encode())
    try:
        assert found(db, "filter => 'lang = ''en'''") == list(range(2, 21, 2))
    finally:
        db.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_null_among_several_values_finds_the_rows_that_have_none(docs: None, db: Connection) -> None:
    assert found(db, "filter => %s", '{"lang": ["en", null]}') == list(range(1, 21))


def test_an_array_among_the_parameters_is_refused_with_the_way_to_write_it(docs: None, db: Connection) -> None:
    error = refused(db, "filter => 'lang = ANY ($1)', filter_params => ARRAY[ARRAY['en']]")
    assert error.sqlstate == "PM014"
    assert "{en,fr}" in str(error.diag.message_hint)
    assert found(db, "filter => 'lang = ANY ($1)', filter_params => ARRAY['{en}']") == list(range(2, 21, 2))


# What drivers send


@pytest.mark.parametrize(
    ("call", "values", "ids"),
    [
        ("%s", [2], [1, 2, 3]),
        ("%s", [1.5], [1, 2]),
        ("%s", ["2"], [1, 2, 3]),
        ("%s::bigint[]", [2], [1, 2, 3]),
        ("pgmeaning.filter_params(%s)", Jsonb([2]), [1, 2, 3]),
        ("pgmeaning.filter_params(%s)", "[2]", [1, 2, 3]),
    ],
)
def test_parameters_are_accepted_as_drivers_send_them(
    docs: None, db: Connection, call: str, values: object, ids: list[int]
) -> None:
    assert found(db, f"filter => 'price < $1', filter_params => {call}", values) == ids


def test_parameters_of_several_types_come_from_json(docs: None, db: Connection) -> None:
    arguments = "filter => 'price < $1 AND lang = $2 AND id = ANY ($3)', filter_params => pgmeaning.filter_params(%s)"
    assert found(db, arguments, Jsonb([20, "en", [1, 2, 4]])) == [2, 4]
    assert found(db, "filter => 'lang = $1', filter_params => pgmeaning.filter_params(%s)", Jsonb([None])) == []
    error = refused(db, "filter => 'id = $1', filter_params => pgmeaning.filter_params(%s)", Jsonb({"a": 1}))
    assert error.sqlstate == "PM014"


def test_k_may_be_a_bigint(docs: None, db: Connection) -> None:
    for call in ("search('docs', 'q', k => 5::bigint)", "search(NULL::docs, 'q', k => 5::bigint)"):
        assert len(db.execute(f"SELECT FROM pgmeaning.{call}".encode()).fetchall()) == 5


def test_a_filter_of_thousands_of_values_is_bound_in_one_pass(docs: None, db: Connection) -> None:
    """Step by step, its rest copied each time, it would take several times as long as this allows."""
    many = ", ".join(map(str, range(5, 100_000)))
    db.execute("SET statement_timeout = '30s'")
    bound = db.execute("SELECT length(pgmeaning._bind(%s, '{en}'))", (f"id IN ({many}) AND lang = $1",)).fetchone()
    assert bound == (len(f"id IN ({many}) AND lang = ('en')"),)


# Names in a filter


def test_a_filter_may_look_into_tables_on_the_callers_search_path(docs: None, db: Connection) -> None:
    db.execute("CREATE SCHEMA app")
    db.execute("CREATE TABLE app.wanted AS SELECT 4 AS id")
    db.execute("CREATE TABLE public.wanted AS SELECT 5 AS id")
    condition = "filter => 'id IN (SELECT w.id FROM wanted AS w)'"
    assert found(db, condition) == [5]
    db.execute("SET search_path = app, public")
    assert found(db, condition) == [4]
    assert found(db, condition + ", mode => 'signature'") == [4]
    typed = db.execute(f"SELECT (hit).id FROM pgmeaning.search(NULL::docs, 'q', {condition})".encode()).fetchall()
    assert typed == [(4,)]
    similar = db.execute(f"SELECT key FROM pgmeaning.similar('docs', '9', {condition})".encode()).fetchall()
    assert similar == [({"id": 4},)]
    many = db.execute(f"SELECT key FROM pgmeaning.search_many('docs', '{{q}}', {condition})".encode()).fetchall()
    assert many == [({"id": 4},)]


def test_a_filter_may_use_operators_of_extensions_on_the_callers_search_path(docs: None, db: Connection) -> None:
    db.execute("CREATE SCHEMA extra")
    db.execute("CREATE EXTENSION hstore SCHEMA extra")
    db.execute("SET search_path = public, extra")
    db.execute("ALTER TABLE docs ADD COLUMN more hstore DEFAULT 'a=>1'")
    assert found(db, "filter => $$more @> 'a=>1' AND id < 3$$") == [1, 2]
    db.execute("SET search_path = public")
    assert refused(db, "filter => $$more @> 'a=>1'$$").sqlstate == "PM014"
    assert found(db, "filter => $$more @> 'a=>1' AND id < 3$$, filter_path => 'public, extra'") == [1, 2]


def test_a_search_leaves_the_search_path_as_it_was(docs: None, db: Connection) -> None:
    db.execute("SET search_path = public, pg_catalog")
    found(db, "filter => 'id < 5'")
    assert db.execute("SHOW search_path").fetchone() == ("public, pg_catalog",)


def test_a_filter_has_its_callers_rights_and_no_others(docs: None, db: Connection, connect: Connect) -> None:
    db.execute("CREATE TABLE secret AS SELECT 1 AS id")
    db.execute("CREATE ROLE filter_reader LOGIN PASSWORD 'x'")
    try:
        db.execute("GRANT SELECT ON docs TO filter_reader")
        db.execute('GRANT SELECT ON pgmeaning_data."docs__synthetic-384" TO filter_reader')
        reader = connect(user="filter_reader", password="x")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            found(reader, "filter => 'id IN (SELECT id FROM secret)'")
    finally:
        db.execute("DROP OWNED BY filter_reader")
        db.execute("DROP ROLE filter_reader")


def test_a_function_on_the_callers_path_does_not_replace_the_systems_in_the_search_itself(
    docs: None, db: Connection
) -> None:
    db.execute("CREATE SCHEMA app")
    db.execute("CREATE FUNCTION app.count(int) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'")
    db.execute("CREATE FUNCTION app.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'planted' $$")
    db.execute("SET search_path = app, public")
    assert found(db, "filter => 'lower(lang) = ''en'' AND id < 5'") == [2, 4]
