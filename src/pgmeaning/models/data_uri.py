"""Encodes images and videos as data URIs, the form in which endpoints take them."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

from pgmeaning.media import Video, fetch_video, read_image


def image_uri(source: Any) -> str:
    """An image, in any form that `read_image` takes, as a PNG data URI; raises InputError if it cannot be read."""
    # Lossless: a JPEG of a JPEG has a different vector. Level 1: level 6 takes longer than the network.
    return f"data:image/png;base64,{_encoded(source, 'PNG', compress_level=1)}"


def video_uri(source: Any) -> str:
    """A video as a data URI: the file as it is; images as JPEGs with commas between them, as vLLM takes frames."""
    if isinstance(source, Video):
        source = source.frames
    if isinstance(source, list | tuple):
        return "data:video/jpeg;base64," + ",".join(_encoded(frame, "JPEG", quality=95) for frame in source)
    file = fetch_video(source)
    assert isinstance(file, bytes)  # only frames are several
    return f"data:video/mp4;base64,{base64.b64encode(file).decode()}"


def _encoded(source: Any, kind: str, **options: int) -> str:
    buffer = BytesIO()
    read_image(source).save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()
