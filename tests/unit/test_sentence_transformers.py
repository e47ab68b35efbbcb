"""Models that sentence-transformers runs: the library's own vectors, the registry's prompts, pooling and lengths."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgmeaning.errors import InputError, ModelUnavailable
from pgmeaning.models import load_embedder
from pgmeaning.models.base import LoadedEmbedder
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document, Model
from tests.needs import needs_package

torch = needs_package("torch", "local")
transformers = needs_package("transformers", "local")
library = needs_package("sentence_transformers", "local")

from pgmeaning.models import checkpoints, places  # noqa: E402  only where the library is
from pgmeaning.models import sentence_transformers as backend  # noqa: E402

pytestmark = pytest.mark.local_model

TEXTS = ["how to cook rice", "x", "Rinse the grains until the water runs clear. " * 20, "", "日本語 🍚", "a b\n\tc"]


@cache
def minilm() -> LoadedEmbedder:
    return load_embedder("all-MiniLM-L6-v2", threads=1)


@cache
def minilm_library() -> Any:
    folder = places.find_weights(builtin_model("all-MiniLM-L6-v2"))
    return library.SentenceTransformer(str(folder), local_files_only=True, device="cpu")


def encode(texts: list[str]) -> Vectors:
    """What the library itself makes of the texts."""
    found: Vectors = minilm_library().encode(texts, normalize_embeddings=True, show_progress_bar=False)
    return found


# ---------------------------------------------------------------- MiniLM, with its real weights


def test_documents_have_the_librarys_own_vectors() -> None:
    assert np.abs(minilm().embed_documents(TEXTS) - encode(TEXTS)).max() < 1e-6


def test_queries_have_the_librarys_own_vectors() -> None:
    assert np.abs(minilm().embed_queries(TEXTS) - encode(TEXTS)).max() < 1e-6


def test_padding_changes_no_vector() -> None:
    together = minilm().embed_documents(TEXTS)
    alone = np.concatenate([minilm().embed_documents([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5


def test_a_megabyte_is_cut_to_what_the_model_reads() -> None:
    start = "Rinse the grains until the water runs clear. " * 200
    assert np.abs(minilm().embed_documents([start * 120]) - encode([start])).max() < 1e-6


def test_a_megabyte_is_tokenised_only_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = backend.load_encoder(builtin_model("all-MiniLM-L6-v2"), threads=1)
    assert len(encoder.shortened("x" * 1_000_000)) == 256 * 32


def test_a_text_of_ten_characters_a_token_is_read_to_the_limit() -> None:
    # Long words cost few tokens for their length; the guard must not cut before the model would.
    text = "international " * 300
    assert minilm().count_tokens([text]) == [256]
    assert np.abs(minilm().embed_documents([text]) - encode([text])).max() < 1e-6


def test_tokens_are_the_tokenizers_own_up_to_the_limit() -> None:
    assert minilm().count_tokens(["", "a b c", "word " * 1000]) == [2, 5, 256]


def test_no_tokens_are_counted_for_no_documents() -> None:
    assert minilm().count_tokens([]) == []


def test_a_missing_text_is_an_empty_one() -> None:
    missing, empty = minilm().embed_documents([{"text": None}, ""])
    assert np.array_equal(missing, empty)


@pytest.mark.parametrize(("field", "kind"), [("image", "image"), ("video", "video")])
def test_media_are_refused_with_the_place_of_the_input(field: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"cannot embed the {kind} of input 1"):
        minilm().embed_documents(["a", {"text": "b", field: b"1"}])


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="not valid Unicode at character 2"):
        minilm().embed_documents(["日a\ud800"])


class Tokenizer:
    """Fails when two threads use it at once; a real one does so now and then, or counts the other thread's padding."""

    padding_side = "right"

    def __init__(self) -> None:
        self._use = threading.Lock()

    def __call__(self, texts: list[str], **options: Any) -> dict[str, Any]:
        assert self._use.acquire(blocking=False), "two threads tokenise at once"
        time.sleep(0.005)
        self._use.release()
        return {"input_ids": torch.ones(len(texts), 3), "sentence_embedding": torch.ones(len(texts), 2)}


class Network:
    """As much of a SentenceTransformer as an Encoder needs."""

    max_seq_length = 8
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.tokenizer = Tokenizer()
        self.preprocess = self.tokenizer

    def eval(self) -> Network:
        return self

    def modules(self) -> list[object]:
        return []

    def __call__(self, features: dict[str, Any]) -> dict[str, Any]:
        return features


def test_counting_and_embedding_may_overlap() -> None:
    encoder = backend.Encoder(Network(), TINY)
    failures: list[BaseException] = []

    def use(work: Callable[[list[str]], object]) -> None:
        try:
            for _ in range(10):
                work(["a"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=[work]) for work in (encoder.count, encoder.forward, encoder.count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_nothing_is_printed_while_loading_and_embedding(capfd: pytest.CaptureFixture[str]) -> None:
    load_embedder("all-MiniLM-L6-v2", threads=1).embed_documents(["a"] * 40)
    assert capfd.readouterr() == ("", "")


def test_the_threads_are_those_asked_for() -> None:
    load_embedder("all-MiniLM-L6-v2", threads=1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("dtype", "expected"), [(None, "float32"), ("bfloat16", "bfloat16")])
def test_weights_have_the_dtype_asked_for(dtype: str | None, expected: str) -> None:
    encoder = backend.load_encoder(builtin_model("all-MiniLM-L6-v2"), device="cpu", dtype=dtype, threads=1)
    assert encoder.transformer.dtype == getattr(torch, expected)


def test_half_precision_still_gives_float32_vectors() -> None:
    vectors = load_embedder("all-MiniLM-L6-v2", dtype="bfloat16", threads=1).embed_documents(TEXTS[:3])
    assert vectors.dtype == np.float32
    assert (vectors * encode(TEXTS[:3])).sum(axis=1).min() > 0.99


# ---------------------------------------------------------------- where the weights are


def test_weights_that_are_nowhere_are_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "hub_has", lambda name, revision: False)
    with pytest.raises(ModelUnavailable, match=r"'bge-m3'.*BAAI/bge-m3.*option location") as failure:
        load_embedder("bge-m3")
    assert failure.value.__cause__ is None


def test_a_folder_that_does_not_exist_is_named() -> None:
    with pytest.raises(ModelUnavailable, match="'bge-m3': there is no folder '/nowhere/bge-m3'"):
        load_embedder("bge-m3", location="/nowhere/bge-m3")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=f"cannot be loaded from the folder {tmp_path}"):
        load_embedder("bge-m3", location=tmp_path)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ModelUnavailable, match="no dtype 'float31'"):
        load_embedder("all-MiniLM-L6-v2", dtype="float31")


def test_the_packaged_weights_are_found_by_hub_name() -> None:
    found = places.find_weights(builtin_model("all-MiniLM-L6-v2"))
    assert isinstance(found, Path)
    assert (found / "model.safetensors").is_file()


@pytest.fixture
def shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the working directory with a hub name."""
    (folder := tmp_path / "sentence-transformers/all-MiniLM-L6-v2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_folder_in_the_working_directory_shadows_no_packaged_weights(shadow: Path) -> None:
    found = places.find_weights(builtin_model("all-MiniLM-L6-v2"))
    assert isinstance(found, Path)
    assert not found.is_relative_to(Path.cwd())


def test_a_folder_in_the_working_directory_is_not_read_in_place_of_the_hubs(
    shadow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PACKAGED", {})
    with pytest.raises(ModelUnavailable, match=r"is a hub name, and a folder of that name .*write \./sentence-tr"):
        places.find_weights(builtin_model("all-MiniLM-L6-v2"))


def test_a_folder_is_meant_where_it_is_written_as_one(shadow: Path) -> None:
    name = "sentence-transformers/all-MiniLM-L6-v2"
    for written in (f"./{name}", Path(name)):
        assert places.find_weights(builtin_model("all-MiniLM-L6-v2"), written) == shadow


def test_a_location_comes_before_the_packaged_weights(tmp_path: Path) -> None:
    assert places.find_weights(builtin_model("all-MiniLM-L6-v2"), tmp_path) == tmp_path


# ---------------------------------------------------------------- what the registry says, on tiny random weights

TINY = Model("tiny", "embedder", "sentence_transformers", dimensions=32, max_tokens=16, pooling="mean")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "query", "task", ":", "-"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def checkpoint(where: Path, network: type, config: Any) -> str:
    """A plain transformers checkpoint in a folder, without anything that says how to pool."""
    torch.manual_seed(0)
    network(config).save_pretrained(where)
    (where / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(where / "vocab.txt")).save_pretrained(where)
    return str(where)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Reads both ways, counts positions from the first place on: padding goes right."""
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, initializer_range=0.5, **SIZES)
    return checkpoint(tmp_path_factory.mktemp("bert"), transformers.BertModel, config)


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Reads forwards, and knows relative positions alone: padding may go either way."""
    config = transformers.Qwen3Config(
        vocab_size=len(WORDS), num_key_value_heads=2, head_dim=16, initializer_range=0.5, **SIZES
    )
    return checkpoint(tmp_path_factory.mktemp("qwen3"), transformers.Qwen3Model, config)


def tiny(folder: str, dimensions: int = 32, **changes: Any) -> LoadedEmbedder:
    return load_embedder(replace(TINY, **changes), dimensions, location=folder, threads=1)


def hidden(folder: str, text: str) -> Vectors:
    """The hidden states of a text, float32 [tokens, 32], computed without sentence-transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found: Vectors = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
    return found


def unit(vector: Vectors) -> Vectors:
    scaled: Vectors = vector / np.linalg.norm(vector)
    return scaled


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("mean", lambda states: states.mean(axis=0)),
        ("cls", lambda states: states[0]),
        ("last", lambda states: states[-1]),
    ],
    ids=["mean", "cls", "last"],
)
@pytest.mark.parametrize(("kind", "side"), [("folder", "right"), ("causal_folder", "right"), ("causal_folder", "left")])
def test_pooling_is_the_registrys_whatever_the_padding(
    request: pytest.FixtureRequest, kind: str, side: str, pooling: str, pooled: Callable[[Vectors], Vectors]
) -> None:
    where = request.getfixturevalue(kind)
    embedder = tiny(where, pooling=pooling, options={"padding_side": side})
    vectors = embedder.embed_documents(["a b c", "a b c d e f g h"])
    assert np.abs(vectors[0] - unit(pooled(hidden(where, "a b c")))).max() < 1e-5


def test_the_padding_side_is_the_registrys(folder: str) -> None:
    encoder = backend.load_encoder(replace(TINY, options={"padding_side": "left"}), location=folder)
    assert encoder.forward(["a", "a b c"])["attention_mask"][0].tolist() == [0, 0, 1, 1, 1]


def test_the_length_is_the_registrys(folder: str) -> None:
    long, cut = tiny(folder, max_tokens=8).embed_documents(["a b c d e f g h i j", "a b c d e f"])
    assert np.array_equal(long, cut)


def test_a_query_gets_its_prompt_and_a_document_its_own(folder: str) -> None:
    embedder = tiny(folder, query_prompt="query: {text}", document_prompt="- {text}")
    plain = tiny(folder).embed_documents(["query: a b", "- a b"])
    assert np.allclose(embedder.embed_queries(["a b"]), plain[:1], atol=1e-6)
    assert np.allclose(embedder.embed_documents(["a b"]), plain[1:], atol=1e-6)


def test_the_text_may_hold_braces(folder: str) -> None:
    asked = Document("{text} {instruction}", instruction="{text}")
    plain = tiny(folder).embed_documents(["{text}: {text} {instruction}"])
    assert np.allclose(tiny(folder, query_prompt="{instruction}: {text}").embed_queries([asked]), plain, atol=1e-6)


def test_an_instruction_is_the_registrys_unless_a_query_brings_its_own(folder: str) -> None:
    embedder = tiny(folder, query_prompt="task: {instruction} query: {text}", options={"query_instruction": "c d"})
    plain = tiny(folder).embed_documents(["task: c d query: a", "task: e f query: a"])
    found = embedder.embed_queries(["a", {"text": "a", "instruction": "e f"}])
    assert np.allclose(found, plain, atol=1e-6)


def test_a_shorter_vector_is_the_normalised_beginning(folder: str) -> None:
    full = tiny(folder).embed_documents(["a b c"])[0]
    assert np.allclose(tiny(folder, 8, min_dimensions=4).embed_documents(["a b c"])[0], unit(full[:8]), atol=1e-6)


def test_a_layer_norm_comes_before_the_cut(causal_folder: str) -> None:
    full = hidden(causal_folder, "a b c").mean(axis=0)
    expected = unit(((full - full.mean()) / full.std())[:8])
    embedder = tiny(causal_folder, 8, min_dimensions=4, options={"layer_norm_before_cut": True})
    assert np.allclose(embedder.embed_documents(["a b c"])[0], expected, atol=1e-5)


def test_weights_of_another_length_are_refused(folder: str) -> None:
    with pytest.raises(ModelUnavailable, match="has 64 dimensions, the weights that were found give 32"):
        load_embedder(replace(TINY, dimensions=64), location=folder)


def test_many_texts_go_through_in_parts_of_similar_length(folder: str) -> None:
    encoder = backend.load_encoder(TINY, location=folder)
    texts = ["a b c d e f g h i j", "a"] * 200
    parts = list(encoder.run(texts))
    assert sorted(place for places, _ in parts for place in places) == list(range(400))
    assert all(features["input_ids"].numel() <= checkpoints.TOKENS_ON_CPU for _, features in parts)
    assert [features["input_ids"].shape[1] for _, features in parts] == [12, 12, 12, 3]


# ---------------------------------------------------------------- the hub is not asked in vain


def test_the_hub_is_asked_once_and_not_for_every_file(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    seen: list[bool] = []

    def construct(where: str, *, local_files_only: bool, **options: Any) -> None:
        seen.append(local_files_only)
        raise OSError("stop here")

    monkeypatch.setattr(backend, "SentenceTransformer", construct)
    for reachable in (True, False):
        monkeypatch.setattr(places, "hub_has", lambda name, revision, answer=reachable: answer)
        with pytest.raises(ModelUnavailable, match="stop here"):
            load_embedder("bge-m3")
    assert seen == [False, True]
