"""Checks of what every embedder and reranker must do, for authors of backends to run.

    from pgmeaning.models import load_embedder
    from pgmeaning.models.conformance import check_embedder
    check_embedder(load_embedder("my-model"))

A failed check raises an AssertionError that says what is wrong. `EMBEDDER_CHECKS` and `RERANKER_CHECKS` hold the
individual checks, for a test runner's parameters.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from pgmeaning.errors import InputError
from pgmeaning.models.base import Embedder, Reranker
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document

# How much two runs of one input may differ. Half precision needs more.
TOLERANCE = 1e-4

SHORT = "how to cook rice"
LONG = "Rinse the grains until the water runs clear, then simmer them under a lid. " * 6
TEXTS = (
    SHORT,
    LONG,
    "The stock market fell on Tuesday.",
    "Übergrößenträger, 日本語, العربية 🍚",
    "line\nbreak\ttab",
    "x",
)


def check_embedder(embedder: Embedder) -> None:
    """Run all EMBEDDER_CHECKS; raises AssertionError at the first that fails."""
    for check in EMBEDDER_CHECKS:
        check(embedder)


def check_reranker(reranker: Reranker) -> None:
    """Run all RERANKER_CHECKS; raises AssertionError at the first that fails."""
    for check in RERANKER_CHECKS:
        check(reranker)


# ---------------------------------------------------------------- embedders


def vectors_have_the_promised_shape(embedder: Embedder) -> None:
    """float32 [n, dimensions]."""
    for vectors in (embedder.embed_documents(_documents(TEXTS)), embedder.embed_queries(_documents(TEXTS))):
        _require(vectors.dtype == np.float32, f"vectors are {vectors.dtype}, not float32")
        expected = (len(TEXTS), embedder.dimensions)
        _require(vectors.shape == expected, f"vectors have the shape {vectors.shape}, not {expected}")


def vectors_have_unit_length(embedder: Embedder) -> None:
    """Cosine distances and indexes rely on it."""
    for vectors in (embedder.embed_documents(_documents(TEXTS)), embedder.embed_queries(_documents(TEXTS))):
        _require(bool(np.isfinite(vectors).all()), "a vector holds NaN or infinity")
        lengths = np.linalg.norm(vectors, axis=1)
        _require(bool(np.allclose(lengths, 1, atol=1e-3)), f"vectors have lengths {lengths.round(3)}, not 1")


def a_batch_changes_no_vector(embedder: Embedder) -> None:
    """Neither padding nor the rest of the batch may: a row's vector would change with the rows it is embedded with."""
    for embed in (embedder.embed_documents, embedder.embed_queries):
        together = embed(_documents(TEXTS))
        for place, text in enumerate(TEXTS):
            _require_same(embed([Document(text)])[0], together[place], f"{text[:30]!r} alone and in a batch")


def order_is_kept(embedder: Embedder) -> None:
    """Vector i belongs to document i, however the backend sorted the batch."""
    forwards = embedder.embed_documents(_documents(TEXTS))
    backwards = embedder.embed_documents(_documents(TEXTS[::-1]))
    _require_same(forwards, backwards[::-1], "a batch and the same batch backwards")


def the_same_input_gives_the_same_vector(embedder: Embedder) -> None:
    """Also when it is in a batch twice, and when the caller wrote to the first result."""
    first = embedder.embed_documents(_documents([SHORT, LONG, SHORT]))
    _require_same(first[0], first[2], "the same text twice in a batch")
    kept = first.copy()
    first[:] = 0
    _require_same(embedder.embed_documents(_documents([SHORT, LONG, SHORT])), kept, "the same batch twice")


def different_inputs_give_different_vectors(embedder: Embedder) -> None:
    """Otherwise the texts do not reach the model."""
    vectors = embedder.embed_documents(_documents(TEXTS))
    cosines = vectors @ vectors.T - 2 * np.eye(len(TEXTS), dtype=np.float32)
    _require(float(cosines.max()) < 0.999, "two different texts have the same vector")


def no_documents_give_no_vectors(embedder: Embedder) -> None:
    """An empty batch is float32 [0, dimensions]."""
    shape = embedder.embed_documents([]).shape
    _require(shape == (0, embedder.dimensions), f"no documents give the shape {shape}, not (0, {embedder.dimensions})")


def an_empty_text_has_a_vector(embedder: Embedder) -> None:
    """Rows with empty columns exist; a missing text counts as empty."""
    for document in (Document(""), Document(" "), Document()):
        _require_one_vector(embedder, document)


def a_huge_text_has_a_vector(embedder: Embedder) -> None:
    """Text beyond the model's limit is cut off, not refused."""
    for text in ("word " * 50_000, "日本" * 50_000, "x" * 250_000):
        _require_one_vector(embedder, Document(text))


def a_large_batch_is_taken(embedder: Embedder) -> None:
    """Callers may give more than fits at once."""
    count = 300
    vectors = embedder.embed_documents([Document(f"row {place}") for place in range(count)])
    _require(vectors.shape == (count, embedder.dimensions), f"{count} documents give the shape {vectors.shape}")
    _require_same(vectors[-1], embedder.embed_documents([Document(f"row {count - 1}")])[0], "the last of a large batch")


def any_thread_may_embed(embedder: Embedder) -> None:
    """Bulk work and queries come from different threads, but never at the same time."""
    found: list[Vectors] = []
    thread = threading.Thread(target=lambda: found.append(embedder.embed_documents([Document(SHORT)])))
    thread.start()
    thread.join()
    _require(bool(found), "embedding failed in another thread")
    _require_same(found[0], embedder.embed_documents([Document(SHORT)]), "two threads")


def what_cannot_be_embedded_is_an_input_error(embedder: Embedder) -> None:
    """An unreadable image, or any image if the model takes only text; another error would fail the whole batch."""
    try:
        embedder.embed_documents([Document(images=(b"this is no image",))])
    except InputError:
        pass
    except Exception as error:
        raise AssertionError(f"an unreadable image raises {type(error).__name__}, not InputError") from error


def tokens_are_counted(embedder: Embedder) -> None:
    """One integer per document, none negative, more for a longer text: batches are cut by them."""
    counts = embedder.count_tokens(_documents([SHORT, LONG, ""]))
    _require(len(counts) == 3, f"three documents have {len(counts)} token counts")
    _require(all(isinstance(count, int) and count >= 0 for count in counts), f"token counts are {counts}")
    _require(counts[1] > counts[0] >= counts[2], f"a longer text costs no more tokens: {counts}")


# ---------------------------------------------------------------- rerankers


def scores_have_the_promised_shape(reranker: Reranker) -> None:
    """float32 [n], and [0] for no documents."""
    scores = reranker.score(Document(SHORT), _documents(TEXTS))
    _require(scores.dtype == np.float32, f"scores are {scores.dtype}, not float32")
    _require(scores.shape == (len(TEXTS),), f"{len(TEXTS)} documents have scores of the shape {scores.shape}")
    empty = reranker.score(Document(SHORT), [])
    _require(empty.shape == (0,), f"no documents have scores of the shape {empty.shape}")


def scores_lie_between_0_and_1(reranker: Reranker) -> None:
    """Users set thresholds, and scores of two queries are compared."""
    scores = reranker.score(Document(SHORT), _documents(TEXTS))
    _require(bool(((scores >= 0) & (scores <= 1)).all()), f"scores are {scores}, not 0..1")


def a_score_depends_on_its_document_alone(reranker: Reranker) -> None:
    """Not on the order, nor on the other documents: otherwise pages of results would contradict each other."""
    together = reranker.score(Document(SHORT), _documents(TEXTS))
    backwards = reranker.score(Document(SHORT), _documents(TEXTS[::-1]))
    _require_same(together, backwards[::-1], "documents and the same backwards")
    for place, text in enumerate(TEXTS):
        _require_same(reranker.score(Document(SHORT), [Document(text)]), together[place : place + 1], "one alone")


def the_relevant_document_wins(reranker: Reranker) -> None:
    """The least that a reranker must recognise."""
    for query, relevant, other in (
        (SHORT, "Boiling rice: rinse it, add water, simmer.", "The stock market fell on Tuesday."),
        ("shares lost value", "The stock market fell on Tuesday.", "Boiling rice: rinse it, add water, simmer."),
    ):
        first, second = reranker.score(Document(query), _documents([other, relevant]))
        _require(second > first, f"for {query!r} an unrelated text scores {first:.3f}, the relevant one {second:.3f}")


def odd_texts_have_a_score(reranker: Reranker) -> None:
    """Empty, missing and huge texts, as query or as document."""
    odd = [Document(""), Document(), Document("word " * 50_000), Document("日本" * 50_000)]
    for query in (Document(SHORT), Document(""), Document("word " * 50_000)):
        scores = reranker.score(query, odd)
        _require(bool(((scores >= 0) & (scores <= 1)).all()), f"odd texts have the scores {scores}")


def an_instruction_is_taken(reranker: Reranker) -> None:
    """A model may ignore it, but must not fail."""
    scores = reranker.score(Document(SHORT), _documents(TEXTS), "Prefer recipes.")
    _require(scores.shape == (len(TEXTS),), "with an instruction the scores have another shape")


def what_cannot_be_judged_is_an_input_error(reranker: Reranker) -> None:
    """An unreadable image, or any image if the model takes only text."""
    try:
        reranker.score(Document(SHORT), [Document(images=(b"this is no image",))])
    except InputError:
        pass
    except Exception as error:
        raise AssertionError(f"an unreadable image raises {type(error).__name__}, not InputError") from error


EMBEDDER_CHECKS: tuple[Callable[[Embedder], None], ...] = (
    vectors_have_the_promised_shape,
    vectors_have_unit_length,
    a_batch_changes_no_vector,
    order_is_kept,
    the_same_input_gives_the_same_vector,
    different_inputs_give_different_vectors,
    no_documents_give_no_vectors,
    an_empty_text_has_a_vector,
    a_huge_text_has_a_vector,
    a_large_batch_is_taken,
    any_thread_may_embed,
    what_cannot_be_embedded_is_an_input_error,
    tokens_are_counted,
)

RERANKER_CHECKS: tuple[Callable[[Reranker], None], ...] = (
    scores_have_the_promised_shape,
    scores_lie_between_0_and_1,
    a_score_depends_on_its_document_alone,
    the_relevant_document_wins,
    odd_texts_have_a_score,
    an_instruction_is_taken,
    what_cannot_be_judged_is_an_input_error,
)


def _documents(texts: Sequence[str]) -> list[Document]:
    return [Document(text) for text in texts]


def _require(condition: bool, message: str) -> None:
    # Not the statement `assert`, which python -O removes.
    if not condition:
        raise AssertionError(message)


def _require_same(found: Vectors, expected: Vectors, what: str) -> None:
    distance = float(np.abs(found - expected).max())
    _require(distance <= TOLERANCE, f"{what}: numbers differ by {distance:.2g}, more than {TOLERANCE}")


def _require_one_vector(embedder: Embedder, document: Document) -> None:
    shown = repr(document.text)[:20]
    vectors = embedder.embed_documents([document])
    _require(vectors.shape == (1, embedder.dimensions), f"the text {shown} gives the shape {vectors.shape}")
    _require(bool(np.isfinite(vectors).all() and vectors.any()), f"the text {shown} has no direction")
