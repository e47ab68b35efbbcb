"""Classic rerankers, on tiny random weights: the library's own scores, the registry's length, errors that help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.models import load_reranker
from pgmeaning.models.base import LoadedReranker
from pgmeaning.models.conformance import RERANKER_CHECKS, the_relevant_document_wins
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Model
from tests.needs import needs_package

torch = needs_package("torch", "local")
transformers = needs_package("transformers", "local")
library = needs_package("sentence_transformers", "local")

pytestmark = pytest.mark.local_model

MODEL = Model("tiny", "reranker", "cross_encoder", max_tokens=64)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "rice", "cook", "the", ":", "."]
TEXTS = ["rice", "the cook : rice .", "a b c d e f g " * 5, "", "x"]


def checkpoint(where: Path, labels: int = 1) -> str:
    """A classifier of pairs in a folder, as cross-encoders are published."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), max_position_embeddings=128, initializer_range=0.5, num_labels=labels, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(where)
    (where / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(where / "vocab.txt")).save_pretrained(where)
    return str(where)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return checkpoint(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def reranker(folder: str) -> LoadedReranker:
    return load_reranker(MODEL, location=folder, threads=1)


def sigmoid_of_logits(folder: str, query: str, texts: list[str]) -> Vectors:
    """Computed without sentence-transformers, one pair at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        pairs = [tokenizer([query], [text], return_tensors="pt") for text in texts]
        logits = [network(**pair).logits.item() for pair in pairs]
    return np.asarray(1 / (1 + np.exp(-np.array(logits))), np.float32)


@pytest.mark.parametrize(
    "check", [check for check in RERANKER_CHECKS if check is not the_relevant_document_wins], ids=lambda c: c.__name__
)
def test_a_cross_encoder_conforms(reranker: LoadedReranker, check: Any) -> None:
    check(reranker)  # but for what random weights cannot know


def test_scores_are_the_sigmoid_of_the_models_own_logits(reranker: LoadedReranker, folder: str) -> None:
    scores = reranker.score("cook rice", TEXTS)
    assert np.abs(scores - sigmoid_of_logits(folder, "cook rice", TEXTS)).max() < 1e-5
    assert np.ptp(scores) > 0.01


def test_scores_are_a_sigmoid_even_where_the_checkpoint_says_otherwise(tmp_path: Path) -> None:
    # ms-marco's own activation is none.
    network = library.CrossEncoder(checkpoint(tmp_path), activation_fn=torch.nn.Identity(), device="cpu")
    network.save_pretrained(str(tmp_path / "saved"))
    scores = load_reranker(MODEL, location=tmp_path / "saved", threads=1).score("cook rice", TEXTS)
    assert np.abs(scores - sigmoid_of_logits(str(tmp_path), "cook rice", TEXTS)).max() < 1e-5


def test_many_documents_are_judged_in_parts_and_in_order(reranker: LoadedReranker) -> None:
    texts = [TEXTS[place % len(TEXTS)] for place in range(300)]
    scores = reranker.score("cook rice", texts)
    assert np.abs(scores - np.tile(reranker.score("cook rice", TEXTS), 60)).max() < 1e-5


def test_the_length_is_the_registrys(folder: str) -> None:
    short = load_reranker(replace(MODEL, max_tokens=8), location=folder, threads=1)
    long, cut = short.score("a", ["b c d e f g h i j", "b c d e x x x x"])
    assert long == pytest.approx(cut, abs=1e-6)


@pytest.mark.parametrize("media", [{"image": b"1"}, {"video": b"1"}], ids=["image", "video"])
def test_media_are_refused_with_their_place(reranker: LoadedReranker, media: dict[str, bytes]) -> None:
    with pytest.raises(InputError, match="'tiny' cannot judge images or video, and the document 1 has one"):
        reranker.score("a", ["b", media])
    with pytest.raises(InputError, match="the query has one"):
        reranker.score(media, ["b"])


def test_half_a_surrogate_pair_is_refused(reranker: LoadedReranker) -> None:
    with pytest.raises(InputError, match="not valid Unicode"):
        reranker.score("a", ["\ud800"])


def test_a_classifier_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="'tiny' returns 3 numbers for a pair"):
        load_reranker(MODEL, location=checkpoint(tmp_path, labels=3))


def test_weights_that_are_nowhere_are_unavailable(tmp_path: Path) -> None:
    model = builtin_model("bge-reranker-v2-m3")
    with pytest.raises(ModelUnavailable, match="'bge-reranker-v2-m3': there is no folder '/nowhere'"):
        load_reranker(model, location="/nowhere")
    with pytest.raises(ModelUnavailable, match="cannot be loaded from the folder") as failure:
        load_reranker(model, location=tmp_path)
    assert failure.value.__cause__ is None


def test_nothing_is_printed_while_judging(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    load_reranker(MODEL, location=folder, threads=1).score("a", TEXTS)
    assert capfd.readouterr() == ("", "")
