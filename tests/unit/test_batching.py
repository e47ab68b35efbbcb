"""Batches: every document once, within the budget, equal ones once, and poison alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pgmeaning.models.batches import batches, token_lengths
from pgmeaning.models.synthetic import SyntheticEmbedder
from pgmeaning.models.vectors import Vectors
from pgmeaning.sidecar.batches import embed
from pgmeaning.sidecar.row_vectors import unique
from pgmeaning.types import Document

LENGTHS = st.lists(st.integers(0, 5000))
TEXTS = st.lists(st.text(max_size=3), max_size=40)


class Poisoned(SyntheticEmbedder):
    """Fails each batch that holds a text of the poison."""

    def __init__(self, poison: set[str | None]) -> None:
        super().__init__(32)
        self.poison = poison
        self.calls = 0

    def embed_documents(self, documents: Sequence[Document]) -> Vectors:
        self.calls += 1
        if any(document.text in self.poison for document in documents):
            raise ValueError("poison")
        return super().embed_documents(documents)


def documents(texts: Sequence[str]) -> list[Document]:
    return [Document(text) for text in texts]


@given(LENGTHS, st.integers(1, 9000), st.integers(1, 200))
def test_every_document_is_in_exactly_one_batch(lengths: list[int], budget: int, rows: int) -> None:
    places = [place for batch in batches(lengths, budget, rows) for place in batch.places]
    assert sorted(places) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 9000), st.integers(1, 200))
def test_a_batch_keeps_the_budget_padding_included(lengths: list[int], budget: int, rows: int) -> None:
    for batch in batches(lengths, budget, rows):
        padded = len(batch.places) * max(max(lengths[place] for place in batch.places), 1)
        assert batch.tokens == padded
        assert padded <= budget or len(batch.places) == 1
        assert len(batch.places) <= rows


@given(LENGTHS)
def test_documents_of_similar_length_go_together(lengths: list[int]) -> None:
    order = [lengths[place] for batch in batches(lengths, 4096, 128) for place in batch.places]
    assert order == sorted(lengths, reverse=True)


@given(TEXTS)
def test_equal_documents_are_embedded_once(texts: list[str]) -> None:
    distinct, places = unique(documents(texts))
    assert len(distinct) == len(set(texts))
    assert [distinct[place].text for place in places] == texts


def test_documents_that_differ_only_in_their_instruction_are_two() -> None:
    distinct, _ = unique([Document("a"), Document("a", instruction="find"), Document("a")])
    assert len(distinct) == 2


@given(st.lists(st.integers(0, 60), unique=True, min_size=1, max_size=60), st.data())
def test_the_poison_of_a_batch_is_found_and_all_others_get_their_own_vectors(
    keys: list[int], data: st.DataObject
) -> None:
    texts = [str(key) for key in keys]
    poison: set[str | None] = set(data.draw(st.lists(st.sampled_from(texts), unique=True)))
    embedded = embed(Poisoned(poison), documents(texts), 32)
    assert {texts[place] for place in embedded.errors} == poison
    good = [text for text in texts if text not in poison]
    assert [texts[place] for place in embedded.places] == good
    assert np.array_equal(
        embedded.vectors, SyntheticEmbedder(32).embed_documents(documents(good)) if good else np.empty((0, 32))
    )


def test_one_poison_among_128_costs_few_calls_of_the_model() -> None:
    model = Poisoned({"77"})
    embed(model, documents([str(number) for number in range(128)]), 32)
    assert model.calls == 1 + 2 * 7


def test_a_shorter_vector_is_the_beginning_at_unit_length() -> None:
    whole = embed(Poisoned(set()), documents(["a", "b"]), 32).vectors
    short = embed(Poisoned(set()), documents(["a", "b"]), 16).vectors
    assert np.allclose(np.linalg.norm(short, axis=1), 1)
    assert np.allclose(short, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True))


def test_a_model_that_counts_too_few_lengths_loses_no_document() -> None:
    class _Forgetful(SyntheticEmbedder):
        def count_tokens(self, documents: Sequence[Document]) -> list[int]:
            return [1]

    assert len(token_lengths(_Forgetful(32), documents(["a", "b", "c"]))) == 3
