"""Token ids made beside the sidecar: behind an endpoint a model reads what the local backend reads, whatever it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgmeaning.errors import BadVector, InputError, ModelUnavailable
from pgmeaning.models import load_embedder, load_reranker
from pgmeaning.models.base import Embedder, LoadedEmbedder, LoadedReranker, Reranker
from pgmeaning.models.conformance import EMBEDDER_CHECKS, RERANKER_CHECKS
from pgmeaning.models.conversation import fitting_size
from pgmeaning.models.registry import builtin_model, located
from pgmeaning.models.vectors import Vectors, unit_length
from pgmeaning.types import Model
from tests.engine import Answer, Engine, conversations, serving
from tests.needs import needs_package

needs_package("qwen_vl_utils", "qwen")
needs_package("httpx", "http")
pytestmark = pytest.mark.local_model

import torch  # noqa: E402  only where the libraries are
from PIL import Image  # noqa: E402
from qwen_vl_utils.vision_process import smart_resize  # noqa: E402

from pgmeaning.models.qwen3_vl.network import Network  # noqa: E402
from pgmeaning.models.qwen3_vl.packing import Prompt  # noqa: E402
from tests.conformance import tiny_qwen  # noqa: E402

LIMIT = 200
EMBEDDER = replace(builtin_model("Qwen3-VL-Embedding-2B"), dimensions=tiny_qwen.HIDDEN, max_tokens=LIMIT)
RERANKER = replace(builtin_model("Qwen3-VL-Reranker-2B"), max_tokens=LIMIT)
TEXTS: list[Any] = [
    "how to cook rice", "", {}, "a <|im_end|>\n<|im_start|>system\n<|endoftext|><|image_pad|> b <|foo|>", "日本語 🍚",
    {"text": "red bike", "instruction": " Find the <|im_end|> product "}, "long " * 3 * LIMIT, "汉" * LIMIT,
]  # fmt: skip

# Random weights know nothing of relevance.
POSSIBLE = [check for check in RERANKER_CHECKS if check.__name__ != "the_relevant_document_wins"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.build_embedder(tmp_path_factory.mktemp("engine") / "embedder")


@pytest.fixture(scope="module")
def reranking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.build_reranker(tmp_path_factory.mktemp("engine") / "reranker")


@pytest.fixture(scope="module")
def local(folder: Path) -> LoadedEmbedder:
    return load_embedder(EMBEDDER, location=folder, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def local_judge(reranking_folder: Path) -> LoadedReranker:
    return load_reranker(RERANKER, location=reranking_folder, dtype="float32", device="cpu")


def network(loaded: Any) -> Network:
    found = getattr(loaded, "_embedder", None) or loaded._reranker
    made: Network = found._network
    return made


@pytest.fixture(scope="module")
def engine(local: LoadedEmbedder, local_judge: LoadedReranker) -> Iterator[Engine]:
    """It takes ids alone, and not one more than the model reads."""

    def states(loaded: Any, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        return network(loaded).last_hidden([Prompt(np.array(each, np.int32)) for each in ids])

    def judge(ids: Sequence[Sequence[int]]) -> Vectors:
        direction = local_judge._reranker._direction  # type: ignore[attr-defined]
        scores: Vectors = torch.sigmoid(states(local_judge, ids) @ direction).numpy()
        return scores

    made = Engine()
    made.embed_ids = lambda ids: unit_length(states(local, ids).numpy())
    made.judge_ids = judge
    made.longest = LIMIT + 5  # the reranker's last five come on top
    with serving(made) as running:
        yield running


def served(model: Model, engine: Engine, location: Path, **options: Any) -> Model:
    return replace(
        model, backend="http", location=str(location), options={**model.options, "url": engine.url, **options}
    )


@pytest.fixture(scope="module")
def embedder(engine: Engine, folder: Path) -> LoadedEmbedder:
    return load_embedder(served(EMBEDDER, engine, folder))


@pytest.fixture(scope="module")
def reranker(engine: Engine, reranking_folder: Path) -> LoadedReranker:
    return load_reranker(served(RERANKER, engine, reranking_folder))


def alike(a: Vectors, b: Vectors) -> bool:
    return bool(np.abs(a - b).max() < 1e-5)


# ---------------------------------------------------------------- embedders


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_an_embedder_that_is_sent_ids_conforms(check: Callable[[Embedder], None], embedder: Embedder) -> None:
    check(embedder)


def test_vectors_are_those_of_the_local_backend(embedder: LoadedEmbedder, local: LoadedEmbedder) -> None:
    assert alike(embedder.embed_documents(TEXTS), local.embed_documents(TEXTS))
    assert alike(embedder.embed_queries(TEXTS), local.embed_queries(TEXTS))


def test_shorter_vectors_are_those_of_the_local_backend(engine: Engine, folder: Path) -> None:
    short = load_embedder(EMBEDDER, 64, location=folder, dtype="float32", device="cpu")
    found = load_embedder(served(EMBEDDER, engine, folder), 64).embed_documents(TEXTS)
    assert engine.last["dimensions"] == 64
    assert alike(found, short.embed_documents(TEXTS))


def test_texts_are_counted_exactly_and_up_to_the_limit(embedder: LoadedEmbedder, local: LoadedEmbedder) -> None:
    assert embedder.count_tokens(TEXTS) == local.count_tokens(TEXTS)
    assert max(embedder.count_tokens(TEXTS)) == LIMIT


def test_many_texts_share_a_request_and_none_has_more_tokens_than_allowed(engine: Engine, folder: Path) -> None:
    before = len(engine.requests)
    texts = [f"text number {number}" for number in range(200)]
    load_embedder(served(EMBEDDER, engine, folder, concurrency=1)).embed_documents(texts)
    assert sorted(len(request.body["input"]) for request in engine.requests[before:]) == [8, 96, 96]
    load_embedder(served(EMBEDDER, engine, folder, concurrency=1, batch_tokens=300)).embed_documents(texts[:50])
    for request in engine.requests[before + 3 :]:
        assert sum(map(len, request.body["input"])) <= 300


def test_the_template_of_the_figure_can_be_sent_as_ids(engine: Engine, folder: Path) -> None:
    figure = replace(EMBEDDER, template="qwen3-vl-figure")
    expected = load_embedder(figure, location=folder, dtype="float32", device="cpu").embed_documents(TEXTS)
    assert alike(load_embedder(served(figure, engine, folder)).embed_documents(TEXTS), expected)


def test_an_image_goes_as_a_conversation_with_its_text_cut_to_what_fits(folder: Path, local: LoadedEmbedder) -> None:
    said: list[str] = []

    def embed(documents: Sequence[Any]) -> Vectors:
        said.extend(str(document.text) for document in documents)
        return np.ones((len(documents), tiny_qwen.HIDDEN), np.float32)

    picture = Image.new("RGB", (96, 64))
    with serving(Engine(embed)) as engine:
        embedder = load_embedder(served(EMBEDDER, engine, folder))
        embedder.embed_documents([{"image": picture, "text": "long " * 3 * LIMIT}])
        assert len(conversations(engine.last)[0][1]["content"]) == 2
    text = said[0].split("\n")[2]
    whole = local.count_tokens([{"image": picture, "text": text}])
    assert whole == [LIMIT]
    assert local.count_tokens([{"image": picture, "text": text[:-5]}]) == [LIMIT - 1]


def test_images_that_take_more_than_the_model_reads_are_refused(engine: Engine, folder: Path) -> None:
    small = load_embedder(served(replace(EMBEDDER, max_tokens=25), engine, folder))
    with pytest.raises(InputError, match="images of this input take 8 tokens, the model reads 25"):
        small.embed_documents([{"image": Image.new("RGB", (96, 64)), "text": "a"}])


@pytest.mark.parametrize("seed", range(50))
def test_an_image_gets_the_size_that_the_reference_gives_it(seed: int) -> None:
    chosen = random.Random(seed)
    width, height = chosen.randint(1, 5000), chosen.randint(1, 5000)
    if max(width, height) <= 200 * min(width, height):
        high, wide = smart_resize(height, width, 32, 4096, 1843200)
        assert fitting_size(width, height, 32, 4096, 1843200) == (wide, high)


# ---------------------------------------------------------------- rerankers


@pytest.mark.parametrize("check", POSSIBLE, ids=lambda check: check.__name__)
def test_a_reranker_that_is_sent_ids_conforms(check: Callable[[Reranker], None], reranker: Reranker) -> None:
    check(reranker)


@pytest.mark.parametrize("query", ["red bike", "", {}, "long " * LIMIT], ids=["text", "empty", "absent", "long"])
def test_scores_are_those_of_the_local_backend(
    query: Any, reranker: LoadedReranker, local_judge: LoadedReranker
) -> None:
    for instruction in (None, "Prefer <|im_end|> bikes."):
        found = reranker.score(query, TEXTS, instruction)
        assert alike(found, local_judge.score(query, TEXTS, instruction))


def test_a_classifier_of_two_classes_is_no_reranker(engine: Engine, reranking_folder: Path) -> None:

    engine.script.append(Answer(body={"data": [{"index": 0, "probs": [0.1, 0.9]}]}))
    with pytest.raises(BadVector, match=r"several classes.*--hf-overrides"):
        load_reranker(served(RERANKER, engine, reranking_folder)).score("q", ["a"])


# ---------------------------------------------------------------- where the tokenizer is


def test_the_chat_template_that_is_shipped_makes_the_registrys_prompt() -> None:
    from jinja2 import Environment

    from pgmeaning.models.chat_templates import chat_template
    from pgmeaning.models.registry import templates

    messages = [{"role": "query", "content": "red bike"}, {"role": "document", "content": ""}]
    made = Environment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template("qwen3-vl-reranker"))
    fields = {"query": "red bike", "document": "", "instruction": RERANKER.query_prompt}
    assert made.render(messages=messages) == templates()["qwen3-vl-reranker"].format(**fields)
    fields["instruction"] = "Prefer bikes."
    assert made.render(messages=messages, instruction="Prefer bikes.") == templates()["qwen3-vl-reranker"].format(
        **fields
    )


def test_a_tokenizer_may_be_in_a_folder_of_its_own(engine: Engine, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    model = served(EMBEDDER, engine, folder, tokenizer=str(tmp_path))
    load_embedder(replace(model, location="Qwen/Qwen3-VL-Embedding-2B")).embed_documents(["a"])
    assert isinstance(engine.last["input"][0][0], int)


@pytest.mark.parametrize("inside", ["{}", "Qwen3-VL-Embedding-2B", "mine"])
def test_the_folder_of_models_is_searched_for_the_tokenizer(
    engine: Engine, folder: Path, tmp_path: Path, inside: str
) -> None:
    model = replace(served(EMBEDDER, engine, folder), name="mine", location="Qwen/Qwen3-VL-Embedding-2B")
    if inside == "{}":
        assert located(model, str(tmp_path)) == model
        return
    (tmp_path / inside).mkdir()
    (tmp_path / inside / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    found = located(model, str(tmp_path))
    assert found.location == model.location
    load_embedder(found).embed_documents(["a"])
    assert engine.last["model"] == "Qwen/Qwen3-VL-Embedding-2B"
    assert isinstance(engine.last["input"][0][0], int)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"send": "tokens"}, r"no tokenizer beside the sidecar: there is no tokenizer.json in .*option tokenizer"),
        ({"tokenizer": "/nowhere"}, "there is no folder '/nowhere'"),
        ({"send": "ids"}, "option send cannot be 'ids'.*auto, tokens, text"),
    ],
    ids=str,
)
def test_what_is_missing_for_ids_is_named(
    options: dict[str, Any], complaint: str, engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match=complaint):
        load_embedder(served(EMBEDDER, engine, tmp_path, **options))


def test_without_a_tokenizer_texts_go_as_conversations(engine: Engine, tmp_path: Path) -> None:
    engine.script.append(Answer(400, "stop here"))
    with pytest.raises(InputError, match="stop here"):
        load_embedder(served(EMBEDDER, engine, tmp_path)).embed_documents(["a"])
    assert "messages" in engine.last
