"""What Haystack's suites do not ask: retrievers, the ranker, pipelines in files, blobs, errors."""

from __future__ import annotations

from typing import Any, cast

import pytest
from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.utils import Secret

from pgmeaning import Client
from pgmeaning.integrations.haystack import (
    PgmeaningDocumentStore,
    PgmeaningEmbeddingRetriever,
    PgmeaningRanker,
    PgmeaningRetriever,
)
from tests.needs import needs_package

DOCUMENTS = [
    Document(id="1", content="rice", meta={"lang": "en", "at": "2024-05-01T10:00:00+02:00", "by": {"name": "Ann"}}),
    Document(id="2", content="bread", meta={"lang": "de"}),
    Document(id="3", content="tea", meta={"lang": "en"}),
]


@pytest.fixture
def store(shared_client: Client, table: str) -> PgmeaningDocumentStore:
    made = PgmeaningDocumentStore(shared_client, table, local=True)
    made.write_documents(DOCUMENTS)
    return made


@pytest.mark.anyio
async def test_documents_are_retrieved_by_text_and_by_vector(
    store: PgmeaningDocumentStore, shared_client: Client
) -> None:
    english = {"field": "meta.lang", "operator": "==", "value": "en"}
    retriever = PgmeaningRetriever(store, filters=english, top_k=2)
    [best, _] = found = retriever.run("tea")["documents"]
    assert (best.id, best.content, best.meta) == ("3", "tea", {"lang": "en"})
    assert best.score == pytest.approx(1)
    assert await retriever.run_async("tea") == {"documents": found}
    german = {"field": "lang", "operator": "==", "value": "de"}
    assert [each.id for each in retriever.run("tea", filters=german, top_k=5)["documents"]] == ["2"]
    merging = PgmeaningRetriever(store, filters=english, filter_policy="merge")
    assert merging.run("tea", filters=german)["documents"] == []
    [vector] = shared_client.embed_many(["tea"], model="synthetic-384", local=True)
    by_vector = PgmeaningEmbeddingRetriever(store, top_k=1)
    assert [each.id for each in by_vector.run(vector.tolist())["documents"]] == ["3"]
    assert (await by_vector.run_async(vector.tolist()))["documents"][0].id == "3"


def test_a_document_comes_back_with_all_that_it_has(store: PgmeaningDocumentStore) -> None:
    document = Document(
        content="full",
        blob=ByteStream(b"\x00\xff", meta={"a": 1}, mime_type="image/png"),
        embedding=[0.1, 0.25],
        sparse_embedding=SparseEmbedding([1, 5], [0.5, 0.25]),
        meta={"list": [1, 2.5, None], "meta": "x"},
    )
    assert store.write_documents([document]) == 1
    assert store.filter_documents({"field": "id", "operator": "==", "value": document.id}) == [document]


def test_filters_reach_into_meta_and_compare_dates(store: PgmeaningDocumentStore) -> None:
    cases: list[tuple[str, str, Any, list[str]]] = [
        ("meta.by.name", "==", "Ann", ["1"]),
        ("meta.at", "==", "2024-05-01T08:00:00+00:00", ["1"]),
        ("meta.at", "!=", "2024-05-01T08:00:00+00:00", ["2", "3"]),
        ("meta.at", "<", "2024-05-01T08:00:01", ["1"]),
        ("content", "in", ["rice", "tea"], ["1", "3"]),
        ("id", "not in", ["1"], ["2", "3"]),
    ]
    for field, operator, value, wanted in cases:
        filters = {"field": field, "operator": operator, "value": value}
        assert sorted(each.id for each in store.filter_documents(filters)) == wanted, filters


def test_filters_that_make_no_sense_are_refused(store: PgmeaningDocumentStore) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"field": "meta.x", "operator": "~", "value": 1}, "no operator '~'"),
        ({"operator": "XOR", "conditions": []}, "no operator 'XOR'"),
        ({"operator": "AND", "conditions": ["x"]}, "is a mapping"),
    ]
    for filters, said in cases:
        with pytest.raises(FilterError, match=said):
            store.filter_documents(filters)


def test_a_duplicate_says_which_one_and_writes_nothing(store: PgmeaningDocumentStore) -> None:
    with pytest.raises(DuplicateDocumentError, match=r"\(1\) already exists"):
        store.write_documents([Document(id="9", content="x"), DOCUMENTS[0]], policy=DuplicatePolicy.FAIL)
    assert store.count_documents() == 3
    assert store.write_documents([Document(id="9"), DOCUMENTS[0]], policy=DuplicatePolicy.SKIP) == 1


def test_a_pipeline_survives_a_file(shared_dsn: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMEANING_DSN", shared_dsn)
    store = PgmeaningDocumentStore(table=table, local=True, dimensions=64)
    pipeline = Pipeline()
    pipeline.add_component("retriever", PgmeaningRetriever(store, top_k=1, filter_policy="merge"))
    written = pipeline.dumps()
    assert shared_dsn not in written
    read = Pipeline.loads(written)
    again = cast(PgmeaningRetriever, read.get_component("retriever")).document_store
    assert again.to_dict() == store.to_dict()
    again.write_documents(DOCUMENTS)
    assert [each.id for each in read.run({"retriever": {"query": "bread"}})["retriever"]["documents"]] == ["2"]
    again.close()
    by_vector = PgmeaningEmbeddingRetriever(store, top_k=3)
    assert PgmeaningEmbeddingRetriever.from_dict(by_vector.to_dict()).top_k == 3
    with pytest.raises(TypeError, match="cannot be serialised"):
        PgmeaningDocumentStore(cast(Any, again)).to_dict()
    with pytest.raises(ValueError, match="must be a PgmeaningDocumentStore"):
        PgmeaningRetriever(cast(Any, "store"))


def test_a_store_connects_on_first_use() -> None:
    store = PgmeaningDocumentStore(Secret.from_token("host=127.0.0.1 port=1"))
    with pytest.raises(Exception, match="connection"):
        store.count_documents()


@pytest.mark.local_model
def test_the_ranker_orders_by_meaning() -> None:
    needs_package("sentence_transformers", "local")
    ranker = PgmeaningRanker("all-MiniLM-L6-v2-late-interaction", top_k=2)
    ranker.warm_up()
    documents = [Document(content="a car needs fuel"), Document(content="rice is boiled in water")]
    best = ranker.run("how to cook rice", documents)["documents"]
    assert [each.content for each in best] == ["rice is boiled in water", "a car needs fuel"]
    assert best[0].score is not None
    assert documents[0].score is None
    assert len(ranker.run("x", documents, top_k=1)["documents"]) == 1
