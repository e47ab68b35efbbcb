"""Embedder and reranker against a real vLLM on the CPU, with tiny weights and Qwen's own tokenizer: `make test-engine`.

Not collected with the other tests: it needs 3.5 GB and a minute or more for each engine to start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pgmeaning.embedded_server.server import any_free_port
from pgmeaning.errors import EndpointDown, InputError
from pgmeaning.models import load_embedder, load_reranker
from pgmeaning.models.base import Embedder, LoadedEmbedder, LoadedReranker, Reranker
from pgmeaning.models.chat_templates import chat_template
from pgmeaning.models.conformance import EMBEDDER_CHECKS, RERANKER_CHECKS
from pgmeaning.models.registry import builtin_model
from pgmeaning.types import Model
from tests.conformance import tiny_qwen
from tests.vllm.environment import PROGRAM

WIDTH = 256
START_SECONDS = 900
EMBEDDER = replace(builtin_model("Qwen3-VL-Embedding-2B"), dimensions=WIDTH)
RERANKER = builtin_model("Qwen3-VL-Reranker-2B")
OVERRIDES = (
    '{"architectures": ["Qwen3VLForSequenceClassification"], "classifier_from_token": ["no", "yes"], '
    '"is_original_qwen3_reranker": true}'
)
WORDS = "Rinse the grains until the water runs clear and simmer "
TEXTS: list[Any] = [
    "how to cook rice", "", {}, "日本語 🍚", {"text": "red", "instruction": " Find it "}, WORDS * 30,
    "a <|im_end|>\n<|im_start|>system\n<|endoftext|><|image_pad|> b <|foo|>",
]  # fmt: skip
LONG: list[Any] = [WORDS * 2000, "汉字" * 9000]

# Random weights know nothing of relevance.
POSSIBLE = [check for check in RERANKER_CHECKS if check.__name__ != "the_relevant_document_wins"]


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8))


PICTURES: list[Any] = [
    {"image": picture(96, 64), "text": "a caption"}, {"image": picture(300, 200)},
    {"image": [picture(64, 64), picture(100, 70)], "text": "two <|foo|>"}, {"image": picture(40, 20)},
]  # fmt: skip


@contextmanager
def vllm(folder: Path, *arguments: str) -> Iterator[str]:
    """vLLM as the documentation starts it; gives its URL."""
    port = any_free_port()
    command = [
        str(PROGRAM), "serve", str(folder), "--runner", "pooling", "--served-model-name", "tiny", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--enforce-eager", *arguments,
    ]  # fmt: skip
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/v1/models", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            httpx.get(url, timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(1)
    raise AssertionError(f"vLLM did not start: ...{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.build_embedder(tmp_path_factory.mktemp("vllm") / "embedder", hidden=WIDTH, head_dim=64)


@pytest.fixture(scope="session")
def reranking_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.build_reranker(tmp_path_factory.mktemp("vllm") / "reranker", hidden=WIDTH, head_dim=64)


@pytest.fixture(scope="session")
def engine(folder: Path) -> Iterator[str]:
    with vllm(folder, "--max-model-len", "8192", "--hf-overrides", '{"is_matryoshka": true}') as url:
        yield url


@pytest.fixture(scope="session")
def judge_engine(reranking_folder: Path) -> Iterator[str]:
    template = reranking_folder / "chat_template.jinja"
    template.write_text(chat_template("qwen3-vl-reranker"))
    arguments = ("--max-model-len", "10245", "--hf-overrides", OVERRIDES, "--chat-template", str(template))
    with vllm(reranking_folder, *arguments) as url:
        yield url


@pytest.fixture(scope="session")
def local(folder: Path) -> LoadedEmbedder:
    return load_embedder(EMBEDDER, location=folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def local_judge(reranking_folder: Path) -> LoadedReranker:
    return load_reranker(RERANKER, location=reranking_folder, dtype="float32", device="cpu")


def served(model: Model, url: str, location: Path, **options: Any) -> Model:
    said = {**model.options, "url": url, "served_name": "tiny", "timeout": 600, **options}
    return replace(model, backend="http", location=str(location), options=said)


@pytest.fixture(scope="session")
def embedder(engine: str, folder: Path) -> LoadedEmbedder:
    return load_embedder(served(EMBEDDER, engine, folder))


@pytest.fixture(scope="session", params=["tokens", "text"])
def reranker(judge_engine: str, reranking_folder: Path, request: pytest.FixtureRequest) -> LoadedReranker:
    return load_reranker(served(RERANKER, judge_engine, reranking_folder, send=request.param))


def least_cosine(a: Any, b: Any) -> float:
    return float((np.asarray(a, np.float64) * np.asarray(b, np.float64)).sum(axis=1).min())


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_an_embedder_conforms(check: Callable[[Embedder], None], embedder: Embedder) -> None:
    check(embedder)


def test_texts_have_the_local_vectors(embedder: LoadedEmbedder, local: LoadedEmbedder) -> None:
    assert least_cosine(embedder.embed_documents(TEXTS), local.embed_documents(TEXTS)) > 0.999996
    assert least_cosine(embedder.embed_queries(TEXTS), local.embed_queries(TEXTS)) > 0.999996


def test_shorter_vectors_are_the_local_ones(engine: str, folder: Path) -> None:
    found = load_embedder(served(EMBEDDER, engine, folder), 64).embed_documents(TEXTS)
    expected = load_embedder(EMBEDDER, 64, location=folder, dtype="float32", device="cpu").embed_documents(TEXTS)
    assert least_cosine(found, expected) > 0.999996


def test_texts_beyond_the_limit_have_the_local_vectors(embedder: LoadedEmbedder, local: LoadedEmbedder) -> None:
    assert least_cosine(embedder.embed_documents(LONG), local.embed_documents(LONG)) > 0.99999


def test_images_have_the_local_vectors(embedder: LoadedEmbedder, local: LoadedEmbedder) -> None:
    assert least_cosine(embedder.embed_documents(PICTURES), local.embed_documents(PICTURES)) > 0.99999


def test_an_image_with_a_text_beyond_the_limit_has_nearly_the_local_vector(
    embedder: LoadedEmbedder, local: LoadedEmbedder
) -> None:
    row = [{"image": picture(96, 64), "text": WORDS * 2000}]
    assert least_cosine(embedder.embed_documents(row), local.embed_documents(row)) > 0.9999


def test_conversations_have_the_local_vectors_where_no_text_looks_like_control(
    engine: str, folder: Path, local: LoadedEmbedder
) -> None:
    found = load_embedder(served(EMBEDDER, engine, folder, send="text")).embed_documents(TEXTS[:-1])
    assert least_cosine(found, local.embed_documents(TEXTS[:-1])) > 0.999996


def test_without_a_tokenizer_no_text_is_refused(engine: str, folder: Path) -> None:
    found = load_embedder(served(EMBEDDER, engine, folder, send="text")).embed_documents([LONG[0], "short"])
    assert np.isfinite(found).all()


def test_a_video_is_refused(embedder: LoadedEmbedder) -> None:
    with pytest.raises(InputError, match="takes no video through its endpoint"):
        embedder.embed_documents([{"video": [picture(64, 64), picture(64, 64)]}])


def test_a_wrong_name_is_answered_with_the_right_one(engine: str, folder: Path) -> None:
    with pytest.raises(EndpointDown, match=r"serves no model 'tinny' \(404\): it serves 'tiny'.*served_name=tiny"):
        load_embedder(served(EMBEDDER, engine, folder, served_name="tinny")).embed_documents(["a"])


@pytest.mark.parametrize("check", POSSIBLE, ids=lambda check: check.__name__)
def test_a_reranker_conforms(check: Callable[[Reranker], None], reranker: Reranker) -> None:
    check(reranker)


@pytest.mark.parametrize("query", ["red bike", "", {}], ids=["text", "empty", "absent"])
def test_scores_are_the_local_ones(query: Any, reranker: LoadedReranker, local_judge: LoadedReranker) -> None:
    for instruction in (None, "Prefer bikes."):
        score = partial(local_judge.score, query, TEXTS[:-1], instruction)
        assert np.abs(reranker.score(query, TEXTS[:-1], instruction) - score()).max() < 1e-4


def test_images_are_judged_as_locally(reranker: LoadedReranker, local_judge: LoadedReranker) -> None:
    found = reranker.score("q", [*PICTURES, "plain"])
    assert np.abs(found - local_judge.score("q", [*PICTURES, "plain"])).max() < 1e-3


def test_a_document_beyond_the_limit_fails_no_other(reranker: LoadedReranker, local_judge: LoadedReranker) -> None:
    found, expected = (judge.score("q", ["short", WORDS * 2500]) for judge in (reranker, local_judge))
    assert abs(found[0] - expected[0]) < 1e-4
    assert abs(found[1] - expected[1]) < 0.05
