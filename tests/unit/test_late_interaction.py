"""The small reranker: token by token, and what does not count."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from pgmeaning.errors import InputError
from pgmeaning.models import load_reranker
from pgmeaning.models.base import LoadedReranker
from pgmeaning.models.registry import builtin_model
from tests.needs import needs_package

torch = needs_package("torch", "local")
needs_package("sentence_transformers", "local")

from pgmeaning.models.late_interaction import LateInteractionReranker, max_sim  # noqa: E402  only where torch is
from pgmeaning.models.sentence_transformers import Encoder, load_encoder  # noqa: E402

pytestmark = pytest.mark.local_model

NAME = "all-MiniLM-L6-v2-late-interaction"
DOCUMENTS = [
    "Boiling rice: rinse it, add water, simmer under a lid.",
    "The stock market fell on Tuesday, and shares of banks lost most.",
    "Attention lets a neural network weigh the words of a sentence.",
]


@cache
def encoder() -> Encoder:
    return load_encoder(builtin_model(NAME), threads=1)


@cache
def reranker() -> LoadedReranker:
    return LoadedReranker(LateInteractionReranker(encoder(), builtin_model(NAME)))


def with_sentence_weight(weight: float) -> LoadedReranker:
    model = replace(builtin_model(NAME), options={"sentence_weight": weight})
    return LoadedReranker(LateInteractionReranker(encoder(), model))


# ---------------------------------------------------------------- MaxSim


def tensor(*rows: Any) -> Any:
    return torch.tensor(rows, dtype=torch.float32)


def test_each_token_of_the_query_takes_its_best_match() -> None:
    query, documents = tensor([1, 0], [0, 1]), tensor([[1, 0], [1, 0]], [[1, 0], [0, 1]])
    every = torch.ones(2, 2, dtype=torch.bool)
    assert max_sim(query, every[0], documents, every).tolist() == pytest.approx([0.5, 1.0])


def test_a_token_weighs_as_much_as_its_vector_is_long() -> None:
    query, documents = tensor([3, 0], [0, 1]), tensor([[1, 0]])
    assert max_sim(query, torch.tensor([True, True]), documents, torch.tensor([[True]])).item() == pytest.approx(0.75)


def test_the_length_of_a_documents_tokens_does_not_count() -> None:
    query, every = tensor([1, 0]), torch.tensor([[True, True]])
    short, long = (max_sim(query, every[0, :1], tensor([[x, x], [0, 1]]), every).item() for x in (1, 100))
    assert short == pytest.approx(long)


def test_what_is_masked_does_not_count_on_either_side() -> None:
    query, documents = tensor([1, 0], [0, 1]), tensor([[0, 1], [1, 0]])
    found = max_sim(query, torch.tensor([True, False]), documents, torch.tensor([[True, False]]))
    assert found.item() == pytest.approx(0.0)


# ---------------------------------------------------------------- the whole


def test_the_relevant_document_wins_for_each_query() -> None:
    queries = ["how to cook rice", "why did equities drop", "transformer models"]
    assert [int(reranker().score(query, DOCUMENTS).argmax()) for query in queries] == [0, 1, 2]


def test_a_text_judged_by_itself_scores_1() -> None:
    assert reranker().score(DOCUMENTS[0], DOCUMENTS[:1]).tolist() == pytest.approx([1.0], abs=1e-5)


def test_the_score_is_the_mean_of_both_judges() -> None:
    both, sentences, tokens = (
        with_sentence_weight(weight).score("how to cook rice", DOCUMENTS) for weight in (0.5, 1.0, 0.0)
    )
    assert np.allclose(both, (sentences + tokens) / 2, atol=1e-6)


def test_the_sentence_judge_is_the_models_own_cosine() -> None:
    query, *documents = encoder().transformer.encode(
        ["how to cook rice", *DOCUMENTS], normalize_embeddings=True, show_progress_bar=False
    )
    cosines = np.stack(documents) @ query
    assert np.allclose(with_sentence_weight(1.0).score("how to cook rice", DOCUMENTS), (1 + cosines) / 2, atol=1e-5)


def test_special_tokens_do_not_match_each_other() -> None:
    # With them every document would have two perfect matches. Asked directly, since a score does not say which tokens
    # it comes from.
    judge = LateInteractionReranker(encoder(), builtin_model(NAME))
    features = encoder().forward(["rice"])
    assert judge._words(features).tolist() == [[False, True, False]]


def test_an_unknown_word_is_a_word() -> None:
    judge = LateInteractionReranker(encoder(), builtin_model(NAME))
    assert judge._words(encoder().forward(["🍚"])).tolist() == [[False, True, False]]


def test_an_empty_text_is_judged_by_its_special_tokens() -> None:
    scores = reranker().score("", ["", "rice"])
    assert scores[0] == pytest.approx(1.0, abs=1e-5)
    assert scores[0] > scores[1]


def test_padding_changes_no_score() -> None:
    together = reranker().score("how to cook rice", [*DOCUMENTS, "rice " * 200])
    alone = [reranker().score("how to cook rice", [document])[0] for document in DOCUMENTS]
    assert np.abs(together[:3] - alone).max() < 1e-5


def test_a_text_is_not_read_beyond_the_models_limit() -> None:
    start = "rice " * 300
    scores = reranker().score("stock market", [start, start + "stock market"])
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("query", "documents", "culprit"),
    [
        ("q", ["a", {"image": b"1"}], "document 1"),
        ({"image": b"1"}, ["a"], "query"),
        ("q", [{"video": "v"}], "document 0"),
    ],
    ids=str,
)
def test_media_are_refused_with_their_place(query: Any, documents: Any, culprit: str) -> None:
    with pytest.raises(InputError, match=f"the {culprit} has one"):
        reranker().score(query, documents)


def test_it_is_found_by_its_name() -> None:
    assert load_reranker(NAME, threads=1).score("rice", ["rice", "stock"]).argmax() == 0
