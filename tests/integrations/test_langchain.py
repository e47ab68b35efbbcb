"""What LangChain's suites do not ask: filters, scores, diversity, the retriever's fields, the reranker."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from pgmeaning import Client, where
from pgmeaning.errors import ArgumentError
from pgmeaning.integrations.langchain import (
    PgmeaningEmbeddings,
    PgmeaningReranker,
    PgmeaningRetriever,
    PgmeaningVectorStore,
)
from tests.integration.test_rerank import Judge

BOOKS: list[tuple[str, dict[str, Any]]] = [
    ("rice", {"year": 2019, "lang": "en", "tags": ["food", "grain"], "by": {"name": "Ann"}}),
    ("bread", {"year": 2021, "lang": "de", "tags": ["food"]}),
    ("tea", {"year": 2023, "lang": "en"}),
    ("iron", {"lang": None, "note": "100%"}),
]


@pytest.fixture
def store(shared_client: Client, table: str) -> PgmeaningVectorStore:
    made = PgmeaningVectorStore(shared_client, table, local=True)
    made.add_texts([text for text, _ in BOOKS], [dict(about) for _, about in BOOKS], ids=["1", "2", "3", "4"])
    return made


def found(store: PgmeaningVectorStore, filter: Any) -> set[str]:
    return {document.page_content for document in store.similarity_search("anything", 10, filter=filter)}


def test_filters_mean_what_they_say(store: PgmeaningVectorStore) -> None:
    for filter, wanted in [
        ({}, {"rice", "bread", "tea", "iron"}),
        ({"lang": "en"}, {"rice", "tea"}),
        ({"lang": "en", "year": {"$gt": 2019}}, {"tea"}),
        ({"year": {"$gte": 2019, "$lt": 2023}}, {"rice", "bread"}),
        ({"year": {"$between": [2020, 2022]}}, {"bread"}),
        ({"year": {"$ne": 2019}}, {"bread", "tea", "iron"}),
        ({"lang": {"$in": ["de", None]}}, {"bread", "iron"}),
        ({"lang": {"$nin": ["de", None]}}, {"rice", "tea"}),
        ({"tags": {"$contains": "grain"}}, {"rice"}),
        ({"tags": {"$all": ["food", "grain"]}}, {"rice"}),
        ({"tags": {"$any": ["x", "food"]}}, {"rice", "bread"}),
        ({"tags": ["food"]}, {"bread"}),
        ({"by.name": "Ann"}, {"rice"}),
        ({"by": {"name": "Ann"}}, {"rice"}),
        ({"note": {"$like": "100%"}}, {"iron"}),
        ({"lang": {"$ilike": "E%"}}, {"rice", "tea"}),
        ({"year": {"$exists": False}}, {"iron"}),
        ({"$or": [{"lang": "de"}, {"year": {"$gt": 2022}}]}, {"bread", "tea"}),
        ({"$and": [{"lang": "en"}, {"$not": {"year": 2019}}]}, {"tea"}),
        (where("content", "=", "rice"), {"rice"}),
    ]:
        assert found(store, filter) == wanted, filter


def test_a_filter_that_makes_no_sense_says_what_does(store: PgmeaningVectorStore) -> None:
    for filter, said in [
        ({"year": {"$near": 1}}, r"no operator '\$near'"),
        ({"$xor": []}, r"no operator '\$xor'"),
        ({"$or": {"a": 1}}, "takes a list"),
        ("year > 1", "filter is"),
    ]:
        with pytest.raises(ArgumentError, match=said) as refused:
            found(store, filter)
        assert refused.value.hint


def test_scores_are_similarities(store: PgmeaningVectorStore) -> None:
    [(document, score), *_] = store.similarity_search_with_score("tea", 2)
    assert document.page_content == "tea"
    assert score == pytest.approx(1)
    assert all(0 <= s <= 1 for _, s in store.similarity_search_with_relevance_scores("tea", 4))
    kept = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9})
    assert [document.id for document in kept.invoke("tea")] == ["3"]


@pytest.mark.anyio
async def test_diverse_documents_leave_out_a_twin(store: PgmeaningVectorStore) -> None:
    store.add_texts(["tea"], ids=["5"])
    near = [document.id for document in store.similarity_search("tea", 2)]
    assert sorted(near, key=str) == ["3", "5"]
    options: dict[str, Any] = {"k": 2, "fetch_k": 5, "lambda_mult": 0.4}
    chosen = store.max_marginal_relevance_search("tea", **options)
    assert {document.page_content for document in chosen} > {"tea"}
    vector = store.embeddings.embed_query("tea")
    assert await store.amax_marginal_relevance_search("tea", **options) == chosen
    assert await store.amax_marginal_relevance_search_by_vector(vector, **options) == chosen
    assert store.as_retriever(search_type="mmr", search_kwargs=options).invoke("tea") == chosen


@pytest.mark.anyio
async def test_a_store_from_texts_takes_the_models_of_the_database(shared_client: Client, table: str) -> None:
    embedding = PgmeaningEmbeddings(shared_client, model="synthetic-384", local=True)
    store = await PgmeaningVectorStore.afrom_texts(["rice"], embedding, [{"a": 1}], ids=["x"], table=table)
    assert await store.asimilarity_search("rice", 1) == [Document("rice", id="x", metadata={"a": 1})]
    assert store.embeddings.embed_query("rice") == embedding.embed_query("rice")
    with pytest.raises(ArgumentError, match="the database's own model embeds"):
        PgmeaningVectorStore.from_texts(["rice"], DeterministicFakeEmbedding(size=384), table=table)


def test_documents_are_deleted_by_id_or_by_filter(store: PgmeaningVectorStore) -> None:
    assert store.delete(["1"])
    assert store.delete(filter={"lang": "en"})
    assert found(store, None) == {"bread", "iron"}
    with pytest.raises(ArgumentError, match="nothing says what to delete"):
        store.delete()
    assert store.delete(filter={})
    assert found(store, None) == set()


def test_lists_of_unequal_length_are_refused(store: PgmeaningVectorStore) -> None:
    with pytest.raises(ArgumentError, match="2 texts, 1 metadatas and 2 ids"):
        store.add_texts(["a", "b"], [{}])


def test_a_retriever_finds_rows_of_a_table_of_ones_own(shared_client: Client, table: str) -> None:
    shared_client.connection.execute(
        f"CREATE TABLE {table} (id int PRIMARY KEY, title text, body text, price int); "
        f"INSERT INTO {table} VALUES (1, 'Rice', 'white', 5), (2, 'Tea', 'black', 9)".encode()
    )
    shared_client.attach(table, template="{title}: {body}")
    shared_client.embed_rows(table, [1, 2])
    retriever = PgmeaningRetriever(connection=shared_client, collection=table, local=True, k=1)
    [document] = retriever.invoke("Tea: black")
    assert (document.id, document.page_content) == ("2", "Tea: black")
    assert document.metadata == {"title": "Tea", "body": "black", "price": 9, "score": pytest.approx(1)}
    assert retriever.invoke("Tea: black", filter="price < $1", filter_params=[6])[0].id == "1"
    narrow = PgmeaningRetriever(
        connection=shared_client, collection=table, local=True, content="title", fields=("price",), filter={"price": 5}
    )
    [document] = narrow.invoke("anything")
    assert (document.page_content, sorted(document.metadata)) == ("Rice", ["price", "score"])


def test_a_reranker_orders_and_keeps_the_best() -> None:
    documents = [Document(text, metadata={"n": place}) for place, text in enumerate(["aaa", "a", "aa"])]
    best = PgmeaningReranker(reranker=Judge(), top_n=2).compress_documents(documents, "a")
    assert [document.metadata["n"] for document in best] == [0, 2]
    assert best[0].metadata["relevance_score"] == pytest.approx(0.03)
    assert "relevance_score" not in documents[0].metadata
