"""What the stores have in common: tables that are made or taken as they are, read-your-writes, errors."""

from __future__ import annotations

import threading

import pytest

import pgmeaning
from pgmeaning import Client, where
from pgmeaning.errors import ArgumentError, DatabaseError, TimedOut
from pgmeaning.integrations._text_store import DUPLICATE, Layout, Text, TextStore


@pytest.fixture
def store(shared_client: Client, table: str) -> TextStore:
    return TextStore(shared_client, table, local=True)


def texts(*contents: str) -> list[Text]:
    return [Text(str(place), content, {"place": place}) for place, content in enumerate(contents)]


def test_sql_and_the_store_see_the_same_rows(store: TextStore, shared_client: Client, table: str) -> None:
    store.add(texts("rice", "bread"))
    connection = shared_client.connection
    seen = connection.execute(f"SELECT id, content, metadata FROM {table} ORDER BY id".encode()).fetchall()
    assert seen == [("0", "rice", {"place": 0}), ("1", "bread", {"place": 1})]
    connection.execute(f"INSERT INTO {table} (content) VALUES ('tea')".encode())
    shared_client.embed_rows(table, shared_client.find_keys(table))
    [found] = store.search("tea", 1)
    assert (found.content, found.metadata) == ("tea", {})
    assert found.score == pytest.approx(1)
    assert found.id


def test_a_second_store_takes_the_table_as_it_is(store: TextStore, shared_client: Client, table: str) -> None:
    store.add(texts("rice"))
    again = TextStore(shared_client, table, local=True)
    assert again.collection == store.collection
    assert [text.content for text in again.get(["0"])] == ["rice"]


def test_stores_that_are_made_at_the_same_time_make_one_table(shared_dsn: str, table: str) -> None:
    barrier, errors = threading.Barrier(4), []

    def make() -> None:
        barrier.wait()
        try:
            TextStore(shared_dsn, table, local=True).close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_several_threads_may_use_a_store(store: TextStore) -> None:
    def work(number: int) -> None:
        store.add([Text(f"{number}-{place}", f"text {number} {place}") for place in range(3)])
        found[number] = store.search(f"text {number} 1", 1)[0].id

    found: dict[int, str | None] = {}
    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"{number}-1" for number in range(5)}


def test_where_nobody_embeds_the_error_says_what_to_do(dsn: str) -> None:
    with pgmeaning.connect(dsn) as client:
        store = TextStore(client, "texts", wait=0.1)
        with pytest.raises(TimedOut, match="no sidecar has embedded") as refused:
            store.add(texts("rice"))
        assert "local=True" in str(refused.value.hint)
        assert store.count() == 1, "it is stored nevertheless"
        client.embed_rows("texts", ["0"])
        assert TextStore(client, "texts", local=True).search("rice", 1)[0].id == "0"


@pytest.mark.usefixtures("shared_sidecar")
def test_with_a_sidecar_what_was_added_is_found_at_once(shared_client: Client, table: str) -> None:
    store = TextStore(shared_client, table, language="english")
    for turn in range(3):
        store.add([Text("same", f"turn number {turn}")])
        assert store.search(f"turn number {turn}", 1)[0].score == pytest.approx(1)
    assert store.search("numbers", 1, mode="hybrid")[0].id == "same"


def test_a_table_of_ones_own_keeps_its_columns(shared_client: Client, table: str) -> None:
    connection = shared_client.connection
    connection.execute(
        f"CREATE TABLE {table} (nr int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text, lang text, price numeric, "
        "twice numeric GENERATED ALWAYS AS (price * 2) STORED)".encode()
    )
    store = TextStore(shared_client, table, local=True, columns=["body"])
    assert store.layout == Layout("nr", "body", None, None, ("lang", "price"))
    assert store.add([Text(None, "rice", {"lang": "en", "price": 2}), Text(None, "Reis", {"lang": "de"})]) == ["1", "2"]
    assert [(text.id, text.metadata) for text in store.search("Reis", 2, where("lang", "=", "de"))] == [
        ("2", {"lang": "de"})
    ]
    assert store.get(["word", "1"])[0].content == "rice"
    with pytest.raises(ArgumentError, match="no column for the metadata 'colour'"):
        store.add([Text(None, "x", {"colour": "red"})])
    with pytest.raises(ArgumentError, match="no metadata 'colour'"):
        store.metadata_operand("colour")
    with pytest.raises(ArgumentError, match="in columns of its own"):
        store.update_where(None, {"lang": "x"})


def test_a_table_that_embeds_several_columns_is_read_not_written(shared_client: Client, table: str) -> None:
    connection = shared_client.connection
    connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, a text, b text)".encode())
    connection.execute(f"INSERT INTO {table} VALUES (1, 'rice', 'with beans')".encode())
    shared_client.attach(table, template="{a}: {b}")
    store = TextStore(shared_client, table, local=True)
    shared_client.embed_rows(table, [1])
    [found] = store.search("rice: with beans", 1)
    assert found.content == store.get(["1"])[0].content == "rice: with beans"
    assert found.metadata == {"a": "rice", "b": "with beans"}
    with pytest.raises(ArgumentError, match="no column of it is the text"):
        store.add(texts("x"))


def test_what_cannot_be_a_store_is_refused(shared_client: Client, table: str) -> None:
    connection = shared_client.connection
    connection.execute(f"CREATE TABLE {table} (a int, b int, body text, PRIMARY KEY (a, b))".encode())
    with pytest.raises(ArgumentError, match=r"the key of .* is a, b"):
        TextStore(shared_client, table, columns=["body"])
    shared_client.detach(table)
    connection.execute(f"DROP TABLE {table}; CREATE TABLE {table} (id int PRIMARY KEY, body text)".encode())
    with pytest.raises(ArgumentError, match="has no column 'text'") as refused:
        TextStore(shared_client, table, layout=Layout("id", "text", None, None), columns=["body"])
    assert "id, body" in str(refused.value.hint)
    with pytest.raises(DatabaseError):
        TextStore(shared_client, "no_such_schema.texts")


def test_texts_that_are_there_are_replaced_skipped_or_refused(store: TextStore) -> None:
    store.add([Text("a", "old", {"x": 1, "y": 2})])
    assert store.add([Text("a", "new", {"x": 3})]) == ["a"]
    assert store.get(["a"])[0].metadata == {"x": 3}, "metadata is replaced, not merged"
    store.add([Text("a", "skipped"), Text("b", "added")], on_conflict="skip")
    assert [text.content for text in store.get(["a", "b"])] == ["new", "added"]
    with pytest.raises(DatabaseError) as refused:
        store.add([Text("c", "c"), Text("a", "x")], on_conflict="fail")
    assert refused.value.sqlstate == DUPLICATE
    assert store.get(["c"]) == []


def test_a_text_without_content_is_kept_but_never_found(store: TextStore) -> None:
    store.add([Text("blank", "  "), Text("none", None), Text("full", "rice")])
    assert store.count() == 3
    assert [text.id for text in store.search("rice", 5)] == ["full"]


def test_texts_are_deleted_and_updated_by_condition(store: TextStore) -> None:
    store.add(texts("rice", "bread", "tea"))
    high = where(store.metadata_operand("place"), ">=", 1)
    assert store.update_where(high, {"seen": True}) == 2
    assert store.count(where(store.metadata_operand("seen"), "=", True)) == 2
    assert store.delete_where(high) == 2
    assert [text.id for text in store.find()] == ["0"]
    assert store.delete(["0", "9"]) == 1
    assert store.delete_where(None) == 0


def test_what_is_found_by_a_vector_of_another_length_is_refused(store: TextStore) -> None:
    store.add(texts("rice"))
    with pytest.raises(DatabaseError):
        store.search([0.1, 0.2], 1)
    with pytest.raises(ArgumentError, match="hybrid"):
        store.search("rice", 1, mode="hybrid")
    assert store.search("rice", 0) == []
