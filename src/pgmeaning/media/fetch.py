"""Fetches the images and videos that a document names, as checked bytes, still encoded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgmeaning.errors import InputError
from pgmeaning.media.images import fetch_image
from pgmeaning.media.pixels import Pixels
from pgmeaning.media.policy import Policy
from pgmeaning.media.videos import fetch_video
from pgmeaning.types import Document

# Per row. A model reads a few at full size; more than this is a mistake or an attack.
MEDIA_PER_ROW = 32


def fetch_media(document: Document, policy: Policy) -> Document:
    """The document with the bytes of its images and videos; raises InputError."""
    count = len(document.images) + len(document.videos)
    if count > MEDIA_PER_ROW:
        raise InputError(f"the row has {count} images and videos, more than the {MEDIA_PER_ROW} allowed")
    pixels = Pixels(policy)
    images: tuple[Any, ...] = tuple(fetch_image(image, policy, pixels) for image in document.images)
    videos: tuple[Any, ...] = tuple(fetch_video(video, policy, pixels) for video in document.videos)
    return replace(document, images=images, videos=videos)
