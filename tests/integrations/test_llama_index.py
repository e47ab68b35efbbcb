"""LlamaIndex: its store's contract, its filters as its own reference store reads them, its index and ingestion."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import ImageNode, IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStore,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from pgmeaning import Client
from pgmeaning.errors import ArgumentError
from pgmeaning.integrations.llama_index import PgmeaningEmbedding, PgmeaningRetriever, PgmeaningVectorStore

METADATA: list[dict[str, Any]] = [
    {"theme": "Friendship", "year": 1994, "tags": ["a", "b"], "rating": 9.3},
    {"theme": "Mafia", "year": 1972, "tags": ["b"], "rating": 9.2},
    {"theme": "Dream", "year": 2010, "tags": [], "note": "100%"},
    {"theme": None, "year": 2010},
    {},
]


@pytest.fixture
def store(shared_client: Client, table: str) -> PgmeaningVectorStore:
    return PgmeaningVectorStore(shared_client, table, local=True)


@pytest.fixture
def filled(store: PgmeaningVectorStore) -> PgmeaningVectorStore:
    nodes = []
    for place, metadata in enumerate(METADATA):
        source = RelatedNodeInfo(node_id=f"doc-{place % 2}")
        nodes.append(
            TextNode(
                text=f"text {place}",
                id_=f"node-{place}",
                metadata=dict(metadata),
                relationships={NodeRelationship.SOURCE: source},
                excluded_llm_metadata_keys=["year"],
            )
        )
    assert store.add(nodes) == [f"node-{place}" for place in range(len(METADATA))]
    return store


def asked(store: PgmeaningVectorStore, text: str = "text 0", k: int = 10, **query: Any) -> list[str]:
    return list(store.query(VectorStoreQuery(query_str=text, similarity_top_k=k, **query)).ids or [])


def test_it_is_a_store_of_theirs(store: PgmeaningVectorStore) -> None:
    assert isinstance(store, BasePydanticVectorStore)
    assert isinstance(store, VectorStore)
    assert store.class_name() == store.to_dict()["class_name"] == "PgmeaningVectorStore"


OPERATIONS: list[tuple[str, FilterOperator, Any]] = [
    ("theme", FilterOperator.EQ, "Mafia"),
    ("theme", FilterOperator.NE, "Mafia"),
    ("year", FilterOperator.GT, 1972),
    ("year", FilterOperator.GTE, 1994),
    ("year", FilterOperator.LT, 2010),
    ("year", FilterOperator.LTE, 1994),
    ("rating", FilterOperator.GT, 9.25),
    ("year", FilterOperator.IN, [1972, 2010]),
    ("theme", FilterOperator.NIN, ["Mafia", "Dream"]),
    ("tags", FilterOperator.ANY, ["a", "x"]),
    ("tags", FilterOperator.ALL, ["a", "b"]),
    ("tags", FilterOperator.CONTAINS, "b"),
    ("theme", FilterOperator.TEXT_MATCH, "Dream"),
    ("theme", FilterOperator.TEXT_MATCH_INSENSITIVE, "dREAM"),
    ("note", FilterOperator.TEXT_MATCH, "%"),
    ("note", FilterOperator.IS_EMPTY, None),
    ("tags", FilterOperator.IS_EMPTY, None),
]
FILTERS = [MetadataFilter(key=key, operator=operator, value=value) for key, operator, value in OPERATIONS]


def reference(filters: MetadataFilters) -> set[str]:
    """The ids that LlamaIndex's own reading of filters lets through."""
    by_id = {f"node-{place}": metadata for place, metadata in enumerate(METADATA)}
    passes = build_metadata_filter_fn(lambda id: by_id[id], filters)
    return {id for id in by_id if passes(id)}


# Where a value is missing, theirs says no to every comparison; SQL's "not equal" and "not among" say yes.
MISSING = {FilterOperator.NE, FilterOperator.NIN}


def test_every_operator_means_what_it_means_to_llama_index(filled: PgmeaningVectorStore) -> None:
    assert {one.operator for one in FILTERS} == set(FilterOperator)
    for one in FILTERS:
        filters = MetadataFilters(filters=[one])
        wanted = reference(filters)
        if one.operator in MISSING:
            wanted |= {f"node-{place}" for place, about in enumerate(METADATA) if about.get(one.key) is None}
        assert set(asked(filled, filters=filters)) == wanted, one


def test_conditions_may_be_nested(filled: PgmeaningVectorStore) -> None:
    early = MetadataFilter(key="year", operator=FilterOperator.LT, value=2000)
    mafia, dream = MetadataFilter(key="theme", value="Mafia"), MetadataFilter(key="theme", value="Dream")
    either = MetadataFilters(filters=[mafia, dream], condition=FilterCondition.OR)
    for filters, wanted in [
        (either, {"node-1", "node-2"}),
        (MetadataFilters(filters=[either, early]), {"node-1"}),
        (
            MetadataFilters(filters=[early, MetadataFilters(filters=[dream])], condition=FilterCondition.OR),
            {"node-0", "node-1", "node-2"},
        ),
    ]:
        assert set(asked(filled, filters=filters)) == wanted
    none_of = MetadataFilters(filters=[mafia, dream], condition=FilterCondition.NOT)
    assert set(asked(filled, filters=none_of)) == {"node-0", "node-3", "node-4"}


def test_a_node_comes_back_as_it_was(store: PgmeaningVectorStore) -> None:
    nodes = [
        TextNode(text="plain", id_="a", metadata={"x": 1}, excluded_embed_metadata_keys=["x"], start_char_idx=3),
        IndexNode(text="index", id_="b", index_id="other"),
        ImageNode(text="image", id_="c", image_url="http://localhost/x.png", image_mimetype="image/png"),
    ]
    store.add(nodes)
    found = {node.node_id: node for node in store.get_nodes(["a", "b", "c"])}
    for node in nodes:
        assert found[node.node_id].to_dict() == node.to_dict()
        assert type(found[node.node_id]) is type(node)


def test_what_sql_inserts_is_a_node_and_what_sql_changes_is_seen(filled: PgmeaningVectorStore, table: str) -> None:
    filled.client.connection.execute(
        f"INSERT INTO {table} (id, content, metadata) VALUES ('s', 'by SQL', '{{\"n\": 1}}'); "
        f"UPDATE {table} SET metadata = '{{\"changed\": true}}' WHERE id = 'node-1'".encode()
    )
    filled.client.embed_rows(table, ["s"])
    [node] = filled.query(VectorStoreQuery(query_str="by SQL", similarity_top_k=1)).nodes or []
    assert (node.node_id, node.get_content(), node.metadata) == ("s", "by SQL", {"n": 1})
    assert filled.get_nodes(["node-1"])[0].metadata == {"changed": True}


def test_nodes_are_queried_by_text_by_vector_and_among_some(filled: PgmeaningVectorStore) -> None:
    result = filled.query(VectorStoreQuery(query_str="text 3", similarity_top_k=2))
    assert result.ids is not None
    assert result.similarities is not None
    assert result.ids[0] == "node-3"
    assert result.similarities[0] == pytest.approx(1)
    [vector] = filled.client.embed_many(["text 2"], model="synthetic-384", local=True)
    assert filled.query(VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=1)).ids == ["node-2"]
    assert set(asked(filled, doc_ids=["doc-1"])) == {"node-1", "node-3"}
    assert set(asked(filled, node_ids=["node-1", "node-4"])) == {"node-1", "node-4"}
    assert len(asked(filled, node_ids=[], doc_ids=[])) == len(METADATA), "empty lists say nothing"
    assert len(asked(filled, k=2, mode=VectorStoreQueryMode.MMR, mmr_threshold=0.5)) == 2


def test_a_query_that_makes_no_sense_is_refused(filled: PgmeaningVectorStore) -> None:
    with pytest.raises(ArgumentError, match="no query mode 'svm'"):
        asked(filled, mode=VectorStoreQueryMode.SVM)
    with pytest.raises(ArgumentError, match="neither a text nor a vector"):
        filled.query(VectorStoreQuery())
    with pytest.raises(ArgumentError, match="nothing says what to delete"):
        filled.delete_nodes()


@pytest.mark.anyio
async def test_the_asynchronous_methods_do_the_same(store: PgmeaningVectorStore) -> None:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}
    added = [TextNode(text=f"t {n}", id_=f"{n}", relationships=source) for n in range(3)]
    assert await store.async_add(added) == ["0", "1", "2"]
    assert (await store.aquery(VectorStoreQuery(query_str="t 1", similarity_top_k=1))).ids == ["1"]
    await store.adelete_nodes(["0"])
    assert {node.node_id for node in await store.aget_nodes()} == {"1", "2"}
    await store.adelete("doc")
    assert await store.aget_nodes() == []
    await store.aclear()


def test_nodes_are_deleted_by_document_by_id_and_by_filter(filled: PgmeaningVectorStore) -> None:
    filled.delete("doc-1")
    assert {node.node_id for node in filled.get_nodes()} == {"node-0", "node-2", "node-4"}
    filled.delete_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="year", value=2010)]))
    filled.delete_nodes(["node-0", "other"])
    assert [node.node_id for node in filled.get_nodes()] == ["node-4"]
    filled.clear()
    assert filled.get_nodes() == []


def test_an_index_on_the_store_retrieves_by_the_models_of_the_database(filled: PgmeaningVectorStore) -> None:
    index = VectorStoreIndex.from_vector_store(filled, embed_model=MockEmbedding(embed_dim=3))
    index.insert_nodes([TextNode(text="a new text", id_="new")])
    [found] = index.as_retriever(similarity_top_k=1).retrieve("a new text")
    assert found.node.node_id == "new"
    assert found.score == pytest.approx(1)
    index.delete_ref_doc("doc-0", delete_from_docstore=False)
    assert {node.node_id for node in filled.get_nodes()} == {"node-1", "node-3", "new"}


@pytest.mark.anyio
async def test_a_retriever_finds_rows_of_a_table_of_ones_own(shared_client: Client, table: str) -> None:
    shared_client.connection.execute(
        f"CREATE TABLE {table} (id int PRIMARY KEY, title text, body text, price int); "
        f"INSERT INTO {table} VALUES (1, 'Rice', 'white', 5), (2, 'Tea', 'black', 9)".encode()
    )
    shared_client.attach(table, template="{title}: {body}")
    shared_client.embed_rows(table, [1, 2])
    retriever = PgmeaningRetriever(shared_client, table, k=1, local=True)
    [found] = retriever.retrieve("Tea: black")
    assert (found.node.node_id, found.text) == ("2", "Tea: black")
    assert found.score == pytest.approx(1)
    assert found.metadata == {"title": "Tea", "body": "black", "price": 9}
    assert await retriever.aretrieve("Tea: black") == [found]
    cheap = PgmeaningRetriever(shared_client, table, filter="price < $1", filter_params=[6], local=True)
    assert [found.node.node_id for found in cheap.retrieve("anything")] == ["1"]


@pytest.mark.anyio
async def test_embeddings_are_those_of_the_database(shared_client: Client) -> None:
    embedding = PgmeaningEmbedding(shared_client, model="synthetic-384", local=True)
    wanted = shared_client.embed_many(["a", "b"], model="synthetic-384", as_query=False, local=True)
    assert embedding.get_text_embedding_batch(["a", "b"]) == [vector.tolist() for vector in wanted]
    assert embedding.get_text_embedding("b") == wanted[1].tolist()
    assert embedding.get_query_embedding("a") == await embedding.aget_query_embedding("a")
