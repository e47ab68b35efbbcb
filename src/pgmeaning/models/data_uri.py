"""Pictures and videos as data URIs, the form in which an endpoint takes them."""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from pgmeaning.errors import InputError


def picture_uri(source: Any) -> str:
    """A picture (PIL image, path, bytes, data URI) as a PNG's data URI; raises InputError where it cannot be read."""
    buffer = BytesIO()
    # Lossless: a JPEG of a JPEG has another vector. Level 1: the network is faster than level 6.
    _on_white(_read(source)).save(buffer, "PNG", compress_level=1)
    return _uri("image/png", buffer.getvalue())


def video_uri(source: Any) -> str:
    """A video as a data URI: a file's content, or frames, which vLLM takes as JPEGs with commas between them."""
    if isinstance(source, list | tuple):
        return "data:video/jpeg;base64," + ",".join(_jpeg(frame) for frame in source)
    if isinstance(source, str) and source.startswith("data:video/"):
        return source
    return _uri("video/mp4", _content(source, "video"))


def _read(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    try:
        picture = Image.open(BytesIO(_content(source, "picture")))
        picture.load()
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"the picture cannot be read: {error}", hint="give a PNG, JPEG or WebP") from None
    return picture


def _content(source: Any, kind: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    try:
        if isinstance(source, str) and source.startswith("data:"):
            return base64.b64decode(source.partition(",")[2], validate=True)
        if isinstance(source, str | Path):
            return Path(source).read_bytes()
    except (OSError, ValueError, binascii.Error) as error:
        raise InputError(f"the {kind} cannot be read: {error}") from None
    raise InputError(f"a {kind} of type {type(source).__name__} cannot be read", hint="give a path or its bytes")


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    page = Image.new("RGB", layer.size, "white")
    page.paste(layer, mask=layer.getchannel("A"))
    return page


def _jpeg(frame: Any) -> str:
    buffer = BytesIO()
    _on_white(_read(frame)).save(buffer, "JPEG", quality=95)
    return base64.b64encode(buffer.getvalue()).decode()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
