"""The built-in models, releases and templates, and what a fingerprint tells apart."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgmeaning.errors import ModelNotFound
from pgmeaning.models.registry import (
    builtin_model,
    builtin_models,
    current_release,
    fingerprint,
    located,
    releases,
    templates,
)
from pgmeaning.types import Model

# name -> dimensions, smallest prefix, tokens, status: from the models' own documentation.
PUBLISHED = {
    "Qwen3-VL-Embedding-8B": (4096, 64, 8192, "default"),
    "Qwen3-VL-Embedding-2B": (2048, 64, 8192, "supported"),
    "Qwen3-VL-Reranker-8B": (0, None, 10240, "default"),
    "Qwen3-VL-Reranker-2B": (0, None, 10240, "supported"),
    "Qwen3-Embedding-0.6B": (1024, 32, 32768, "deprecated"),
    "Qwen3-Embedding-4B": (2560, 32, 32768, "deprecated"),
    "Qwen3-Embedding-8B": (4096, 32, 32768, "deprecated"),
    "gte-Qwen2-1.5B-instruct": (1536, None, 32768, "deprecated"),
    "gte-Qwen2-7B-instruct": (3584, None, 32768, "deprecated"),
    "e5-mistral-7b-instruct": (4096, None, 4096, "deprecated"),
    "multilingual-e5-large-instruct": (1024, None, 512, "deprecated"),
    "bge-m3": (1024, None, 8192, "deprecated"),
    "bge-large-en-v1.5": (1024, None, 512, "deprecated"),
    "nomic-embed-text-v1.5": (768, 64, 8192, "deprecated"),
    "all-MiniLM-L6-v2": (384, None, 256, "supported"),
    "all-MiniLM-L6-v2-late-interaction": (0, None, 256, "supported"),
    "bge-reranker-v2-m3": (0, None, 1024, "supported"),
    "ms-marco-MiniLM-L6-v2": (0, None, 512, "supported"),
    "clip-vit-large-patch14": (768, None, 77, "deprecated"),
    "jina-clip-v2": (1024, 64, 8192, "deprecated"),
    "gme-Qwen2-VL-2B-Instruct": (1536, None, 32768, "deprecated"),
    "gme-Qwen2-VL-7B-Instruct": (3584, None, 32768, "deprecated"),
    "synthetic-4096": (4096, 2, None, "supported"),
    "synthetic-384": (384, 2, None, "supported"),
}

MODEL = Model("m", "embedder", "sentence_transformers", location="a/m", dimensions=8, options={"a": 1, "b": 2})


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_is_registered_as_it_was_published(name: str) -> None:
    model = builtin_model(name)
    assert (model.dimensions, model.min_dimensions, model.max_tokens, model.status) == PUBLISHED[name]


def test_nothing_else_is_registered() -> None:
    assert builtin_models().keys() == PUBLISHED.keys()


@pytest.mark.parametrize("model", builtin_models().values(), ids=lambda model: model.name)
def test_a_model_says_what_it_is(model: Model) -> None:
    assert model.kind in ("embedder", "reranker")
    assert (model.dimensions > 0) == (model.kind == "embedder")
    assert set(model.modalities) <= {"text", "image", "video"}
    assert model.template is None or model.template in templates()


def test_each_kind_has_one_default() -> None:
    defaults = [(model.kind, model.name) for model in builtin_models().values() if model.status == "default"]
    assert sorted(defaults) == [("embedder", "Qwen3-VL-Embedding-8B"), ("reranker", "Qwen3-VL-Reranker-8B")]


def test_one_release_is_current() -> None:
    assert [release for release in releases().values() if release.current] == [current_release()]


@pytest.mark.parametrize("release", releases().values(), ids=lambda release: release.name)
def test_a_release_names_models_that_exist(release: Any) -> None:
    assert builtin_model(release.embedder).dimensions >= release.dimensions
    assert builtin_model(release.reranker).kind == "reranker"


def test_the_embedding_template_is_what_the_checkpoint_was_trained_on() -> None:
    assert templates()["qwen3-vl"] == (
        "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )


def test_the_reranking_template_is_what_the_checkpoint_was_trained_on() -> None:
    assert templates()["qwen3-vl-reranker"] == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: {instruction}<Query>:{query}\n<Document>:{document}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_unknown_name_is_refused_with_a_near_one() -> None:
    with pytest.raises(ModelNotFound, match="did you mean Qwen3-VL-Embedding-8B"):
        builtin_model("qwen3-vl-embeding-8b")


def test_a_name_that_is_near_to_none_is_refused_with_all_names() -> None:
    with pytest.raises(ModelNotFound, match=r"known: .*bge-m3"):
        builtin_model("§")


def test_a_caller_cannot_spoil_the_registry() -> None:
    before = fingerprint(builtin_model("nomic-embed-text-v1.5"))
    builtin_model("nomic-embed-text-v1.5").options["layer_norm_before_cut"] = False  # type: ignore[index]
    builtin_models().clear()
    assert fingerprint(builtin_model("nomic-embed-text-v1.5")) == before


# ---------------------------------------------------------------- fingerprints


def test_a_fingerprint_never_changes() -> None:
    # Databases keep it. If this fails, vectors that can be compared would be taken for ones that cannot.
    assert (
        fingerprint(builtin_model("all-MiniLM-L6-v2"))
        == "5fbd036f434787d36b83f14f04cc394586e05f344f8badae2714df6aaad401f7"
    )
    assert (
        fingerprint(builtin_model("Qwen3-VL-Embedding-8B"))
        == "587f1931d8e02e52c32cc41e3b434957d68f3919c59e9e14792f46931317d52e"
    )


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint(replace(MODEL, options={"b": 2, "a": 1})) == fingerprint(MODEL)


def test_a_fingerprint_does_not_depend_on_the_order_of_modalities() -> None:
    both = replace(MODEL, modalities=("text", "image"))
    assert fingerprint(replace(MODEL, modalities=("image", "text"))) == fingerprint(both)


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"status": "retired"}, {"min_dimensions": 4}, {"backend": "http"}], ids=str
)
def test_what_changes_no_vector_keeps_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(replace(MODEL, **change)) == fingerprint(MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"backend": "synthetic"}, {"location": "somebody/other"}, {"revision": "abc"}, {"dimensions": 4},
        {"max_tokens": 10}, {"template": "qwen3-vl"}, {"pooling": "cls"}, {"normalize": False},
        {"query_prompt": "q: {text}"}, {"document_prompt": "d: {text}"}, {"modalities": ("text", "image")},
        {"options": {"a": 1, "b": 3}}, {"options": {"a": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_vectors_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(replace(MODEL, **change)) != fingerprint(MODEL)


def test_a_template_counts_by_its_text_and_not_its_name() -> None:
    named, spelled = replace(MODEL, template="qwen3-vl"), replace(MODEL, template=templates()["qwen3-vl"])
    assert fingerprint(named) == fingerprint(spelled)


def test_the_two_layouts_of_a_template_never_meet() -> None:
    exact, figure = replace(MODEL, template="qwen3-vl"), replace(MODEL, template="qwen3-vl-figure")
    assert fingerprint(exact) != fingerprint(figure)


def test_no_two_built_in_models_share_a_fingerprint() -> None:
    found = [fingerprint(model) for model in builtin_models().values()]
    assert len(set(found)) == len(found)


def test_options_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(replace(MODEL, options={"a": float("nan")}))


def test_reading_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, pgmeaning.models.registry as r; r.builtin_models(); "
        "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'psycopg') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_folder_of_models_may_be_a_relative_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models/bge-m3").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert located(builtin_model("bge-m3"), "models").location == str(tmp_path / "models/bge-m3")
    assert located(builtin_model("bge-m3"), None) == builtin_model("bge-m3")
