"""Whatever is passed to a public function, the answer is one, or an error that says what is wrong; and it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.integration.roles import Role
from tests.integration.test_chunks import embed_all, text_of
from tests.integration.test_rerank import Judge
from tests.types import Connection

WATCHDOG = "15s"
# Of each function; so many new ones are tried where it is set.
EXAMPLES = int(os.environ.get("PGMEANING_FUZZ_EXAMPLES", "0"))

# What PostgreSQL itself says of an argument: a value that its type does not take.
OF_VALUES = "22"
# Of a regclass: no such table, no name at all, no such schema, a name of another database.
OF_NAMES = {"42P01", "42601", "42602", "3F000", "0A000"}

Values = st.SearchStrategy[Any]

odd_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def some(*known: object) -> Values:
    """Mostly what is known to mean something."""
    return st.one_of(st.sampled_from(known), st.sampled_from(known), st.none(), odd_text)


def array(items: Values) -> Values:
    return st.one_of(st.none(), st.lists(items, max_size=3))


collections = some("docs", "cut", "nope", "")
models = some("synthetic-384", "synthetic-4096", "all-MiniLM-L6-v2", "Qwen3-VL-Reranker-8B", "nope", "")
releases = some("26.02", "nope", "")
small = st.sampled_from([None, -(2**31), -1, 0, 1, 2, 10, 384, 2**31 - 1])
numbers = st.sampled_from([0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), float("-inf"), 1e308])
# No time-out that a hang could hide behind.
times = st.sampled_from(["0", "-1 day", "10 milliseconds", "1 second", "178000000 years", "-178000000 years"])
documents = st.sampled_from([
    "5", '"5"', "null", "[]", "{}", '{"id": 1}', '{"id": "1"}', '{"id": null}', '{"id": [1]}', '{"nope": 1}', "1e400",
    "true", '{"id": 99999999999999999999}', '[20, "en", null, {"a": 1}, [1, null]]',
])  # fmt: skip

# By type, and where an argument's name says more, by name.
BY_TYPE: dict[str, Values] = {
    "text": some("docs", "q", "'", "$1", "{}", "%s", "x" * 5000),
    "name": some("docs", "body", "picture", "nope"),
    "boolean": st.sampled_from([True, False, None]),
    "integer": small,
    "bigint": st.one_of(small, st.sampled_from([2**63 - 1, -(2**63)])),
    "double precision": st.one_of(st.none(), numbers),
    "double precision[]": array(st.one_of(st.none(), numbers)),
    "interval": times,
    "jsonb": st.one_of(st.none(), documents),
    "text[]": st.one_of(array(some("body", "q", "id", "nope")), st.just([["a"], ["b"]])),
    "name[]": array(some("public", "postgres", "nope")),
    "regclass": st.sampled_from(["docs", "cut", "pictures", "docs_embedding", "nope", "no.pe", "a.b.c", "pg_class"]),
    "vector": st.sampled_from([None, "[1]", str([0] * 384), str([1] * 384), str([1e38] * 384), str([1] * 4096)]),
    "pgmeaning.search_cursor": st.sampled_from([
        None, "(,)", '(0.5,"{""id"": 1}")', "(NaN,5)", "(0.5,)", "(Infinity,null)", '(-1,"{""id"": 0}")',
    ]),
    "anycompatiblearray": array(some("1", "en", "x")),
    "anyelement": st.sampled_from(["NULL::docs", "NULL::pictures", "1", "'x'::text", "NULL::docs_embedding"]),
}  # fmt: skip
BY_NAME: dict[str, Values] = {
    "collection": collections, "other": collections,
    "new_name": some("docs", "cut", "new", "x" * 60, "pg_class"),
    "model": models, "reranker": models, "embedder": models, "replacement": models,
    "mode": some("exact", "signature", "index", "hybrid"),
    "filter": some(
        "id = $1", "id = 1", "true", "false", "lang = $1 AND id > $2", '{"id": 1}', '{"id": [1, null]}',
        '{"body": null}', '{"nope": 1}', "{", "id = 1; DROP TABLE docs", ") OR (true", "1/(id-1) = 1", "count(*) = 1",
        "$$", "/*", "--", "id = $99", "pgmeaning.search", "body ~ '('", "(SELECT s)::text IS NOT NULL", "\\",
    ),
    "filter_path": some("public", '"$user", public', "pg_catalog", "", "nope,", '"'),
    "kind": some("auto", "none", "signature", "prefix", "direct"),
    "template": some("{body}", "{nope}", "{", "{{x}}", "", "{id}: {body}"),
    "image": some("picture", "nope", ""), "video": some("picture", "nope", ""),
    "overrule": some("a reason", ""),
    "vector_type": some("vector", "halfvec", "bit"),
    "language": some("simple", "english", "pg_catalog.simple", "nope", "a.b.c.d"),
    "chunking": st.one_of(st.none(), documents, st.sampled_from([
        '{"method": "tokens"}', '{"method": "sentences", "size": 16, "overlap": 4}', '{"method": 5}',
        '{"method": "tokens", "size": 1e400}',
        '{"method": "tokens", "size": -1}', '{"method": "tokens", "size": 10, "overlap": 99}',
    ])),
}  # fmt: skip
# wait_for may wait as long as it is told to: for a collection that owes nothing it need not.
OF_FUNCTION: dict[tuple[str, str], Values] = {
    ("matches", "threshold"): st.sampled_from([None, 0.0, 0.1, 1.0, 2.0, -1.0, float("nan"), float("inf")]),
    ("duplicates", "threshold"): st.sampled_from([None, 0.0, 0.1, 1.0, 2.0, -1.0, float("nan"), float("inf")]),
    ("wait_for", "timeout"): st.sampled_from(["0", "-1 day", "10 milliseconds", "1 second"]),
    ("set_default_model", "name"): models, ("deprecate_model", "name"): models, ("allow_model", "name"): models,
    ("set_model_options", "name"): models,
    ("retire_model", "name"): models, ("support_model", "name"): models, ("use_release", "name"): releases,
    ("create_release", "name"): releases, ("sign_release", "name"): releases,
}  # fmt: skip


@dataclass(frozen=True)
class Function:
    """A public function or procedure; the last of its arguments have defaults."""

    name: str
    procedure: bool
    arguments: tuple[tuple[str, str], ...]
    required: int

    def values(self) -> Values:
        """Argument -> value, some of the optional ones left out."""
        own = {name: self._value(name, type) for name, type in self.arguments}
        names = [name for name, _ in self.arguments]
        must = {name: own[name] for name in names[: self.required]}
        return st.fixed_dictionaries(must, optional={name: own[name] for name in names[self.required :]})

    def _value(self, name: str, type: str) -> Values:
        by_name = BY_NAME if type in ("text", "jsonb") else {}
        return OF_FUNCTION.get((self.name, name), by_name.get(name, BY_TYPE[type]))

    def call(self, values: dict[str, Any]) -> tuple[str, list[Any]]:
        """A statement, and its parameters."""
        # In their order: PostgreSQL takes the type of the first that is written for a polymorphic result's (42804).
        passed = [(name, type, values[name]) for name, type in self.arguments if name in values]
        parts = [_passed(*argument) for argument in passed]
        given = [value for _, type, value in passed if type != "anyelement"]
        return f"{'CALL' if self.procedure else 'SELECT * FROM'} pgmeaning.{self.name}({', '.join(parts)})", given


def _passed(name: str, type: str, value: Any) -> str:
    if type == "anyelement":
        return f"{name} => {value}"
    return f"{name} => %s::{'text[]' if type == 'anycompatiblearray' else type}"


def public_functions(db: Connection) -> list[Function]:
    rows = db.execute(
        "SELECT p.proname, p.prokind = 'p', p.proargnames[:p.pronargs], "
        "ARRAY(SELECT format_type(t, -1) FROM unnest(p.proargtypes) WITH ORDINALITY AS u (t, i) ORDER BY i), "
        "p.pronargs - p.pronargdefaults FROM pg_proc AS p WHERE p.pronamespace = 'pgmeaning'::regnamespace "
        "AND p.proname !~ '^(_|on_change_)' AND p.prorettype <> 'trigger'::regtype ORDER BY p.oid::regprocedure::text"
    ).fetchall()
    return [
        Function(name, proc, tuple(zip(names or [], types, strict=True)), least)
        for name, proc, names, types, least in rows
    ]


@pytest.fixture
def world(db: Connection, dsn: str, role: Role) -> Iterator[Connection]:
    """Two collections, a table that may become one, and a sidecar at work."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, body text, lang text DEFAULT 'en')")
    db.execute("CREATE TABLE cut (id text PRIMARY KEY, body text)")
    db.execute("CREATE TABLE pictures (id int PRIMARY KEY, picture bytea)")
    db.execute("INSERT INTO docs SELECT i, 'body ' || i FROM generate_series(1, 20) AS i")
    db.execute("INSERT INTO cut VALUES ('5', %s), ('b', %s)", (text_of("a", "b", "c"), text_of("d")))
    db.execute("SELECT pgmeaning.attach('docs', '{body}', language => 'simple', grant_to => '{public}')")
    db.execute(
        "SELECT pgmeaning.attach('cut', '{body}', grant_to => '{public}', "
        'chunking => \'{"method": "paragraphs", "size": 16}\')'
    )
    db.execute("GRANT SELECT ON docs, cut, pictures TO PUBLIC")
    embed_all(dsn)
    with running(Sidecar(dsn, Settings(), load_reranker=lambda _: Judge())):
        yield db


def outcome(connection: Connection, function: Function, values: dict[str, Any]) -> str:
    """The SQLSTATE of a call and its message; what it did is undone, but for a procedure's."""
    statement, parameters = function.call(values)
    try:
        if not function.procedure:
            connection.execute("BEGIN")
        connection.execute(statement.encode(), parameters)
    except psycopg.Error as error:
        return f"{error.sqlstate} {error.diag.message_primary} {error.diag.message_detail} {error.diag.context}"
    finally:
        connection.execute("ROLLBACK")
    return "00000"


def is_proper(function: Function, state: str) -> bool:
    """Cancelled by the watchdog is not; nor is whatever has no SQLSTATE, as a connection that is gone."""
    if state.startswith(("00", "PM", OF_VALUES)):
        return True
    takes_name = any(type == "regclass" for _, type in function.arguments)
    return takes_name and state.split()[0] in OF_NAMES


def test_every_public_function_has_values_to_be_tried_with(db: Connection) -> None:
    functions = public_functions(db)
    assert {type for function in functions for _, type in function.arguments} <= set(BY_TYPE)
    assert len(functions) >= 25


def test_bad_arguments_get_proper_errors_and_nothing_hangs(world: Connection, role: Role) -> None:
    for connection in (world, role.connection):
        connection.execute(f"SET statement_timeout = '{WATCHDOG}'".encode())
    for function in public_functions(world):
        try_out(function, [world, role.connection])


def try_out(function: Function, connections: Sequence[Connection]) -> None:
    @settings(
        max_examples=EXAMPLES or 25, deadline=None, database=None, derandomize=not EXAMPLES, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(function.values(), st.sampled_from(range(len(connections))))
    def once(values: dict[str, Any], who: int) -> None:
        state = outcome(connections[who], function, values)
        assert is_proper(function, state), (function.name, json.dumps(values), who, state)

    once()
