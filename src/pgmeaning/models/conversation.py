"""Conversations that an engine fills into a model's own template, and the images in them.

A user's text stays text: an engine reads `<|im_end|>` in a message as the control token, so that is sent as
`<| im_end|>`. Where a text must arrive as it is, it goes as token ids: see `token_ids`.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pgmeaning.errors import InputError
from pgmeaning.media import image_size, read_image
from pgmeaning.models.data_uri import image_uri
from pgmeaning.models.text import checked_text, instruction, shortened
from pgmeaning.types import Document, Model

Body = dict[str, Any]

# What the tokenizers of Qwen's models read as one token; `<|anything|>` else is text to them, too.
CONTROL = re.compile(
    r"<\|(?=(?:endoftext|im_start|im_end|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end"
    r"|vision_start|vision_end|vision_pad|image_pad|video_pad)\|>)"
)
TOKENS_PER_IMAGE = 1024  # a guess where the options do not say how images are cut up
OVERHEAD = 24  # tokens of a template around the instruction and the content
STRETCH = 200  # an image may be so many times as long as wide


def conversation(model: Model, document: Document, prompt: str | None) -> list[Body]:
    """The messages that vLLM turns into the sequence that a Qwen3-VL-Embedding model was trained on."""
    system = harmless(checked_text(instruction(document.instruction, prompt or "")))
    return [
        {"role": "system", "content": [_text(system)]},
        {"role": "user", "content": parts_of(model, document)},
        {"role": "assistant", "content": [_text("")]},
    ]


def parts_of(model: Model, document: Document) -> list[Body]:
    """Images, then text, in the order of the model's training; an empty document is the word NULL."""
    parts = [{"type": "image_url", "image_url": {"url": _uri(model, image)}} for image in document.images]
    if document.text is not None:
        parts.append(_text(sendable(model, document.text)))
    return parts or [_text("NULL")]


def sendable(model: Model, text: str) -> str:
    """A user's text without control tokens, as far as the model could possibly read it."""
    return harmless(checked_text(shortened(text, model.max_tokens)))


def harmless(text: str) -> str:
    """The text with `<|im_end|>` as `<| im_end|>`, which no tokenizer reads as a control token."""
    return CONTROL.sub("<| ", text)


def check_media(model: Model, document: Document) -> None:
    """Raise InputError for an image or video that the model does not take through an endpoint."""
    if document.videos:
        raise InputError(
            f"model {model.name!r} takes no video through its endpoint: an engine cuts it into other frames, and its "
            "vector could not be compared",
            hint="embed videos with the local backend (qwen3_vl), or give single frames as images",
        )
    if document.images and ("image" not in model.modalities or not model.template):
        raise InputError(
            f"model {model.name!r} takes no image through its endpoint", hint="a Qwen3-VL model on vLLM does"
        )


def image_tokens(model: Model, document: Document) -> int:
    """How many tokens its images take, markers included: exact where the options say how they are cut up."""
    return sum(_tokens_of(model, image) for image in document.images)


def fitting_size(width: int, height: int, multiple: int, least: int, most: int) -> tuple[int, int]:
    """(width, height): the nearest multiples with a number of pixels within the bounds, the proportions kept.

    Raises InputError for an image that is hundreds of times as long as wide.
    """
    if max(width, height) > STRETCH * min(width, height):
        raise InputError(f"an image of {width} x {height} cannot be embedded: it is too long for its width")
    wide, high = (max(multiple, round(side / multiple) * multiple) for side in (width, height))
    if wide * high > most:
        shrunk = math.sqrt(width * height / most)
        return _fewer(width / shrunk, multiple), _fewer(height / shrunk, multiple)
    if wide * high < least:
        grown = math.sqrt(least / (width * height))
        return math.ceil(width * grown / multiple) * multiple, math.ceil(height * grown / multiple) * multiple
    return wide, high


def _fewer(side: float, multiple: int) -> int:
    return max(multiple, math.floor(side / multiple) * multiple)


def _size_in_model(model: Model, width: int, height: int) -> tuple[int, int] | None:
    """The size at which the model reads an image; None if its options do not say."""
    named = (model.options.get(name) for name in ("pixel_multiple", "min_pixels", "max_pixels"))
    bounds = [int(value) for value in named if value is not None]
    return fitting_size(width, height, *bounds) if len(bounds) == 3 else None


def _tokens_of(model: Model, image: Any) -> int:
    try:
        size = _size_in_model(model, *image_size(image))
    except InputError:  # embedding it will say what is wrong
        size = None
    if size is None:
        return TOKENS_PER_IMAGE
    return 2 + size[0] * size[1] // int(model.options["pixel_multiple"]) ** 2


def _uri(model: Model, image: Any) -> str:
    """At the size at which the model reads it, so that an engine has nothing to resize in a way of its own."""
    read = read_image(image)
    size = _size_in_model(model, read.width, read.height)
    return image_uri(read if size is None or size == read.size else read.resize(size))


def _text(text: str) -> Body:
    return {"type": "text", "text": text}
