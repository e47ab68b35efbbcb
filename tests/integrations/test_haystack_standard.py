"""Haystack's own suites for document stores: the extended ones, on metadata, and all of the asynchronous ones."""

from __future__ import annotations

import pytest
from haystack import Document
from haystack.testing.document_store import (
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    DocumentStoreBaseExtendedTests,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldUniqueValuesTest,
)
from haystack.testing.document_store_async import (
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    CountUniqueMetadataByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    GetMetadataFieldMinMaxAsyncTest,
    GetMetadataFieldsInfoAsyncTest,
    GetMetadataFieldUniqueValuesAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
)

from pgmeaning import Client
from pgmeaning.integrations.haystack import PgmeaningDocumentStore


class Store:
    @pytest.fixture
    def document_store(self, shared_client: Client, table: str) -> PgmeaningDocumentStore:
        return PgmeaningDocumentStore(shared_client, table, local=True)

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        """A table has no order."""

        def by_id(document: Document) -> str:
            return document.id

        assert sorted(received, key=by_id) == sorted(expected, key=by_id)


class TestDocuments(Store, DocumentStoreBaseExtendedTests):
    @pytest.mark.usefixtures("shared_sidecar")
    def test_write_documents(self, shared_client: Client, table: str) -> None:  # type: ignore[override]
        """Which the base class has each store write: NONE means FAIL; with a sidecar, for once."""
        store = PgmeaningDocumentStore(shared_client, table)
        documents = [Document(content="test doc"), Document(content="another", meta={"a": [1, {"b": None}]})]
        assert store.write_documents(documents) == 2
        self.assert_documents_are_equal(store.filter_documents(), documents)
        with pytest.raises(Exception, match=r"OVERWRITE would replace it"):
            store.write_documents(documents)


class TestMetadata(
    Store,
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldUniqueValuesTest,
):
    pass


@pytest.mark.anyio
class TestAsync(
    Store,
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    CountUniqueMetadataByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    GetMetadataFieldMinMaxAsyncTest,
    GetMetadataFieldsInfoAsyncTest,
    GetMetadataFieldUniqueValuesAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
):
    async def test_write_documents_async(self, document_store: PgmeaningDocumentStore) -> None:
        """Which the base class has each store write."""
        documents = [Document(content="test doc")]
        assert await document_store.write_documents_async(documents) == 1
        assert await document_store.filter_documents_async() == documents
