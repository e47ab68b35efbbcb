"""The seams: loading by entry point, inputs of every shape, and vectors that must not get through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pgmeaning.errors import BadVector, InputError, ModelNotFound, ModelUnavailable
from pgmeaning.models import base, load_embedder, load_reranker
from pgmeaning.models.base import LoadedEmbedder, LoadedReranker, as_document, as_documents
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.types import Document, Model


@pytest.mark.parametrize(
    ("item", "document"),
    [
        ("a", Document("a")),
        ({"text": "a"}, Document("a")),
        ({"text": "a", "image": None, "video": None, "instruction": None}, Document("a")),
        ({"image": b"1"}, Document(images=(b"1",))),
        ({"image": [b"1", b"2"]}, Document(images=(b"1", b"2"))),
        ({"video": "a.mp4"}, Document(videos=("a.mp4",))),
        ({"video": [b"1", b"2"]}, Document(videos=([b"1", b"2"],))),
        ({"videos": ["a.mp4", "b.mp4"]}, Document(videos=("a.mp4", "b.mp4"))),
        ({"text": "a", "instruction": "b"}, Document("a", instruction="b")),
    ],
    ids=str,
)
def test_an_input_becomes_a_document(item: Any, document: Document) -> None:
    assert as_document(item) == document


@pytest.mark.parametrize("item", [3, None, ["a"], {"txt": "a"}, {"text": 3}], ids=str)
def test_what_is_no_input_is_refused(item: Any) -> None:
    with pytest.raises(InputError):
        as_document(item)


@pytest.mark.parametrize("items", ["a", {"text": "a"}, Document("a")], ids=str)
def test_a_lone_input_is_not_taken_for_several(items: Any) -> None:
    with pytest.raises(InputError, match="list"):
        as_documents(items)


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        load_embedder("nobody-has-this")


def test_a_reranker_is_no_embedder() -> None:
    with pytest.raises(ModelUnavailable, match="load_reranker"):
        load_embedder("all-MiniLM-L6-v2-late-interaction")


def test_an_embedder_is_no_reranker() -> None:
    with pytest.raises(ModelUnavailable, match="load_embedder"):
        load_reranker("synthetic-384")


class Lacking:
    """An entry point whose packages are not installed."""

    def load(self) -> None:
        raise ImportError("No module named 'something'")


@pytest.mark.parametrize(
    ("backend", "extra"),
    [("qwen3_vl", "qwen"), ("http", "http"), ("sentence_transformers", "local"), ("cross_encoder", "local")],
)
def test_a_backend_whose_packages_are_missing_says_which_extra_brings_them(
    monkeypatch: pytest.MonkeyPatch, backend: str, extra: str
) -> None:
    monkeypatch.setattr(base, "entry_points", lambda group, name: [Lacking()])
    model = Model("m", "embedder", backend, dimensions=8)
    with pytest.raises(ModelUnavailable, match=rf"No module named 'something' .*pgmeaning\[{extra}\]"):
        load_embedder(model)


def test_a_backend_that_is_not_installed_is_named() -> None:
    with pytest.raises(ModelUnavailable, match=r"'nowhere'.*synthetic"):
        load_embedder(replace(builtin_model("synthetic-384"), backend="nowhere"))


@pytest.mark.parametrize("dimensions", [0, 1, 385, -5])
def test_a_dimension_that_the_model_lacks_is_refused(dimensions: int) -> None:
    with pytest.raises(ModelUnavailable, match="2 to 384"):
        load_embedder("synthetic-384", dimensions)


def test_a_model_without_prefixes_has_one_dimension_only() -> None:
    with pytest.raises(ModelUnavailable, match="it has 1024"):
        load_embedder("bge-m3", 512)


class Fixed:
    """Returns what it was made with."""

    dimensions = 2

    def __init__(self, result: Any) -> None:
        self.result = result

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        return np.array(self.result)

    embed_queries = embed_documents

    def count_tokens(self, documents: Sequence[Document]) -> list[int]:
        return [1] * len(documents)

    def score(self, query: Document, documents: Sequence[Document], instruction: str | None = None) -> Vectors:
        return np.array(self.result)


@pytest.mark.parametrize(
    "result", [[[np.nan, 1]], [[np.inf, 0]], [[0, 0]], [[1, 0, 0]], [[1, 0], [1, 0]], [1, 0]], ids=str
)
def test_a_bad_vector_never_gets_through(result: Any) -> None:
    for embed in (LoadedEmbedder(Fixed(result)).embed_documents, LoadedEmbedder(Fixed(result)).embed_queries):
        with pytest.raises(BadVector):
            embed(["a"])


@pytest.mark.parametrize("result", [[np.nan], [-0.1], [1.1], [[0.5]], [0.5, 0.5]], ids=str)
def test_a_bad_score_never_gets_through(result: Any) -> None:
    with pytest.raises(BadVector):
        LoadedReranker(Fixed(result)).score("a", ["b"])


def test_a_vector_of_zeros_stays_one() -> None:
    assert unit_length(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]
