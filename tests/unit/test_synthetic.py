"""Made-up vectors: the same everywhere, and all but orthogonal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgmeaning.models import load_embedder
from pgmeaning.types import Document

FULL = load_embedder("synthetic-4096")

texts = st.text(max_size=200)


@given(texts, texts)
def test_two_texts_are_nearly_orthogonal(one: str, other: str) -> None:
    cosine = float(np.prod(FULL.embed_documents([one, other]), axis=0).sum())
    assert (cosine > 0.999) if one == other else (abs(cosine) < 0.15)


@given(texts, st.integers(2, 4096))
def test_a_shorter_vector_is_the_normalised_beginning(text: str, dimensions: int) -> None:
    beginning = FULL.embed_documents([text])[0, :dimensions]
    shorter = load_embedder("synthetic-4096", dimensions).embed_documents([text])[0]
    assert np.allclose(shorter, beginning / np.linalg.norm(beginning), atol=1e-6)


@given(texts, st.text(max_size=20))
def test_queries_documents_and_instructions_are_all_the_same(text: str, instruction: str) -> None:
    query = FULL.embed_queries([{"text": text, "instruction": instruction}])
    assert np.array_equal(query, FULL.embed_documents([text]))


def test_a_vector_is_the_same_in_every_process_and_release() -> None:
    # Databases of tests and benchmarks keep such vectors.
    vector = FULL.embed_documents(["pgmeaning"])[0, :4]
    assert vector.tolist() == pytest.approx([0.0085978, 0.0191007, -0.0163783, 0.0119524], abs=1e-6)


def test_every_beginning_has_a_direction() -> None:
    # A block that began with zeros would give a 2-dimensional vector of zeros.
    assert FULL.embed_documents([f"row {number}" for number in range(500)]).all()


def test_ten_thousand_rows_have_ten_thousand_vectors() -> None:
    vectors = load_embedder("synthetic-384").embed_documents([f"row {number}" for number in range(10_000)])
    assert len(np.unique(vectors, axis=0)) == 10_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Document(), Document("")),
        (Document("a"), Document("a", images=(b"a",))),
        (Document(images=(b"a",)), Document(videos=(b"a",))),
        (Document(images=(b"a", b"b")), Document(images=(b"abb",))),
        (Document(images=(b"a",)), Document(images=("a",))),
        (Document(images=(Path("a.png"),)), Document(images=(Path("b.png"),))),
        (Document(images=(np.zeros((2, 8), np.uint8),)), Document(images=(np.zeros((4, 4), np.uint8),))),
        (Document(videos=([b"a", b"b"],)), Document(videos=([b"b", b"a"],))),
    ],
    ids=str,
)
def test_different_media_have_different_vectors(one: Document, other: Document) -> None:
    first, second = FULL.embed_documents([one, other])
    assert abs(float(first @ second)) < 0.15


def test_the_same_image_has_the_same_vector() -> None:
    one, other = (Document(images=(np.arange(12, dtype=np.uint8).reshape(2, 2, 3),)) for _ in range(2))
    first, second = FULL.embed_documents([one, other])
    assert np.array_equal(first, second)


def test_half_a_surrogate_pair_is_a_text_like_any_other() -> None:
    assert FULL.embed_documents(["\ud800"]).shape == (1, 4096)
