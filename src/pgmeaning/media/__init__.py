"""Reads images and videos from bytes, data URIs, files and URLs, with guards against input of unknown origin.

    read_image, image_size, read_video     decoded, for a model
    fetch_media, fetch_image, fetch_video  still encoded but checked, for the sidecar to keep until its batch runs

Anything wrong with an input raises InputError. Pillow, PyAV and httpx are imported on first use.
"""

from __future__ import annotations

from pgmeaning.media.fetch import fetch_media
from pgmeaning.media.images import fetch_image, image_size, read_image
from pgmeaning.media.policy import TRUSTED, Policy
from pgmeaning.media.videos import Video, fetch_video, read_video

__all__ = [
    "TRUSTED",
    "Policy",
    "Video",
    "fetch_image",
    "fetch_media",
    "fetch_video",
    "image_size",
    "read_image",
    "read_video",
]
