"""What is sent to an engine, and what is made of its answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgmeaning.client.rerank import loaded_reranker
from pgmeaning.errors import BadVector, InputError, ModelUnavailable
from pgmeaning.models import load_embedder, load_reranker
from pgmeaning.models.base import LoadedEmbedder, LoadedReranker
from pgmeaning.models.vectors import Vectors
from pgmeaning.types import Document, Model
from tests.engine import Answer, Engine, conversations, embeddings, serving
from tests.needs import needs_package

needs_package("httpx", "http")
image = needs_package("PIL.Image", "media")

# Of the synthetic model's family in nothing but the length; a prefix may be asked for.
MODEL = Model("served", "embedder", "http", location="some/model", dimensions=384, min_dimensions=2, max_tokens=100)
QWEN = replace(
    MODEL, template="qwen3-vl", options={"send": "text"}, query_prompt="Find it.", document_prompt="Represent it.",
    modalities=("text", "image", "video"),
)  # fmt: skip
JUDGE = Model("judge", "reranker", "http", location="some/judge", max_tokens=100)


@pytest.fixture
def engine() -> Iterator[Engine]:
    model = load_embedder("synthetic-384")
    with serving(Engine(model.embed_documents)) as running:
        yield running


def load(engine: Engine, model: Model = MODEL, dimensions: int | None = None, **options: Any) -> LoadedEmbedder:
    return load_embedder(model, dimensions, url=engine.url, **options)


def judge(engine: Engine, model: Model = JUDGE, **options: Any) -> LoadedReranker:
    return load_reranker(model, url=engine.url, **options)


def plain_image(colour: Any = "red", mode: str = "RGB") -> Any:
    return image.new(mode, (4, 3), colour)


def decoded(uri: str) -> Any:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return image.open(BytesIO(base64.b64decode(content)))


# ---------------------------------------------------------------- plain models


def test_plain_texts_go_into_one_request(engine: Engine) -> None:
    load(engine).embed_documents(["a", "b"])
    assert [request.path for request in engine.requests] == ["/v1/embeddings"]
    assert engine.last == {"encoding_format": "float", "model": "some/model", "input": ["a", "b"]}


def test_many_texts_go_in_parts_and_come_back_in_order(engine: Engine) -> None:
    texts = [f"text {place}" for place in range(10)]
    vectors = load(engine, batch_rows=3).embed_documents(texts)
    assert sorted(len(request.body["input"]) for request in engine.requests) == [1, 3, 3, 3]
    assert np.allclose(vectors, load_embedder("synthetic-384").embed_documents(texts), atol=1e-6)


def test_prompts_are_the_registrys(engine: Engine) -> None:
    model = replace(
        MODEL, query_prompt="{instruction}: {text}", document_prompt="d: {text}", options={"query_instruction": "task"}
    )
    embedder = load(engine, model)
    embedder.embed_queries(["a {text}", {"text": "b", "instruction": "own"}])
    assert engine.last["input"] == ["task: a {text}", "own: b"]
    embedder.embed_documents(["c"])
    assert engine.last["input"] == ["d: c"]


def test_text_that_the_model_could_not_read_is_not_sent(engine: Engine) -> None:
    load(engine).embed_documents(["x" * 100_000])
    assert engine.last["input"] == ["x" * 3200]


def test_half_a_surrogate_pair_is_refused_before_it_is_sent(engine: Engine) -> None:
    with pytest.raises(InputError, match="not valid Unicode at character 1"):
        load(engine).embed_documents(["a\ud800"])
    assert engine.requests == []


def test_vectors_are_put_into_the_order_of_their_indexes(engine: Engine) -> None:
    first, second = [1.0] + [0.0] * 383, [0.0] * 383 + [1.0]
    answer = embeddings([first, second])
    answer["data"].reverse()
    engine.script.append(Answer(body=answer))
    assert np.array_equal(load(engine).embed_documents(["a", "b"]), np.array([first, second], np.float32))


def test_base64_is_read_where_it_is_asked_for(engine: Engine) -> None:
    vector = load_embedder("synthetic-384").embed_documents(["a"])[0]
    engine.script.append(Answer(body=embeddings([base64.b64encode(vector.astype("<f4").tobytes()).decode()])))
    found = load(engine, extra_body={"encoding_format": "base64"}).embed_documents(["a"])[0]
    assert engine.last["encoding_format"] == "base64"
    assert np.allclose(found, vector, atol=1e-6)


def test_what_the_options_add_goes_into_every_request(engine: Engine) -> None:
    load(engine, extra_body={"truncate_prompt_tokens": -1}, served_name="short", path="/embeddings").embed_queries(
        ["a"]
    )
    assert engine.requests[-1].path == "/embeddings"
    assert engine.last["truncate_prompt_tokens"] == -1
    assert engine.last["model"] == "short"


def test_vectors_get_unit_length(engine: Engine) -> None:
    engine.script.append(Answer(body=embeddings([[3.0] * 384])))
    assert np.linalg.norm(load(engine).embed_documents(["a"])) == pytest.approx(1)


def test_tokens_are_guessed_without_a_request(engine: Engine) -> None:
    assert load(engine).count_tokens(["", "a" * 40, "a" * 4000]) == [1, 11, 100]
    assert load(engine, replace(QWEN, max_tokens=None)).count_tokens([{"image": b"broken"}]) == [1025]
    assert engine.requests == []


# ---------------------------------------------------------------- shorter vectors


def test_fewer_dimensions_are_asked_for(engine: Engine) -> None:
    engine.script.append(Answer(body=embeddings([[1.0] * 8])))
    assert load(engine, dimensions=8).embed_documents(["a"]).shape == (1, 8)
    assert engine.last["dimensions"] == 8


def test_an_engine_that_knows_no_dimensions_is_cut_here(engine: Engine) -> None:
    full = load_embedder("synthetic-384").embed_documents(["a"])[0]
    found = load(engine, dimensions=8).embed_documents(["a"])[0]
    assert np.allclose(found, full[:8] / np.linalg.norm(full[:8]), atol=1e-6)


@pytest.mark.parametrize("said", [{"send_dimensions": False}, {}])
def test_dimensions_are_not_asked_for_where_the_cut_is_ours(engine: Engine, said: dict[str, Any]) -> None:
    model = replace(MODEL, options={} if said else {"layer_norm_before_cut": True})
    full = load_embedder("synthetic-384").embed_documents(["a"])[0]
    expected = full[:8] if said else ((full - full.mean()) / full.std())[:8]
    found = load(engine, model, 8, **said).embed_documents(["a"])[0]
    assert "dimensions" not in engine.last
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


# ---------------------------------------------------------------- conversations


def test_a_conversation_is_the_templates_to_the_letter(engine: Engine) -> None:
    load(engine, QWEN).embed_documents(["a  photo"])
    assert engine.last == {
        "encoding_format": "base64",
        "model": "some/model",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Represent it."}]},
            {"role": "user", "content": [{"type": "text", "text": "a  photo"}]},
            {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        ],
        "continue_final_message": True,
        "add_special_tokens": True,
    }


def content(engine: Engine, role: str = "user") -> Any:
    return next(message["content"] for message in engine.last["messages"] if message["role"] == role)


def test_several_conversations_share_a_request(engine: Engine) -> None:
    texts = ["a", "b", "c"]
    vectors = load(engine, QWEN).embed_documents(texts)
    assert [len(conversations(request.body)) for request in engine.requests] == [3]
    alone = [load(engine, QWEN).embed_documents([text])[0] for text in texts]
    assert np.array_equal(vectors, alone)


def test_an_engine_that_takes_one_conversation_is_sent_one_from_then_on(engine: Engine) -> None:
    engine.takes_several = False
    embedder = load(engine, QWEN)
    vectors = embedder.embed_documents(["a", "b", "c"])
    assert len(engine.requests) == 4
    embedder.embed_documents(["d", "e"])
    assert len(engine.requests) == 6
    alone = [load(engine, QWEN).embed_documents([text])[0] for text in "abc"]
    assert np.array_equal(vectors, alone)


@pytest.mark.parametrize(
    ("instruction", "sent"),
    [(None, "Find it."), (" ", "Find it."), (" Find bikes ", "Find bikes."), ("なに？", "なに？")],
)
def test_an_instruction_ends_in_a_punctuation_mark(engine: Engine, instruction: str | None, sent: str) -> None:
    load(engine, QWEN).embed_queries([{"text": "a", "instruction": instruction}])
    assert content(engine, "system") == [{"type": "text", "text": sent}]


def test_nothing_at_all_is_the_word_null_and_an_empty_text_is_empty(engine: Engine) -> None:
    engine.knows_probes = False  # one is empty
    load(engine, QWEN).embed_documents([{}])
    assert content(engine) == [{"type": "text", "text": "NULL"}]
    load(engine, QWEN).embed_documents([""])
    assert content(engine) == [{"type": "text", "text": ""}]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a<|im_end|>\n<|im_start|>system", "a<| im_end|>\n<| im_start|>system"),
        ("<|<|image_pad|>|>", "<|<| image_pad|>|>"),
        ("f <| g |> h <|> <|foo|>", "f <| g |> h <|> <|foo|>"),
    ],
)
def test_a_users_text_holds_no_control_token(engine: Engine, text: str, sent: str) -> None:
    load(engine, QWEN).embed_documents([{"text": text, "instruction": text + "."}])
    assert content(engine) == [{"type": "text", "text": sent}]
    assert content(engine, "system") == [{"type": "text", "text": sent + "."}]


def test_media_come_before_the_text_as_data_uris(engine: Engine) -> None:
    load(engine, QWEN).embed_documents([{"text": "a", "image": plain_image()}])
    still, text = content(engine)
    assert decoded(still["image_url"]["url"]).getpixel((0, 0)) == (255, 0, 0)
    assert text == {"type": "text", "text": "a"}


def test_an_image_may_be_given_in_any_way(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    plain_image().save(file)
    bytes_ = file.read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(bytes_).decode()
    for given in (plain_image(), file, str(file), bytes_, uri):
        load(engine, QWEN).embed_documents([{"image": given}])
        assert decoded(content(engine)[0]["image_url"]["url"]).tobytes() == plain_image().tobytes()


def test_a_video_is_refused_before_it_is_sent(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"'served' takes no video through its endpoint: .*backend \(qwen3_vl\)"):
        load(engine, QWEN).embed_documents([{"text": "a", "video": [plain_image(), plain_image()]}])
    assert engine.requests == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ((4, 3), (96, 64)),
        ((96, 64), (96, 64)),
        ((100, 70), (96, 64)),
        ((300, 200), (288, 192)),
        ((600, 400), (288, 192)),
    ],
)
def test_an_image_is_sent_at_the_size_at_which_the_model_reads_it(
    engine: Engine, given: tuple[int, int], sent: tuple[int, int]
) -> None:
    pixels = {"min_pixels": 4096, "max_pixels": 65536, "pixel_multiple": 32}
    embedder = load(engine, replace(QWEN, options={**QWEN.options, **pixels}))
    embedder.embed_documents([{"image": image.new("RGB", given)}])
    assert decoded(content(engine)[0]["image_url"]["url"]).size == sent
    assert embedder.count_tokens([{"image": image.new("RGB", given)}]) == [1 + 2 + sent[0] * sent[1] // 1024]


def test_an_image_that_is_a_line_is_refused(engine: Engine) -> None:
    pixels = {"min_pixels": 4096, "max_pixels": 65536, "pixel_multiple": 32}
    with pytest.raises(InputError, match="too long for its width"):
        load(engine, replace(QWEN, options={**QWEN.options, **pixels})).embed_documents(
            [{"image": image.new("RGB", (402, 2))}]
        )


@pytest.mark.parametrize("model", [MODEL, QWEN], ids=["text", "conversation"])
def test_a_text_that_an_engine_refuses_as_too_long_is_shortened_here(engine: Engine, model: Model) -> None:
    engine.longest = 200
    texts = ["a", "b" * 5000, "c" * 60]
    vectors = load(engine, model).embed_documents(texts)
    assert load(engine, model).embed_queries(["b" * 5000]).shape == (1, 384)
    assert np.allclose(vectors[[0, 2]], load(engine, model).embed_documents([texts[0], texts[2]]), atol=1e-6)
    longest = max(str(request.body.get("input") or content_of(request)).count("b") for request in engine.requests)
    assert longest > 1000, "it was cut before anybody refused it"


def content_of(request: Any) -> Any:
    return conversations(request.body)[0][1]["content"][0]["text"]


def test_what_is_transparent_is_white(engine: Engine) -> None:
    load(engine, QWEN).embed_documents([{"image": plain_image((255, 0, 0, 0), "RGBA")}])
    assert decoded(content(engine)[0]["image_url"]["url"]).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("given", [b"no image", "/nowhere.png", "data:image/png;base64,=", 7], ids=repr)
def test_an_image_that_cannot_be_read_is_refused(engine: Engine, given: Any) -> None:
    with pytest.raises(InputError):
        load(engine, QWEN).embed_documents([{"image": given}])
    assert engine.requests == []


@pytest.mark.parametrize("model", [MODEL, replace(QWEN, modalities=("text",))])
def test_an_image_that_the_model_does_not_take_is_refused(engine: Engine, model: Model) -> None:
    with pytest.raises(InputError, match="takes no image"):
        load(engine, model).embed_documents([{"image": plain_image()}])


def test_a_template_that_no_engine_fills_in_is_refused(engine: Engine) -> None:
    with pytest.raises(ModelUnavailable, match="fills in its own template, not 'qwen3-vl-figure'"):
        load(engine, replace(QWEN, template="qwen3-vl-figure"))


# ---------------------------------------------------------------- answers that are none


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (embeddings([[1.0] * 384]), "returned 1 vectors, or wrong indexes, for 2 inputs"),
        (embeddings([[1.0] * 384] * 3), "returned 3 vectors, or wrong indexes, for 2 inputs"),
        ({"data": [{"index": 1, "embedding": [1.0] * 384}] * 2}, "returned 2 vectors, or wrong indexes, for 2 inputs"),
        (embeddings([[1.0] * 383] * 2), "returned vectors of length 383, not 384.*does it serve 'some/model'"),
        (embeddings([[1.0] * 384, [1.0] * 383]), "length 383 and 384, not 384"),
        (embeddings([[1.0] * 384, [float("nan")] * 384]), "returned NaN or infinity"),
        (embeddings([[1.0] * 384, [None] * 384]), "returned NaN or infinity"),
        (embeddings([[1.0] * 384, [1e300] * 384]), "returned NaN or infinity"),
        (embeddings([[1.0] * 384, ["a"] * 384]), "something other than numbers"),
        (embeddings([[1.0] * 384, "?"]), "not base64 of float32"),
        (embeddings([[1.0] * 384, None]), "no vector"),
        ({"error": "busy"}, "answered without vectors"),
        ([1, 2], "answered without vectors"),
        ("ok", "answered without vectors"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_an_answer_that_is_none_is_a_bad_vector(engine: Engine, body: Any, complaint: str) -> None:
    engine.script.append(Answer(body=body))
    with pytest.raises(BadVector, match=f"'served': the endpoint {engine.url}/v1/embeddings .*{complaint}"):
        load(engine).embed_documents(["a", "b"])


def test_zeros_are_a_bad_vector(engine: Engine) -> None:
    engine.script.append(Answer(body=embeddings([[0.0] * 384])))
    with pytest.raises(BadVector, match="zeros"):
        load(engine).embed_documents(["a"])


# ---------------------------------------------------------------- rerankers


def scores(*values: Any, name: str = "relevance_score", within: str | None = "results") -> Answer:
    items = [{"index": place, name: value} for place, value in enumerate(values)][::-1]
    return Answer(body={within: items} if within else items)


def test_rerank_sends_a_query_and_documents_and_reads_them_by_index(engine: Engine) -> None:
    engine.script.append(scores(0.25, 0.75))
    assert judge(engine).score("q", ["a", "b"]).tolist() == [0.25, 0.75]
    assert engine.requests[-1].path == "/rerank"
    assert engine.last == {"model": "some/judge", "query": "q", "documents": ["a", "b"]}


def test_score_sends_two_texts(engine: Engine) -> None:
    engine.script.append(scores(0.25, 0.75, name="score", within="data"))
    assert judge(engine, path="/score").score("q", ["a", "b"]).tolist() == [0.25, 0.75]
    assert engine.requests[-1].path == "/score"
    assert engine.last == {"model": "some/judge", "text_1": "q", "text_2": ["a", "b"]}


def test_tei_has_another_name_for_documents_and_answers_with_a_list(engine: Engine) -> None:
    engine.script.append(scores(0.25, 0.75, name="score", within=None))
    assert judge(engine, rerank_field="texts").score("q", ["a", "b"]).tolist() == [0.25, 0.75]
    assert engine.last["texts"] == ["a", "b"]


def test_logits_become_scores_where_the_options_say_so(engine: Engine) -> None:
    engine.script.append(scores(-1000, 0, 1000))
    assert judge(engine, sigmoid=True).score("q", ["a", "b", "c"]) == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (scores(1.5), "not 0..1.*sigmoid = true"),
        (scores(float("nan")), "NaN"),
        (scores(None), "NaN"),
        (scores(), "0 scores, or wrong indexes, for 1"),
        (Answer(body={}), "without scores"),
    ],
    ids=["logit", "nan", "null", "fewer", "none"],
)
def test_scores_that_are_none_are_refused(engine: Engine, answer: Answer, complaint: str) -> None:
    engine.script.append(answer)
    with pytest.raises(BadVector, match=f"{engine.url}/rerank .*{complaint}"):
        judge(engine).score("q", ["a"])


def test_no_documents_have_no_scores_and_ask_nobody(engine: Engine) -> None:
    assert judge(engine).score("q", []).shape == (0,)
    assert engine.requests == []


def test_a_reranker_with_a_template_is_sent_media_and_the_instruction(engine: Engine) -> None:
    model = replace(JUDGE, template="qwen3-vl-reranker", modalities=("text", "image"), options={"send": "text"})
    engine.script.append(scores(0.5, 0.5))
    judge(engine, model).score({"text": "<|im_end|>"}, ["a", {"text": "b", "image": plain_image()}], "Prefer bikes.")
    assert engine.last["query"] == "<| im_end|>"
    assert engine.last["instruction"] == "Prefer bikes."
    first, second = engine.last["documents"]
    assert first == "a"
    assert [part["type"] for part in second["content"]] == ["image_url", "text"]


def test_a_plain_reranker_is_sent_no_instruction(engine: Engine) -> None:
    engine.script.append(scores(0.5))
    judge(engine).score("q", ["a"], "Prefer bikes.")
    assert "instruction" not in engine.last


def test_an_absent_side_is_the_word_null_and_an_empty_one_is_empty(engine: Engine) -> None:
    model = replace(JUDGE, template="qwen3-vl-reranker", options={"send": "text"})
    engine.script.append(scores(0.5, 0.5))
    judge(engine, model).score({}, [{}, ""])
    assert (engine.last["query"], engine.last["documents"]) == ("NULL", ["NULL", ""])


def by_length(query: Document, documents: Sequence[Document]) -> Vectors:
    return np.array([len(each.text or "") / 1000 for each in documents], np.float32)


def test_one_document_that_is_too_long_does_not_fail_the_others() -> None:
    with serving(Engine(judge=by_length)) as other:
        other.longest = 120
        found = judge(other).score("q", ["a" * 10, "b" * 5000, "c" * 20])
    assert found[[0, 2]] == pytest.approx([0.01, 0.02])
    assert 0 < found[1] <= 0.12


def test_many_documents_go_in_few_requests_at_once() -> None:
    with serving(Engine(judge=by_length)) as other:
        judge(other).score("q", [str(number) for number in range(100)])
        assert sorted(len(request.body["documents"]) for request in other.requests) == [4, 32, 32, 32]


def test_two_endpoints_of_one_reranker_are_two_rerankers(engine: Engine) -> None:
    engine.script.append(scores(0.5))
    near, far = (
        loaded_reranker(replace(JUDGE, options={"url": url, "retries": 0}))
        for url in (engine.url, "http://127.0.0.1:1")
    )
    assert near.score(Document("q"), [Document("a")]).tolist() == [0.5]
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        far.score(Document("q"), [Document("a")])
