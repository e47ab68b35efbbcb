"""Packed prompts: the same vectors and scores as padded ones, and others let in between layers."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.models import load_embedder, load_reranker
from pgmeaning.models.base import LoadedEmbedder, LoadedReranker
from pgmeaning.models.loaded import PriorityLock
from pgmeaning.models.registry import builtin_model, fingerprint
from pgmeaning.types import Document

pytest.importorskip("qwen_vl_utils", reason="needs the [qwen] extra")
pytestmark = pytest.mark.local_model

import torch  # noqa: E402  only where the libraries are
from PIL import Image  # noqa: E402

from pgmeaning.models.qwen3_vl import graphs, layers, packing  # noqa: E402
from pgmeaning.models.qwen3_vl.packed import Compiled, PackedModel  # noqa: E402
from pgmeaning.models.qwen3_vl.packing import Prompt  # noqa: E402
from tests.conformance import tiny_qwen  # noqa: E402

EMBEDDER = replace(builtin_model("Qwen3-VL-Embedding-2B"), dimensions=tiny_qwen.HIDDEN)
RERANKER = builtin_model("Qwen3-VL-Reranker-2B")
ON_CPU: dict[str, Any] = {"device": "cpu", "dtype": "float32"}


def image(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def video(count: int = 4) -> list[Image.Image]:
    return [image(512, 256, seed) for seed in range(count)]


BATCHES: dict[str, list[Any]] = {
    "one text": ["how to cook rice"],
    "texts of very different lengths": ["x", "word " * 900, "how to cook rice", "a", "b", "word " * 40],
    "an image": [{"image": image()}],
    "images of several sizes": [{"image": [image(), image(128, 256, 1)], "text": "both"}, {"image": image(64, 64, 2)}],
    "a video": [{"video": video()}],
    "all at once": [
        "short", {"image": image(), "text": "a caption"}, {"video": video(2), "image": image(64, 96, 3), "text": "all"},
        "word " * 300, {"text": ""}, {}, {"image": image(256, 128, 4)}, {"video": video(4), "text": "moving"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("packed")
    return str(tiny_qwen.build_embedder(folder / "embedder")), str(tiny_qwen.build_reranker(folder / "reranker"))


@pytest.fixture(scope="module")
def packed(folders: tuple[str, str]) -> LoadedEmbedder:
    return load_embedder(EMBEDDER, location=folders[0], **ON_CPU)


@pytest.fixture(scope="module")
def padded(folders: tuple[str, str]) -> LoadedEmbedder:
    return load_embedder(EMBEDDER, location=folders[0], packed=False, **ON_CPU)


@pytest.fixture(scope="module")
def rerankers(folders: tuple[str, str]) -> tuple[LoadedReranker, LoadedReranker]:
    ours = load_reranker(RERANKER, location=folders[1], **ON_CPU)
    return ours, load_reranker(RERANKER, location=folders[1], packed=False, **ON_CPU)


def network(embedder: LoadedEmbedder) -> Any:
    return embedder._embedder._network  # type: ignore[attr-defined]


def test_prompts_are_packed_unless_told_otherwise(packed: LoadedEmbedder, padded: LoadedEmbedder) -> None:
    assert network(packed).packs
    assert not network(padded).packs


@pytest.mark.parametrize("batch", BATCHES)
def test_packed_vectors_are_the_padded_ones(packed: LoadedEmbedder, padded: LoadedEmbedder, batch: str) -> None:
    found, expected = packed.embed_documents(BATCHES[batch]), padded.embed_documents(BATCHES[batch])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("batch", BATCHES)
def test_packed_scores_are_the_padded_ones(rerankers: tuple[LoadedReranker, LoadedReranker], batch: str) -> None:
    query = {"text": "red bike", "image": image(64, 64, 9)}
    found, expected = (reranker.score(query, BATCHES[batch]) for reranker in rerankers)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_forward_pass_of_everything_gives_the_same_states(packed: LoadedEmbedder) -> None:
    whole, inputs = network(packed), packed._embedder._inputs  # type: ignore[attr-defined]
    documents = [Document(text="word " * 50), Document(images=(image(),)), Document(videos=(video(),)), Document("x")]
    prompts = [inputs.prompt(document, "Represent the user's input.") for document in documents]
    torch.testing.assert_close(whole._packed(prompts), whole._padded(prompts), atol=3e-5, rtol=0)


def test_positions_are_the_library_s(packed: LoadedEmbedder) -> None:
    whole, inputs = network(packed), packed._embedder._inputs  # type: ignore[attr-defined]
    prompt = inputs.prompt(Document("x", images=(image(), image(128, 256)), videos=(video(),)), "Represent it.")
    pads = whole.tokenizer.image_pad, whole.tokenizer.video_pad
    expected = whole._padded._inputs([prompt])["position_ids"][:, 0].numpy()
    np.testing.assert_array_equal(packing.positions(np.asarray(prompt.ids), prompt, *pads), expected)


def test_an_image_is_cut_up_as_the_processor_does(packed: LoadedEmbedder) -> None:
    vision = network(packed).vision
    found = vision._processor.image_processor(images=[image(128, 64)], do_resize=False, return_tensors="pt")
    torch.testing.assert_close(vision.image(image(128, 64)).patches("cpu"), found["pixel_values"], atol=1e-6, rtol=0)


def test_a_packed_batch_is_cut_by_its_tokens(folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_embedder(EMBEDDER, location=folders[0], batch_tokens=200, **ON_CPU)
    texts = [{"text": "word " * times} for times in (1, 150, 2, 30, 3, 90)]
    seen: list[int] = []
    forward = PackedModel.__call__

    def counting(self: PackedModel, prompts: Any, checkpoint: Any = None) -> torch.Tensor:
        seen.append(sum(len(prompt.ids) for prompt in prompts))
        return forward(self, prompts, checkpoint)

    monkeypatch.setattr(PackedModel, "__call__", counting)
    small.embed_documents(texts)
    assert sum(seen) == sum(small.count_tokens(texts))
    assert all(tokens <= 200 for tokens in seen)
    assert len(seen) <= 3


def test_layers_that_are_not_as_we_know_them_are_padded(packed: LoadedEmbedder, folders: tuple[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "rms_norm", lambda states, weight, epsilon: states * weight)
        other = load_embedder(EMBEDDER, location=folders[0], **ON_CPU)
        assert not network(other).packs
    np.testing.assert_allclose(other.embed_documents(["x"]), packed.embed_documents(["x"]), atol=1e-5)


def test_what_cannot_be_compiled_runs_as_it_is() -> None:
    def stubborn(numbers: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            raise RuntimeError("no")
        return numbers + 1

    compiled = Compiled(stubborn)
    assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert compiled(torch.ones(3)).tolist() == [2, 2, 2]


# ---------------------------------------------------------------- ahead, and in between


def test_what_was_launched_can_be_waited_for_later(packed: LoadedEmbedder) -> None:
    first, second = (packed.begin_documents(BATCHES[name]) for name in ("all at once", "one text"))
    np.testing.assert_allclose(second(), packed.embed_documents(BATCHES["one text"]), atol=1e-6)
    np.testing.assert_allclose(first(), packed.embed_documents(BATCHES["all at once"]), atol=1e-6)


def test_an_image_that_was_prepared_ahead_is_not_read_twice(
    packed: LoadedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [Document(images=(image(seed=seed),)) for seed in range(3)]
    expected = packed.embed_documents(documents)
    vision, seen = network(packed).vision, []
    read = vision.image

    def counting(source: Any) -> Any:
        seen.append(source)
        return read(source)

    monkeypatch.setattr(vision, "image", counting)
    packed.prepare(documents)
    packed.prepare(documents)
    np.testing.assert_allclose(packed.embed_documents(documents), expected, atol=1e-6)
    assert len(seen) == 3


def test_an_image_that_cannot_be_prepared_fails_its_own_call(packed: LoadedEmbedder) -> None:
    broken = Document(images=(b"this is no image",))
    packed.prepare([broken])
    with pytest.raises(InputError):
        packed.begin_documents([broken])
    assert len(packed.begin_documents(["x"])()) == 1


def test_images_are_ready_before_the_call_and_one_that_cannot_be_read_stands_alone(
    packed: LoadedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [Document(images=(image(seed=1),)), Document(images=(b"this is no image",)), Document("x")]
    first, bad, last = packed.ready(documents)
    assert isinstance(bad.error, InputError)
    monkeypatch.setattr(network(packed).vision, "image", None)  # nothing is read any more
    assert len(packed.embed_documents([*first.documents, *last.documents])) == 2


def test_a_text_that_was_counted_is_not_tokenised_again(
    packed: LoadedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, seen = network(packed).tokenizer, []
    encode = tokenizer.encode

    def counting(prompts: Any) -> Any:
        seen.extend(prompts)
        return encode(prompts)

    monkeypatch.setattr(tokenizer, "encode", counting)
    texts: list[Any] = ["counted once", {"text": "with an image", "image": image()}]
    packed.count_tokens(texts)
    packed.embed_documents(texts)
    assert len(seen) == 2


def test_bulk_work_stops_between_layers(packed: LoadedEmbedder) -> None:
    stops: list[int] = []
    packed.checkpoint = lambda: stops.append(1)
    try:
        packed.embed_documents(["x"])
        packed.embed_queries(["x"])
    finally:
        packed.checkpoint = None
    assert len(stops) == 2  # one a layer; a query stops for nobody


def test_a_query_goes_through_in_the_middle_of_a_batch(packed: LoadedEmbedder) -> None:
    lock, started, answered = PriorityLock(), threading.Event(), threading.Event()
    expected = packed.embed_documents(["x", "word " * 50])

    def query() -> None:
        started.set()
        with lock.query():
            packed.embed_queries(["how to cook rice"])
        answered.set()

    def checkpoint() -> None:
        if not started.is_set():
            threading.Thread(target=query).start()
            while not lock._waiting_queries:
                started.wait(0.001)
        lock.give_way()

    packed.checkpoint = checkpoint
    try:
        with lock.bulk():
            finish = packed.begin_documents(["x", "word " * 50])
            assert answered.is_set()
    finally:
        packed.checkpoint = None
    np.testing.assert_allclose(finish(), expected, atol=1e-6)


def test_the_budget_follows_the_device(packed: LoadedEmbedder) -> None:
    assert packed.budget is not None
    assert (packed.budget.tokens, packed.budget.rows, packed.budget.padded) == (1024, 128, False)


# ---------------------------------------------------------------- graphs and 8 bits


def test_a_graph_s_tokens_are_filled_up_behind_the_prompts(packed: LoadedEmbedder) -> None:
    """What a GPU replays, computed here: a sequence of end tokens and empty ones behind change nothing."""
    whole = network(packed)
    prompts = [Prompt(ids) for ids in whole.tokenizer.encode([["how to cook rice"], ["x"]])]
    together = packing.pack(prompts, whole.tokenizer.image_pad, whole.tokenizer.video_pad)
    tokens, ends, last = map(torch.from_numpy, graphs.fill(together, 64, whole.tokenizer.end))
    with torch.inference_mode():
        found = whole._packed._states(tokens, ends, 64, last)[:2]
    torch.testing.assert_close(found, whole.last_hidden(prompts), atol=1e-5, rtol=0)


def test_numbers_in_8_bits_stay_close() -> None:
    numbers = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 8)[:, None]
    small, scale = layers.quantized(numbers)
    relative = (small.float() * scale - numbers).norm(dim=1) / numbers.norm(dim=1)
    assert relative.max() < 0.04


def test_weights_in_8_bits_are_refused_where_the_device_cannot_multiply_them(folders: tuple[str, str]) -> None:
    model = replace(EMBEDDER, options={**EMBEDDER.options, "weights": "fp8"})
    with pytest.raises(ModelUnavailable, match=r"fp8 cannot be multiplied on this device \(cpu\)"):
        load_embedder(model, location=folders[0], **ON_CPU)


def test_weights_in_8_bits_make_another_model() -> None:
    model = replace(EMBEDDER, options={**EMBEDDER.options, "weights": "fp8"})
    assert fingerprint(model) != fingerprint(EMBEDDER)


def test_unknown_weights_are_refused(folders: tuple[str, str]) -> None:
    model = replace(EMBEDDER, options={**EMBEDDER.options, "weights": "fp3"})
    with pytest.raises(ModelUnavailable, match="no weights 'fp3'"):
        load_embedder(model, location=folders[0], **ON_CPU)


# ---------------------------------------------------------------- an empty side of a pair


def test_an_empty_text_is_an_empty_side_and_no_text_is_null(rerankers: tuple[LoadedReranker, LoadedReranker]) -> None:
    judge = rerankers[0]
    empty, absent, word = judge.score("red bike", [{"text": ""}, {}, {"text": "NULL"}])
    assert absent == pytest.approx(word, abs=1e-6)
    assert abs(empty - absent) > 1e-4
