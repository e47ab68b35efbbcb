"""CLIP, on tiny random weights: texts and images in one space, normalised by us since the model does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgmeaning.errors import InputError
from pgmeaning.models import load_embedder
from pgmeaning.models.base import LoadedEmbedder
from pgmeaning.models.conformance import EMBEDDER_CHECKS
from pgmeaning.models.registry import builtin_model
from pgmeaning.models.vectors import Vectors
from tests.needs import needs_package

torch = needs_package("torch", "local")
transformers = needs_package("transformers", "local")
library = needs_package("sentence_transformers", "local")
image = needs_package("PIL.Image", "media")

pytestmark = pytest.mark.local_model

LAYERS = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "initializer_range": 0.5,
}  # fmt: skip
CHARACTERS = [chr(place) for place in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]


def processor(where: Path) -> Any:
    """CLIP's tokenizer with a word piece for each byte, and its way with images at 32 pixels."""
    words = [*CHARACTERS, *(character + "</w>" for character in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    (where / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (where / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(where / "vocab.json"), str(where / "merges.txt"))
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return transformers.CLIPProcessor(images, tokenizer)


def checkpoint(where: Path) -> None:
    """A CLIP as transformers publishes it."""
    made = processor(where)
    ids = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    config = transformers.CLIPConfig(
        text_config={**LAYERS, **ids, "vocab_size": 514, "max_position_embeddings": 77},
        vision_config={**LAYERS, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(where)
    made.save_pretrained(where)


@pytest.fixture(scope="module", params=["of transformers", "of sentence-transformers"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    plain = tmp_path_factory.mktemp("clip")
    checkpoint(plain)
    if request.param == "of transformers":
        return str(plain)
    saved = tmp_path_factory.mktemp("saved")
    library.SentenceTransformer(str(plain), device="cpu").save_pretrained(str(saved))
    return str(saved)


@pytest.fixture(scope="module")
def clip(folder: str) -> LoadedEmbedder:
    model = replace(builtin_model("clip-vit-large-patch14"), name="tiny-clip", dimensions=24)
    return load_embedder(model, location=folder, threads=1)


def photo(colour: str = "red") -> Any:
    return image.new("RGB", (40, 30), colour)


def png(image: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def unit(vector: Any) -> Vectors:
    numbers = np.asarray(vector, np.float32).ravel()
    return np.asarray(numbers / np.linalg.norm(numbers))


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_clip_conforms(clip: LoadedEmbedder, check: Callable[[LoadedEmbedder], None]) -> None:
    check(clip)


def test_texts_and_images_have_the_projections_of_the_model_itself(clip: LoadedEmbedder, folder: str) -> None:
    network = transformers.CLIPModel.from_pretrained(folder).eval()
    prepare = transformers.CLIPProcessor.from_pretrained(folder)
    with torch.inference_mode():
        read = network(**prepare(text=["a red bike"], images=[photo()], return_tensors="pt", padding=True))
    vectors = clip.embed_documents([{"text": "a red bike"}, {"image": photo()}])
    assert np.abs(vectors[0] - unit(read.text_embeds)).max() < 1e-5
    assert np.abs(vectors[1] - unit(read.image_embeds)).max() < 1e-5


def test_a_text_and_an_image_have_vectors_of_one_space(clip: LoadedEmbedder) -> None:
    text, image = clip.embed_documents(["red", {"image": photo()}])
    assert text.shape == image.shape == (24,)
    assert np.linalg.norm([text, image], axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_different_images_have_different_vectors(clip: LoadedEmbedder) -> None:
    vectors = clip.embed_documents([{"image": photo("red")}, {"image": photo("blue")}])
    assert vectors[0] @ vectors[1] < 0.999


def test_an_image_may_be_given_in_any_way(clip: LoadedEmbedder, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(png(photo()))
    expected = clip.embed_documents([{"image": photo()}])[0]
    for given in (file, str(file), png(photo())):
        assert np.abs(clip.embed_documents([{"image": given}])[0] - expected).max() < 1e-5


@pytest.mark.parametrize("given", [b"no image", png(photo())[:40], "/nowhere/image.png"], ids=["bytes", "cut", "path"])
def test_an_image_that_cannot_be_read_is_an_input_error(clip: LoadedEmbedder, given: Any) -> None:
    with pytest.raises(InputError, match=r"image"):
        clip.embed_documents([{"image": given}])


def test_several_images_have_their_mean(clip: LoadedEmbedder) -> None:
    red, blue = clip.embed_documents([{"image": photo("red")}, {"image": photo("blue")}])
    both = clip.embed_documents([{"image": [photo("red"), photo("blue")]}])[0]
    assert np.abs(both - unit(red + blue)).max() < 1e-5


def test_an_image_with_a_text_has_the_mean_of_the_two(clip: LoadedEmbedder) -> None:
    image, text = clip.embed_documents([{"image": photo()}, {"text": "a red bike"}])
    both = clip.embed_documents([{"image": photo(), "text": "a red bike"}])[0]
    assert np.abs(both - unit(image + text)).max() < 1e-5
