"""MTEB's mock tasks: every one that is for texts, by the encoder and by the search; and what these do not ask."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mteb
import pytest

from pgmeaning import Client
from pgmeaning.errors import ArgumentError, CollectionError
from pgmeaning.integrations.mteb import PgmeaningEncoder, PgmeaningSearch

pytestmark = pytest.mark.filterwarnings("default")  # of scikit-learn and of datasets, on tasks so small

TASK: dict[str, Any] = {"task_metadata": SimpleNamespace(name="Mine"), "hf_split": "test", "hf_subset": "default"}
CORPUS = [{"id": "1", "title": "", "text": "rice"}, {"id": "2", "title": "black", "text": "tea"}]


class Queries(list[dict[str, Any]]):
    """As a dataset gives them: by row, or by column."""

    def __getitem__(self, name: Any) -> Any:
        return [each[name] for each in self] if isinstance(name, str) else super().__getitem__(name)


def passed(results: Any) -> set[str]:
    failed = {name: status for name, status in results.items() if isinstance(status, mteb.TaskError)}
    assert not failed, failed
    return {name for name, status in results.items() if status is not None}


def test_the_encoder_passes_every_mock_task_for_texts(shared_client: Client) -> None:
    done = passed(mteb.mock_run(PgmeaningEncoder(shared_client, "synthetic-384", local=True)))
    assert {"MockSTSTask", "MockClusteringTask", "MockClassificationTask", "MockRetrievalTask"} <= done
    assert len(done) > 20


def test_the_search_passes_every_mock_task_of_retrieval(shared_client: Client) -> None:
    done = passed(mteb.mock_run(PgmeaningSearch(shared_client, local=True)))
    assert {"MockRetrievalTask", "MockRerankingTask", "MockInstructionRetrieval"} <= done
    for row in shared_client.status():
        if row["collection"].startswith("mteb_"):
            shared_client.detach(row["collection"])
            shared_client.connection.execute(f'DROP TABLE "{row["collection"]}"'.encode())


def test_a_second_index_embeds_what_has_changed_and_forgets_the_rest(shared_client: Client, table: str) -> None:
    model = PgmeaningSearch(shared_client, table=table, local=True, collection=None)
    model.index(CORPUS, **TASK)
    assert model._store is not None
    collection = model._store.collection
    stamps = f"SELECT id, embedded_at FROM {collection}_embedding ORDER BY id"
    first = shared_client.connection.execute(stamps.encode()).fetchall()
    model.index([CORPUS[0], {"id": "3", "text": "bread"}], **TASK)
    second = shared_client.connection.execute(stamps.encode()).fetchall()
    assert first[0] == second[0]
    found = model.search(Queries([{"id": "q", "text": "bread"}, {"id": "blank", "text": " "}]), top_k=9, **TASK)
    assert list(found["q"]) == ["3", "1"]
    assert found["blank"] == {}
    some = model.search(Queries([{"id": "q", "text": "bread"}]), top_k=9, top_ranked={"q": ["1"]}, **TASK)
    assert list(some["q"]) == ["1"]
    shared_client.detach(collection)
    shared_client.connection.execute(f"DROP TABLE {collection}".encode())


def test_a_collection_is_measured_as_it_is(shared_client: Client, table: str) -> None:
    shared_client.connection.execute(
        f"CREATE TABLE {table} (id int PRIMARY KEY, body text); "
        f"INSERT INTO {table} VALUES (1, 'rice'), (2, 'tea')".encode()
    )
    shared_client.attach(table, ["body"])
    shared_client.embed_rows(table, [1, 2])
    model = PgmeaningSearch(shared_client, collection=table, local=True)
    model.index(CORPUS, **TASK)
    assert model.search(Queries([{"id": "q", "text": "tea"}]), top_k=1, **TASK)["q"] == {"2": pytest.approx(1)}
    with pytest.raises(CollectionError, match="lacks 1 of the task's documents, such as '9'"):
        model.index([{"id": "9", "text": "x"}], **TASK)
    assert model.mteb_model_meta.name == "pgmeaning/synthetic-384-search"


def test_a_search_without_an_index_says_so(shared_client: Client) -> None:
    with pytest.raises(ArgumentError, match="no index"):
        PgmeaningSearch(shared_client).search(Queries([]), top_k=1, **TASK)
