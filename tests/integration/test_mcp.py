"""`pgmeaning mcp`: a real client's sessions, over stdio, HTTP and in this process, on both revisions."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx2
import psycopg
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from psycopg.conninfo import make_conninfo

from pgmeaning.database.loopback import ensure_loopback
from pgmeaning.errors import ArgumentError, SettingsError
from pgmeaning.integrations.mcp import Database, application, build
from pgmeaning.integrations.mcp.filters import Condition, compiled
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import _create as created
from tests.conftest import _drop as dropped
from tests.conftest import running
from tests.integration.docs import cache
from tests.integration.roles import PASSWORD, logged_in
from tests.integration.test_rerank import Judge
from tests.types import Connection, Drain

REVISIONS = ["2026-07-28", "legacy"]
TOKEN = "of-these-tests-and-long-enough"
Ask = Callable[..., Any]


def fill(db: Connection) -> None:
    """A collection of four rows, to be embedded, and a query whose vector is at hand."""
    db.execute("CREATE TABLE docs (id int PRIMARY KEY, title text, lang text, price numeric, tags text[], open bool)")
    db.execute("COMMENT ON TABLE docs IS 'What the shop sells'")
    db.execute("COMMENT ON COLUMN docs.price IS 'in euros'")
    db.execute(
        "INSERT INTO docs VALUES (1, 'red bike', 'en', 20, '{a,b}', true), "
        "(2, 'blue bike', 'en', 300.5, '{b}', false), (3, 'rotes Rad', 'de', 15, '{}', true), "
        "(4, 'cup', NULL, 3, NULL, NULL)"
    )
    db.execute("SELECT pgmeaning.attach('docs', columns => '{title}', language => 'simple')")
    cache(db, "red bike")


@pytest.fixture
def docs(db: Connection, drain: Drain) -> None:
    """The collection in the test's own database, embedded."""
    fill(db)
    assert drain() == 0


@pytest.fixture(scope="module")
def shop(server_dsn: str, template: str) -> Iterator[str]:
    """A database with the collection, for tests that change nothing."""
    name = f"{template}_mcp"
    created(server_dsn, name, template)
    dsn = make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        ensure_loopback(connection)
        fill(connection)
    assert Sidecar(dsn, Settings()).run(drain=True) == 0
    yield dsn
    dropped(server_dsn, name)


@contextmanager
def database(dsn: str, role: str | None = None, **settings: Any) -> Iterator[Database]:
    with Database(dsn, Settings(**settings), role=role) as opened:
        yield opened


def session(dsn: str, work: Callable[[Client], Awaitable[Any]], mode: str = "auto", **options: Any) -> Any:
    """What the work returns: a client's session with a server in this process."""
    only = options.pop("only", None)

    async def run(opened: Database) -> Any:
        async with Client(build(opened, only=only), mode=mode) as client:
            return await work(client)

    with database(dsn, **options) as opened:
        return anyio.run(run, opened)


def ask(dsn: str, tool: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
    """The structured answer of a tool; of an error the words."""

    async def work(client: Client) -> Any:
        result = await client.call_tool(tool, arguments or {})
        return result.content[0].text if result.is_error else result.structured_content  # type: ignore[union-attr]

    return session(dsn, work, **options)


def ids(answer: dict[str, Any]) -> list[int]:
    return [hit["key"]["id"] for hit in answer["hits"]]


def searched(*filters: tuple[str, str, Any], **more: Any) -> dict[str, Any]:
    conditions = [{"column": c, "operator": o} | ({} if v is None else {"value": v}) for c, o, v in filters]
    return {"collection": "docs", "query": "red bike", "filters": conditions, **more}


# ---------------------------------------------------------------- The protocol


@pytest.mark.parametrize("mode", REVISIONS)
def test_each_revision_lists_five_read_only_tools_with_schemas_of_what_they_take_and_return(
    shop: str, mode: str
) -> None:
    async def work(client: Client) -> Any:
        return (await client.list_tools()).tools

    tools = session(shop, work, mode)
    assert [tool.name for tool in tools] == ["collections", "search", "similar", "rerank", "explain"]
    assert all(tool.annotations.read_only_hint and not tool.annotations.destructive_hint for tool in tools)
    assert all(tool.input_schema["type"] == tool.output_schema["type"] == "object" for tool in tools)
    assert tools[1].input_schema["properties"]["k"]["maximum"] == Settings().mcp_rows


@pytest.mark.parametrize("mode", REVISIONS)
def test_each_revision_answers_with_structured_content_and_the_same_as_text(shop: str, mode: str) -> None:
    async def work(client: Client) -> Any:
        return client.protocol_version, await client.call_tool("search", searched(k=1))

    version, result = session(shop, work, mode)
    assert version == ("2025-11-25" if mode == "legacy" else mode)
    assert ids(result.structured_content) == [1]
    assert ids(json.loads(result.content[0].text)) == [1]


def test_a_tool_that_there_is_not_is_the_protocols_error(shop: str) -> None:
    async def work(client: Client) -> Any:
        with pytest.raises(MCPError, match="there is no tool 'drop_table': there are collections, search"):
            await client.call_tool("drop_table", {})

    session(shop, work)


# ---------------------------------------------------------------- What the tools answer


def test_collections_says_what_there_is_with_columns_comments_and_state(shop: str) -> None:
    [found] = ask(shop, "collections")["collections"]
    assert (found["collection"], found["description"], found["state"], found["key"]) == (
        "docs", "What the shop sells", "ready", ["id"],
    )  # fmt: skip
    assert found["hybrid"] is True
    assert {"name": "price", "type": "numeric", "description": "in euros"} in found["columns"]


def test_search_returns_rows_with_their_keys_the_nearest_first(shop: str) -> None:
    answer = ask(shop, "search", searched(k=2, columns=["title", "price"]))
    assert answer["hits"][0]["row"] == {"title": "red bike", "price": "20"}
    assert answer["hits"][0]["distance"] == pytest.approx(0, abs=1e-3)
    assert len(answer["hits"]) == 2


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        (("lang", "=", "en"), [1, 2]),
        (("lang", "!=", "en"), [3, 4]),
        (("price", "<", 16), [3, 4]),
        (("price", "<=", 15), [3, 4]),
        (("price", ">", 20), [2]),
        (("price", ">=", 300.5), [2]),
        (("id", "in", [1, 4]), [1, 4]),
        (("lang", "not in", ["de"]), [1, 2, 4]),
        (("title", "contains", "BIKE"), [1, 2]),
        (("title", "starts with", "Red"), [1]),
        (("tags", "has", "b"), [1, 2]),
        (("lang", "is null", None), [4]),
        (("open", "=", True), [1, 3]),
        (("tags", "is not null", None), [1, 2, 3]),
    ],
)
def test_every_operator_of_a_filter_does_what_it_says(
    shop: str, condition: tuple[str, str, Any], wanted: list[int]
) -> None:
    assert sorted(ids(ask(shop, "search", searched(condition)))) == wanted


@pytest.mark.parametrize(
    "value", ["'; DROP TABLE docs; --", "$1", "' OR true OR title = '", "\\'; --", "x'||(SELECT 1)||'", '"', "$$a$$"]
)
def test_words_of_an_agent_never_become_sql(dsn: str, db: Connection, docs: None, value: str) -> None:
    answer = ask(dsn, "search", searched(("title", "=", value), ("lang", "not in", [value, "$2"])))
    assert answer["hits"] == []
    assert db.execute("SELECT count(*) FROM docs").fetchone() == (4,)


def test_a_column_is_a_column_of_the_collection_or_the_filter_is_refused() -> None:
    for odd in ('id" = 1 OR "id', "ctid", "docs", "id = 1 --"):
        with pytest.raises(ArgumentError, match=r"has no column .*it has: id"):
            compiled([Condition(column=odd, operator="=", value=1)], ["id"], "docs")


def test_a_column_with_quotes_and_dollars_in_its_name_can_be_filtered_by(dsn: str, db: Connection, docs: None) -> None:
    db.execute("""ALTER TABLE docs ADD COLUMN "a""b $1 ' c" int""")
    db.execute("""UPDATE docs SET "a""b $1 ' c" = 7 WHERE id = 2""")
    assert ids(ask(dsn, "search", searched(("""a"b $1 ' c""", "=", 7)))) == [2]


def test_similar_finds_more_like_a_row(shop: str) -> None:
    answer = ask(shop, "similar", {"collection": "docs", "key": {"id": 1}, "k": 2})
    assert 1 not in ids(answer)
    assert len(answer["hits"]) == 2


def test_words_and_meaning_together_where_the_collection_keeps_words(shop: str) -> None:
    assert ids(ask(shop, "search", searched(words=True, k=1))) == [1]


def test_a_sidecar_judges_texts_and_what_was_found(dsn: str, db: Connection, docs: None) -> None:
    asked = {"query": "b", "documents": ["a cup", "a bulb and a ball"], "k": 1}
    with running(Sidecar(dsn, Settings(), load_reranker=Judge().load)):
        assert ask(dsn, "rerank", asked) == {"ranking": [{"index": 1, "score": 0.03}]}
        answer = ask(dsn, "search", {"collection": "docs", "query": "u", "rerank": 4, "k": 2})
        assert sorted(ids(answer)) == [2, 4]
        assert [hit["score"] for hit in answer["hits"]] == [0.01, 0.01]
        db.execute("DROP EXTENSION dblink CASCADE")  # then it is asked outside the transaction
        assert ask(dsn, "rerank", asked) == {"ranking": [{"index": 1, "score": 0.03}]}


def test_explain_says_why_a_row_is_found_or_not(dsn: str, db: Connection, docs: None) -> None:
    asked = {"collection": "docs", "query": "red bike"}
    found = ask(dsn, "explain", {**asked, "key": 1})
    assert found["row"] == {
        "exists": True, "embedded": True, "passes_filters": True, "distance": 0.0, "rank": 1, "text": "red bike",
    }  # fmt: skip
    assert found["how"]["kind"] == "exact"
    assert len(db.execute(found["sql"]).fetchall()) == found["found"] == 4
    excluded = ask(dsn, "explain", {**searched(("lang", "=", "de")), "key": {"id": 1}})
    assert excluded["row"]["passes_filters"] is False
    assert "the filters exclude the row" in excluded["notes"]
    assert len(db.execute(excluded["sql"]).fetchall()) == excluded["found"] == 1
    assert ask(dsn, "explain", {**asked, "key": 99})["row"]["exists"] is False
    db.execute("INSERT INTO docs VALUES (5, 'new', 'en', 1, NULL, NULL)")
    missing = ask(dsn, "explain", {**asked, "key": 5})
    assert missing["row"]["embedded"] is False
    assert missing["owed"] == 1


# ---------------------------------------------------------------- Whose rights, and how much


def test_row_security_and_column_rights_of_the_role_hold(dsn: str, db: Connection, docs: None) -> None:
    with logged_in(db, dsn) as role:
        db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        db.execute(f"CREATE POLICY english ON docs TO {role.name} USING (lang = 'en')")
        db.execute(f"GRANT SELECT (id, title, lang) ON docs TO {role.name}")
        db.execute(f"GRANT SELECT ON {_vectors(db)} TO {role.name}")
        own = make_conninfo(dsn, user=role.name, password=PASSWORD)
        for options in ({"dsn": own}, {"dsn": dsn, "role": role.name}):
            answer = ask(tool="search", arguments=searched(), **options)
            assert sorted(ids(answer)) == [1, 2]
            assert "price" not in answer["hits"][0]["row"]
            refused = ask(tool="search", arguments=searched(("price", "<", 20)), **options)
            assert "has no column 'price'" in refused
            hidden = ask(tool="explain", arguments={"collection": "docs", "query": "red bike", "key": 3}, **options)
            assert hidden["row"]["exists"] is False


def _vectors(db: Connection) -> str:
    [[vectors]] = db.execute("SELECT vectors::regclass::text FROM pgmeaning.target").fetchall()
    return str(vectors)


def test_a_collection_that_the_role_may_not_search_is_not_there(dsn: str, db: Connection, docs: None) -> None:
    with logged_in(db, dsn) as role:
        own = make_conninfo(dsn, user=role.name, password=PASSWORD)
        assert ask(own, "collections") == {"collections": []}
        assert "there is no collection 'docs' (collections: none" in ask(own, "search", searched())


def test_only_the_collections_that_are_offered_are_there(shop: str) -> None:
    assert ask(shop, "collections", only=["other"]) == {"collections": []}
    assert "there is no collection 'docs'" in ask(shop, "search", searched(), only=["other"])


def test_a_function_of_a_tables_owner_cannot_write_through_an_agents_search(
    dsn: str, db: Connection, docs: None
) -> None:
    with logged_in(db, dsn) as role:
        db.execute("CREATE TABLE seen (id int)")
        db.execute("GRANT INSERT ON seen TO PUBLIC")
        db.execute(
            "CREATE FUNCTION note(id int) RETURNS bool LANGUAGE plpgsql VOLATILE "
            "AS 'BEGIN INSERT INTO public.seen VALUES (id); RETURN true; END'"
        )
        db.execute("ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
        db.execute("CREATE POLICY noting ON docs USING (note(id))")
        db.execute(f"GRANT SELECT ON docs, {_vectors(db)} TO {role.name}")
        answer = ask(make_conninfo(dsn, user=role.name, password=PASSWORD), "search", searched())
    assert "read-only transaction" in answer
    assert db.execute("SELECT count(*) FROM seen").fetchone() == (0,)


def test_a_role_that_cannot_be_taken_is_said_so(dsn: str) -> None:
    with database(dsn, role="nobody_of_that_name") as opened, pytest.raises(SettingsError, match="cannot take role"):
        opened.sees_all()


def test_a_role_beyond_row_security_is_told_of(dsn: str) -> None:
    with database(dsn) as opened:
        assert opened.sees_all() is not None


def test_more_rows_than_allowed_are_refused_with_the_bound(shop: str) -> None:
    assert ask(shop, "search", searched(k=51)) == "51 rows are too many (ask for at most 50)"
    assert ask(shop, "search", searched(k=3, rerank=9), mcp_rows=5) == "9 rows are too many (ask for at most 5)"


def test_long_values_are_cut_and_an_answer_has_an_end(dsn: str, db: Connection, docs: None) -> None:
    db.execute("UPDATE docs SET lang = repeat('x', 5000)")
    answer = ask(dsn, "search", searched(), mcp_value_characters=600, mcp_characters=1000)
    assert answer["hits"][0]["row"]["lang"] == "x" * 600 + "… (4,400 characters more)"
    assert (len(answer["hits"]), answer["left_out"]) == (1, 3)
    assert "3 rows were left out" in answer["notes"][0]


def test_binary_values_are_named_by_their_length(dsn: str, db: Connection, docs: None) -> None:
    db.execute("ALTER TABLE docs ADD COLUMN photo bytea DEFAULT '\\x00ff'")
    assert ask(dsn, "search", searched(k=1))["hits"][0]["row"]["photo"] == "(2 bytes)"


def test_a_question_that_takes_too_long_is_cancelled_and_says_what_to_do(dsn: str, db: Connection, docs: None) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("LOCK TABLE docs")
        answer = ask(dsn, "search", searched(), mcp_timeout=1)
    assert answer.startswith("it took longer than 1 s: ask for fewer rows")


def test_no_sidecar_is_said_with_what_to_do(dsn: str, docs: None) -> None:
    answer = ask(dsn, "search", {"collection": "docs", "query": "never asked"}, mcp_timeout=1.5)
    assert "no sidecar answered" in answer
    assert "Start one that runs model" in answer


def test_without_a_loopback_a_sidecar_is_asked_outside_the_transaction(
    dsn: str, db: Connection, docs: None, sidecar: object
) -> None:
    db.execute("DROP EXTENSION dblink CASCADE")
    assert len(ask(dsn, "search", {"collection": "docs", "query": "a cup"})["hits"]) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"collection": "docs"}, "query: Field required. It takes: collection, query, k"),
        ({"collection": "docs", "query": "x", "limit": 3}, "limit: Extra inputs are not permitted"),
        ({"collection": "docs", "query": "x", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"collection": "docs", "query": "x", "filters": "id = 1"}, "filters: Input should be a valid tuple"),
        ({"collection": "nope", "query": "x"}, "there is no collection 'nope' (collections: docs)"),
        (searched(("price", "<", "cheap")), 'invalid input syntax for type numeric: "cheap"'),
        (searched(("id", "in", 3)), "'in' on column 'id' takes a list of values, not 3"),
        (searched(("id", "=", [3])), "'=' on column 'id' takes one value, not [3]"),
        (searched(("id", "is null", 3)), "takes no value"),
        (searched(columns=["nope"]), "has no column 'nope' (it has: id, title"),
    ],
)
def test_wrong_arguments_are_said_in_words_that_an_agent_can_act_on(
    shop: str, arguments: dict[str, Any], words: str
) -> None:
    assert words in ask(shop, "search", arguments)


def test_a_connection_that_the_server_ended_is_made_again(dsn: str, db: Connection, docs: None) -> None:
    async def work(client: Client) -> Any:
        first = await client.call_tool("collections", {})
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgmeaning mcp'")
        return first, await client.call_tool("collections", {})

    first, second = session(dsn, work)
    assert first.structured_content == second.structured_content


def test_many_questions_at_once_share_the_connections(dsn: str, db: Connection, docs: None) -> None:
    async def work(client: Client) -> Any:
        answers: list[Any] = []

        async def one() -> None:
            answers.append(await client.call_tool("search", searched(k=1)))

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(one)
        return answers, db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgmeaning mcp'"
        ).fetchone()

    answers, connections = session(dsn, work, mcp_connections=2)
    assert [ids(answer.structured_content) for answer in answers] == [[1]] * 12
    assert connections == (2,)


# ---------------------------------------------------------------- Transports, as processes


def test_a_client_starts_the_command_and_searches_over_stdio(shop: str) -> None:
    async def run() -> Any:
        command = StdioServerParameters(
            command=sys.executable, args=["-m", "pgmeaning", "mcp"], env=_environment(PGMEANING_DSN=shop)
        )
        answers = []
        for mode in REVISIONS:
            async with Client(command, mode=mode) as client:
                answers.append(await client.call_tool("search", searched(k=1)))
        return answers

    assert [ids(answer.structured_content) for answer in anyio.run(run)] == [[1], [1]]


def test_over_http_who_has_the_token_is_served_and_nobody_else(shop: str) -> None:
    with serving(shop, PGMEANING_MCP_TOKEN=TOKEN) as (url, _):

        async def run(token: str, mode: str) -> Any:
            headers = {"Authorization": f"Bearer {token}"}
            async with (
                httpx2.AsyncClient(headers=headers, timeout=30) as http,
                Client(streamable_http_client(url, http_client=http), mode=mode) as client,
            ):
                return await client.call_tool("search", searched(k=1))

        for mode in REVISIONS:
            assert ids(anyio.run(run, TOKEN, mode).structured_content) == [1]
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            refused = httpx2.post(url, json={}, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer realm="pgmeaning"')
            assert "Authorization: Bearer TOKEN" in refused.text
        rebound = httpx2.post(url, json={}, headers={"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"})
        assert rebound.status_code == 421


def test_without_a_token_one_is_made_and_printed_and_the_port_is_on_loopback_alone(shop: str) -> None:
    with serving(shop) as (url, token):
        assert len(token) >= 32
        assert url.startswith("http://127.0.0.1:")


def test_a_token_that_could_be_guessed_is_refused(dsn: str) -> None:
    with database(dsn) as opened, pytest.raises(SettingsError, match="fewer than 16 characters"):
        application(opened, "secret")


def test_a_port_that_is_taken_is_said_so(dsn: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "pgmeaning", "mcp", "--http", "--port", port]
        ended = subprocess.run(command, env=_environment(PGMEANING_DSN=dsn), capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.stderr


@contextmanager
def serving(dsn: str, **variables: str) -> Iterator[tuple[str, str]]:
    """The command over HTTP on a free port: its URL, and the token that it made. SIGTERM must end it."""
    command = [sys.executable, "-m", "pgmeaning", "mcp", "--http", "--port", "0"]
    environment = _environment(PGMEANING_DSN=dsn, **variables)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.match(r"(http://\S+)(?: token: (\S+))?$", line.strip()):
                    yield found[1], found[2] or ""
                    break
            process.terminate()
            assert process.wait(20) in (0, -15)
        finally:
            process.kill()


def _environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PGMEANING_MCP")}
    return {**kept, **variables}
