"""LangChain's own suites for vector stores, retrievers and embeddings, synchronous and asynchronous, all of them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from pgmeaning import Client
from pgmeaning.integrations.langchain import PgmeaningEmbeddings, PgmeaningRetriever, PgmeaningVectorStore

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("shared_sidecar")
class TestWithASidecar(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, shared_client: Client, table: str) -> VectorStore:
        return PgmeaningVectorStore(shared_client, table)


class TestWithoutASidecar(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, shared_client: Client, table: str) -> VectorStore:
        return PgmeaningVectorStore(shared_client, table, local=True)


@pytest.mark.usefixtures("shared_sidecar")
class TestOnATableOfOnesOwn(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, shared_client: Client, table: str) -> VectorStore:
        shared_client.connection.execute(
            f"CREATE TABLE {table} (name varchar(80) PRIMARY KEY, body text, about jsonb, at date)".encode()
        )
        shared_client.attach(table, ["body"])
        return PgmeaningVectorStore(shared_client, table, id="name", content="body", metadata="about")


@pytest.mark.usefixtures("_table_of_ones_own")
class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture
    def _table_of_ones_own(self, shared_client: Client, table: str, shared_sidecar: object) -> None:
        connection = shared_client.connection
        connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, title text, body text)".encode())
        connection.execute(
            f"INSERT INTO {table} SELECT i, 'title ' || i, 'body ' || i FROM generate_series(1, 9) AS i".encode()
        )
        shared_client.attach(table, ["title", "body"])
        shared_client.wait_for(table)
        self._params = {"connection": shared_client, "collection": table}

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return PgmeaningRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {**self._params, "k": 4}

    @property
    def retriever_query_example(self) -> str:
        return "a question"


class EmbeddingsParams:
    @pytest.fixture(autouse=True)
    def _client(self, shared_client: Client) -> None:
        self._connected = shared_client

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return PgmeaningEmbeddings


@pytest.mark.usefixtures("shared_sidecar")
class TestEmbeddings(EmbeddingsParams, EmbeddingsIntegrationTests):
    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"connection": self._connected, "model": "synthetic-384"}


class TestEmbeddingsWithoutASidecar(EmbeddingsParams, EmbeddingsIntegrationTests):
    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"connection": self._connected, "model": "synthetic-384", "local": True}


class TestEmbeddingsUnit(EmbeddingsParams, EmbeddingsUnitTests):
    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"connection": self._connected}
