"""Qwen3-VL at its full 4096 dimensions, from a row into a vector column and back out of a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pgmeaning
from pgmeaning.settings import Settings
from pgmeaning.sidecar.process import Sidecar
from tests.conftest import running
from tests.images import encoded, noise, plain_image
from tests.needs import needs_package
from tests.types import Connection

needs_package("qwen_vl_utils", "qwen")
pytestmark = pytest.mark.local_model

from tests.conformance import tiny_qwen  # noqa: E402  only where the libraries are

MODEL = "Qwen3-VL-Embedding-8B"
RERANKER = "Qwen3-VL-Reranker-2B"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model in a folder of its name, as PGMEANING_LOCATION takes it."""
    folder = tmp_path_factory.mktemp("models")
    tiny_qwen.build_wide_embedder(folder / MODEL)
    tiny_qwen.build_reranker(folder / RERANKER)
    return folder


def test_a_search_is_reranked_by_text_and_image(
    dsn: str, db: Connection, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGMEANING_LOCATION", str(models))
    db.execute("CREATE TABLE products (id int PRIMARY KEY, title text, photo bytea)")
    db.execute("SELECT pgmeaning.attach('products', '{title}', image => 'photo', model => 'synthetic-384')")
    rows = [(1, "a red bike", None), (2, None, encoded(noise())), (3, "a red square", encoded(plain_image()))]
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO products VALUES (%s, %s, %s)", rows)
    with running(Sidecar(dsn, Settings())), pgmeaning.connect(dsn) as client:
        client.wait_for("products", timeout=60)
        judge = pgmeaning.load_reranker(RERANKER, location=str(models / RERANKER))
        hits = client.search("products", "red bike", k=3, rerank=3, reranker=judge, timeout=60)
    expected = pgmeaning.load_reranker(RERANKER, location=str(models / RERANKER)).score(
        "red bike", [{"text": "a red bike"}, {"image": noise()}, {"text": "a red square", "image": plain_image()}]
    )
    assert [hit.key["id"] for hit in hits] == list(np.argsort(-expected) + 1)
    np.testing.assert_allclose([hit.score for hit in hits], -np.sort(-expected), atol=1e-5)


def test_text_and_images_go_into_a_vector_4096_column_and_are_found(dsn: str, db: Connection, models: Path) -> None:
    db.execute("CREATE TABLE products (id int PRIMARY KEY, title text, photo bytea)")
    db.execute(f"SELECT pgmeaning.attach('products', '{{title}}', image => 'photo', model => '{MODEL}')")
    rows = [(1, "a red bike", None), (2, None, encoded(noise())), (3, "a red square", encoded(plain_image()))]
    with db.cursor() as cursor:
        cursor.executemany("INSERT INTO products VALUES (%s, %s, %s)", rows)
    with running(Sidecar(dsn, Settings(location=str(models)))), pgmeaning.connect(dsn) as client:
        client.wait_for("products", timeout=120)
        embedder = pgmeaning.load_embedder(MODEL, location=str(models / MODEL), device="cpu")
        assert db.execute("SELECT DISTINCT vector_dims(embedding) FROM products_embedding").fetchall() == [(4096,)]
        expected = embedder.embed_documents(
            [{"text": "a red bike"}, {"image": noise()}, {"text": "a red square", "image": plain_image()}]
        )
        for key, vector in enumerate(expected, start=1):
            hit = client.nearest("products", vector, k=1)[0]
            assert hit.key == {"id": key}
            assert hit.distance < 1e-5
        (query,) = embedder.embed_queries(["red bike"])
        nearest = 1 - np.asarray(expected) @ query
        hits = client.search("products", "red bike", k=3, timeout=60)
        assert [hit.key["id"] for hit in hits] == list(np.argsort(nearest) + 1)
        np.testing.assert_allclose([hit.distance for hit in hits], np.sort(nearest), atol=1e-5)
