"""A model behind a real HTTP server passes the suite as the model itself does, and its vectors are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from pgmeaning.models import load_embedder, load_reranker
from pgmeaning.models.base import Embedder, LoadedEmbedder, LoadedReranker, Reranker
from pgmeaning.models.conformance import EMBEDDER_CHECKS, RERANKER_CHECKS
from pgmeaning.models.registry import builtin_model
from tests.engine import Engine, serving
from tests.needs import needs_package

needs_package("sentence_transformers", "local")
needs_package("httpx", "http")

pytestmark = pytest.mark.local_model

TEXTS = ["how to cook rice", "x", "日本語 🍚", ""]


@cache
def minilm() -> LoadedEmbedder:
    return load_embedder("all-MiniLM-L6-v2", threads=1)


@cache
def judge() -> LoadedReranker:
    return load_reranker("all-MiniLM-L6-v2-late-interaction", threads=1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with serving(Engine(lambda texts: minilm().embed_documents(texts), lambda *pair: judge().score(*pair))) as running:
        yield running


@pytest.fixture(scope="module")
def embedder(engine: Engine) -> Embedder:
    return load_embedder(replace(builtin_model("all-MiniLM-L6-v2"), backend="http"), location=engine.url)


@pytest.fixture(scope="module", params=["/rerank", "/score"])
def reranker(engine: Engine, request: pytest.FixtureRequest) -> Reranker:
    model = replace(builtin_model("all-MiniLM-L6-v2-late-interaction"), backend="http")
    return load_reranker(model, location=engine.url, path=request.param)


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_an_embedder_behind_an_endpoint_conforms(check: Callable[[Embedder], None], embedder: Embedder) -> None:
    check(embedder)


@pytest.mark.parametrize("check", RERANKER_CHECKS, ids=lambda check: check.__name__)
def test_a_reranker_behind_an_endpoint_conforms(check: Callable[[Reranker], None], reranker: Reranker) -> None:
    check(reranker)


def test_vectors_are_those_of_the_model_itself(embedder: LoadedEmbedder) -> None:
    assert np.abs(embedder.embed_documents(TEXTS) - minilm().embed_documents(TEXTS)).max() < 1e-6


def test_a_conversation_reaches_the_model_whole(engine: Engine) -> None:
    model = replace(builtin_model("all-MiniLM-L6-v2"), backend="http", template="qwen3-vl", document_prompt="Say so.")
    found = load_embedder(model, location=engine.url).embed_documents(TEXTS)
    assert np.abs(found - minilm().embed_documents([f"Say so.\n{text}\n" for text in TEXTS])).max() < 1e-6


def test_scores_are_those_of_the_model_itself(reranker: LoadedReranker) -> None:
    score = partial(judge().score, "cooking rice", TEXTS)
    assert np.abs(reranker.score("cooking rice", TEXTS) - score()).max() < 1e-6
